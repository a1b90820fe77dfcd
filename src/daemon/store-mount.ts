import { join } from 'node:path';
import { runCommand } from '../util/command.js';
import { LAYERS } from '../fs/served-tree.js';
import { LazylayerError } from '../errors.js';
import { listMounts } from '../util/mountinfo.js';
import { unmount } from '../util/unmount.js';

/*
 * The FUSE mount is made writable, so that what a store's clients say by making and removing names reaches the server. Only the store's
 * mount point stays so: the daemon's own place and the layers are read-only binds, since a write to a layer's file would change what
 * the kernel has cached of it before the server can refuse.
 */

const layersOf = (mountPoint: string) => join(mountPoint, LAYERS);

/**
 * Shows the FUSE mount at the store's mount point; where a serving process that died did so already, nothing is left to do. The mount
 * must be served: mount(8) looks into it.
 * @throws BUSY where something else is mounted there
 */
export async function bindStore(fuse: string, mountPoint: string): Promise<void> {
  const mounts = await listMounts();
  const device = mounts.findLast((m) => m.target === fuse)?.device;
  const deviceAt = (target: string) => mounts.findLast((m) => m.target === target)?.device;
  const found = deviceAt(mountPoint);
  if (found !== undefined && found !== device)
    throw new LazylayerError('BUSY', `${mountPoint}: expected a directory for the layer store, found another mount`);
  if (found === undefined) await mount('--bind', fuse, mountPoint);
  await mount('-o', 'remount,bind,ro', fuse);
  const layers = layersOf(mountPoint);
  if (deviceAt(layers) === undefined) await mount('--bind', layers, layers);
  await mount('-o', 'remount,bind,ro', layers);
}

/** With the bind of the layers, out of sight now; containers that have layers from there keep them as long as they are served. */
export async function unbindStore(mountPoint: string): Promise<void> {
  await unmount(mountPoint, { lazy: true });
}

async function mount(...args: string[]): Promise<void> {
  await runCommand('mount', ['-i', ...args]);
}
