import type { EndSource } from '../estargz/open.js';
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

/** Counts what came ahead of a reader. */
export function countingEnd(end: EndSource | undefined, meter: Meter): EndSource | undefined {
  return (
    end &&
    (async (signal) => {
      const found = await end(signal);
      meter.requests++;
      meter.bytes += found?.bytes.byteLength ?? 0;
      return found;
    })
  );
}
