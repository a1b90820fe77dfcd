import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { releaseWholeMounts } from '../erofs/whole-mounts.js';
import { listMounts } from '../util/mountinfo.js';
import { unmount } from '../util/unmount.js';
import { isOurs } from './overlay.js';
import { readRecord } from './record.js';

/** What a daemon has below its root. */
export interface MountedBelow {
  readonly fuse: string;
  /** Directory of records of mounts by hand. */
  readonly mounts: string;
  readonly whole: string;
}

/**
 * Takes away what a daemon that died left mounted: the overlays that its records name, layers that the kernel reads by itself, then its FUSE
 * mount. That answers ENOTCONN by now, so it is detached whether it is busy or not. What is not ours, or covered by what is not, stays. Only for
 * the owner of the root's lock.
 * @returns the targets that were taken away
 */
export async function releaseStale({ fuse, mounts: records, whole }: MountedBelow): Promise<string[]> {
  const released: string[] = [];
  for (const name of await readdir(records).catch(() => [])) {
    const target = await readRecord(join(records, name))
      .then(({ request }) => request.target)
      .catch(() => undefined);
    const top = (await listMounts()).findLast((mount) => mount.target === target);
    if (target !== undefined && top !== undefined && isOurs(top)) {
      await unmount(target, { lazy: true });
      released.push(target);
    }
    await rm(join(records, name), { recursive: true, force: true });
  }
  released.push(...(await releaseWholeMounts(whole)));
  // The layer store shows the same mount at other places, made later: those go first, since nothing tells of them without it.
  const devices = new Set((await listMounts()).filter((m) => m.target === fuse).map((m) => m.device));
  const stale = (await listMounts()).filter((m) => devices.has(m.device)).map(({ target }) => target);
  for (const target of stale.filter((t) => !stale.some((above) => t.startsWith(`${above}/`))).reverse()) {
    // What is mounted below it goes along. By itself it could not: no name in a mount that nobody serves can be looked up.
    await unmount(target, { lazy: true });
    released.push(target);
  }
  return released;
}
