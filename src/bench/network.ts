import { LazylayerError } from '../errors.js';
import { parseDuration } from './duration.js';

/** A network to imitate. */
export interface Network {
  /** Round trip in milliseconds. */
  readonly rttMs: number;
  /** Bytes in a millisecond, each direction, all connections together. */
  readonly bytesPerMs: number;
}

/** As fast as loopback is. */
export const unshaped: Network = { rttMs: 0, bytesPerMs: Infinity };

/** Bits a second, powers of 1000, as networks count. */
const rates: Readonly<Record<string, number>> = { kbit: 1e3, mbit: 1e6, gbit: 1e9 };

/**
 * Reads `RTT,RATE` such as `40ms,200mbit`; either may be left out (`40ms`, `200mbit`). Units are us, ms and s; kbit, mbit and gbit.
 * @throws INVALID_ARGUMENT
 */
export function parseNetwork(text: string): Network {
  const found: { rttMs?: number; bytesPerMs?: number } = {};
  for (const part of text.toLowerCase().split(',')) {
    const time = parseDuration(part.trim());
    const [, digits, unit] = /^(\d+(?:\.\d+)?)([a-z]+)$/.exec(part.trim()) ?? [];
    const value = Number(digits);
    if (time !== undefined && found.rttMs === undefined) found.rttMs = time;
    else if (unit !== undefined && Object.hasOwn(rates, unit) && found.bytesPerMs === undefined && value > 0)
      found.bytesPerMs = (value * rates[unit]) / 8 / 1000;
    else
      throw new LazylayerError(
        'INVALID_ARGUMENT',
        `network: expected RTT,RATE such as 40ms,200mbit (us, ms, s; kbit, mbit, gbit), found ${JSON.stringify(text)}`,
      );
  }
  return { ...unshaped, ...found };
}

/** The text that `parseNetwork` reads. */
export function formatNetwork({ rttMs, bytesPerMs }: Network): string {
  return bytesPerMs === Infinity ? `${rttMs}ms` : `${rttMs}ms,${(bytesPerMs * 8) / 1000}mbit`;
}
