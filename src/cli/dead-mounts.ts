import { existsSync } from 'node:fs';
import { layoutOf } from '../daemon/layout.js';
import { overlaysAt } from '../mount/overlay.js';

/**
 * Takes away what a daemon that died left of its mounts, all of it, for none of it answers; nothing unless an
 * overlay is left at the target. Gives the mount points that are free now.
 */
export async function releaseDead(root: string, target: string): Promise<string[]> {
  if ((await overlaysAt(target)) === 0) return [];
  const { releaseStale } = await import('../mount/stale.js');
  const { lockRoot } = await import('../workspace/lock.js');
  const layout = layoutOf(root);
  if (!existsSync(layout.mounts)) return [];
  const lock = lockRoot(root);
  try {
    return await releaseStale(layout);
  } finally {
    lock.release();
  }
}
