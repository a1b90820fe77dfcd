import { daysSince1970 } from '../toc/time.js';

export interface Time {
  /** Whole seconds since 1970, rounded down. */
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** An RFC 3339 time, as `2006-01-02T15:04:05.999999999+07:00`; undefined for anything else. A fraction beyond nanoseconds is cut off. */
export function parseRfc3339(text: Uint8Array): Time | undefined {
  const n = text.byteLength;
  if (n < 20) return undefined;
  const two = (at: number): number => {
    const [tens, ones] = [text[at] - 0x30, text[at + 1] - 0x30];
    return tens >= 0 && tens <= 9 && ones >= 0 && ones <= 9 ? tens * 10 + ones : NaN;
  };
  const is = (at: number, character: string): boolean => (text[at] & ~0x20) === (character.charCodeAt(0) & ~0x20);
  const exactly = (at: number, character: string): boolean => text[at] === character.charCodeAt(0);
  if (!exactly(4, '-') || !exactly(7, '-') || !is(10, 'T') || !exactly(13, ':') || !exactly(16, ':')) return undefined;
  const [year, month, day] = [two(0) * 100 + two(2), two(5), two(8)];
  const [hour, minute, second] = [two(11), two(14), two(17)];
  if (!(month >= 1 && month <= 12 && day >= 1 && day <= 31 && hour <= 23 && minute <= 59 && second <= 60))
    return undefined;
  if (Number.isNaN(year)) return undefined;
  let at = 19;
  let nanoseconds = 0;
  if (exactly(at, '.')) {
    const start = ++at;
    for (let unit = 100_000_000; text[at] >= 0x30 && text[at] <= 0x39; at++, unit = Math.floor(unit / 10))
      nanoseconds += (text[at] - 0x30) * unit;
    if (at === start) return undefined;
  }
  let offset = 0;
  if (is(at, 'Z')) {
    if (at + 1 !== n) return undefined;
  } else if ((exactly(at, '+') || exactly(at, '-')) && at + 6 === n && exactly(at + 3, ':')) {
    const [hours, minutes] = [two(at + 1), two(at + 4)];
    if (!(hours <= 23 && minutes <= 59)) return undefined;
    offset = (hours * 60 + minutes) * (exactly(at, '-') ? -60 : 60);
  } else return undefined;
  const seconds = daysSince1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
  return { seconds, nanoseconds };
}

/** The same form, in UTC, with the fraction where there is one. For years 0 to 9999, which is what the form holds. */
export function formatRfc3339(time: Time): string {
  const whole = new Date(time.seconds * 1000).toISOString().slice(0, 19);
  const fraction = time.nanoseconds === 0 ? '' : `.${String(time.nanoseconds).padStart(9, '0').replace(/0+$/, '')}`;
  return `${whole}${fraction}Z`;
}
