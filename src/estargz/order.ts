import { normalizeName } from '../toc/names.js';
import type { EntryType } from '../toc/entry.js';

interface Named {
  readonly name: Buffer;
  readonly type: EntryType;
  readonly linkName: Buffer;
}

/**
 * The order in which a layer is written so that some of its files can be fetched first: those named in `first`, in that order, each
 * after the directories that it lies in and the file that it is a hardlink to; then the rest as it was. `landmark` is the
 * number of entries that stand before the prefetch landmark. A name that no entry has is passed over; where several have it,
 * the last one goes.
 */
export function prioritize<E extends Named>(
  entries: readonly E[],
  first: readonly (string | Buffer)[],
): { ordered: E[]; landmark: number } {
  const byPath = new Map(entries.map((entry) => [normalizeName(entry.name), entry]));
  const moved = new Set<E>();
  const move = (path: string): void => {
    const slash = path.lastIndexOf('/');
    if (slash > 0) move(path.slice(0, slash));
    const entry = byPath.get(path);
    if (entry === undefined || moved.has(entry)) return;
    if (entry.type === 'hardlink' && normalizeName(entry.linkName) !== path) move(normalizeName(entry.linkName));
    moved.add(entry);
  };
  for (const name of first) move(normalizeName(Buffer.from(name as string)));
  const landmark = moved.size;
  return { ordered: [...moved, ...entries.filter((entry) => !moved.has(entry))], landmark };
}
