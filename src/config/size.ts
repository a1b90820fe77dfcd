const units: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** How `parseSize` wants it, for messages. */
export const sizeForm = 'a number of bytes, or a string such as "512MiB" or "20GB"';

/** Bytes of a size as people write it: `512MiB`, `1.5 GiB` (powers of 1024), `20GB` (powers of 1000), `4096`; else undefined. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d{1,16}(?:\.\d{1,9})?) ?([kKMGT]i?B|B)?$/.exec(text.trim());
  if (match === null) return undefined;
  const unit = match[2] ?? 'B';
  if (units[unit] === undefined) return undefined;
  const bytes = Math.round(Number(match[1]) * units[unit]);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** The shortest text that `parseSize` reads back as the same number of bytes. */
export function exactSize(bytes: number): string {
  for (const unit of ['TiB', 'GiB', 'MiB', 'KiB'])
    if (bytes > 0 && bytes % units[unit] === 0) return `${bytes / units[unit]}${unit}`;
  return `${bytes}B`;
}
