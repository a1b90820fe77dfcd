const units: Readonly<Record<string, number>> = { us: 0.001, ms: 1, s: 1000 };

/** `40ms`, `0.5s` or `500us` in milliseconds; undefined for any other text. */
export function parseDuration(text: string): number | undefined {
  const [, digits, unit] = /^(\d{1,15}(?:\.\d{1,15})?)(us|ms|s)$/.exec(text) ?? [];
  return digits === undefined ? undefined : Number(digits) * units[unit];
}

/** `1.4 ms` below 10 ms, whole milliseconds from there on. */
export function formatMilliseconds(ms: number): string {
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
