import { daysSince1970 } from '../toc/time.js';

export interface Time {
  /** Whole seconds since 1970, rounded down. */
  readonly seconds: number;
  readonly nanoseconds: number;
}

const MINUS = 0x2d;
const COLON = 0x3a;

/**
 * An RFC 3339 time, as `2006-01-02T15:04:05.999999999+07:00`, in bytes [start, end); undefined for anything else. A fraction beyond
 * nanoseconds is cut off.
 */
export function parseRfc3339(bytes: Uint8Array, start = 0, end = bytes.length): Time | undefined {
  if (end - start < 20) return undefined;
  const date = bytes[start + 4] === MINUS && bytes[start + 7] === MINUS && (bytes[start + 10] | 0x20) === 0x74;
  if (!date || bytes[start + 13] !== COLON || bytes[start + 16] !== COLON) return undefined;
  const year = twoDigits(bytes, start) * 100 + twoDigits(bytes, start + 2);
  const month = twoDigits(bytes, start + 5);
  const day = twoDigits(bytes, start + 8);
  const hour = twoDigits(bytes, start + 11);
  const minute = twoDigits(bytes, start + 14);
  const second = twoDigits(bytes, start + 17);
  if (!(year >= 0 && month >= 1 && month <= 12 && day >= 1 && day <= 31)) return undefined;
  if (!(hour <= 23 && minute <= 59 && second <= 60)) return undefined;
  let at = start + 19;
  let nanoseconds = 0;
  if (bytes[at] === 0x2e) {
    const first = ++at;
    for (let unit = 100_000_000; at < end && bytes[at] >= 0x30 && bytes[at] <= 0x39; at++, unit = Math.floor(unit / 10))
      nanoseconds += (bytes[at] - 0x30) * unit;
    if (at === first) return undefined;
  }
  const offset = zoneOffset(bytes, at, end);
  const seconds = daysSince1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
  return Number.isNaN(seconds) ? undefined : { seconds, nanoseconds };
}

/** Seconds that `Z`, `+07:00` or `-07:00` is ahead of UTC; NaN for anything else. */
function zoneOffset(bytes: Uint8Array, at: number, end: number): number {
  const sign = bytes[at];
  if (end - at === 1) return (sign | 0x20) === 0x7a ? 0 : NaN;
  if (end - at !== 6 || (sign !== 0x2b && sign !== MINUS) || bytes[at + 3] !== COLON) return NaN;
  const hours = twoDigits(bytes, at + 1);
  const minutes = twoDigits(bytes, at + 4);
  return hours <= 23 && minutes <= 59 ? (hours * 60 + minutes) * (sign === MINUS ? -60 : 60) : NaN;
}

function twoDigits(bytes: Uint8Array, at: number): number {
  const tens = bytes[at] - 0x30;
  const ones = bytes[at + 1] - 0x30;
  return tens >= 0 && tens <= 9 && ones >= 0 && ones <= 9 ? tens * 10 + ones : NaN;
}

const EARLIEST = -62_167_219_200; // 0000-01-01T00:00:00Z
const LATEST = 253_402_300_799; // 9999-12-31T23:59:59Z

/** The same form, in UTC, with the fraction where there is one. A time outside years 0 to 9999 becomes the nearest that the form holds. */
export function formatRfc3339(time: Time): string {
  const seconds = Math.max(EARLIEST, Math.min(LATEST, time.seconds));
  const whole = new Date(seconds * 1000).toISOString().slice(0, 19);
  const fraction = time.nanoseconds === 0 ? '' : `.${String(time.nanoseconds).padStart(9, '0').replace(/0+$/, '')}`;
  return `${whole}${fraction}Z`;
}
