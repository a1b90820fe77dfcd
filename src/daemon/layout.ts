import { join } from 'node:path';

/** Where things are below one root. Everything is private to its owner: images may be private, and hold setuid programs. */
export function layoutOf(root: string) {
  return {
    root,
    control: join(root, 'control.sock'),
    log: join(root, 'daemon.log'),
    fuse: join(root, 'fuse'),
    whole: join(root, 'whole'),
    pool: join(root, 'pool'),
    mounts: join(root, 'mounts'),
    uppers: join(root, 'uppers'),
    empty: join(root, 'empty'),
    store: join(root, 'store'),
    snapshotter: join(root, 'snapshotter'),
  };
}

export type Layout = ReturnType<typeof layoutOf>;
