import type { RandomAccessReader } from '../io/reader.js';

export interface Meter {
  requests: number;
  bytes: number;
}

/** Counts what goes through a reader. Owns it. */
export function countingReader(reader: RandomAccessReader, meter: Meter): RandomAccessReader {
  return {
    size: reader.size,
    read(offset, length, options) {
      meter.requests++;
      meter.bytes += length;
      return reader.read(offset, length, options);
    },
    stream(offset, length, options) {
      meter.requests++;
      meter.bytes += length;
      return reader.stream(offset, length, options);
    },
    [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose](),
  };
}
