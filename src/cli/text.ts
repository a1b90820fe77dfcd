/** `1.4 MiB`: powers of 1024, three digits at most but for bytes. */
export function humanBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  while (unit + 1 < units.length && value >= (unit === 0 ? 1024 : 999.5)) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** `37%`, rounded down, so that 100% means all; of nothing, all is there. */
export function percent(part: number, whole: number): string {
  return `${whole === 0 ? 100 : Math.floor((part / whole) * 100)}%`;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** How long ago, in the largest unit that gives at least 1. */
export function age(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  for (const [unit, length] of [
    ['day', 86_400],
    ['hour', 3600],
    ['minute', 60],
  ] as const)
    if (seconds >= length) return `${plural(Math.floor(seconds / length), unit)} ago`;
  return `${plural(seconds, 'second')} ago`;
}

/** Enough of a digest to tell it from others: `sha256:0123456789ab`. */
export function shortDigest(digest: string): string {
  return digest.slice(0, 'sha256:'.length + 12);
}

export interface Column {
  readonly title?: string;
  readonly right?: boolean;
}

/** Lines of cells in columns, each as wide as its widest cell; the last column is not filled up. Without rows, the titles alone. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const titles = columns.some((c) => c.title !== undefined) ? [columns.map((c) => c.title ?? '')] : [];
  const all = [...titles, ...rows];
  const widths = columns.map((_, i) => all.reduce((width, row) => Math.max(width, row[i].length), 0));
  return all
    .map((row) => {
      const cells = row.map((cell, i) => (columns[i].right ? cell.padStart(widths[i]) : cell.padEnd(widths[i])));
      return `${cells.join('  ').trimEnd()}\n`;
    })
    .join('');
}
