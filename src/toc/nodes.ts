import { S_IFDIR } from './tree.js';
import type { XattrSet } from './xattrs.js';

/** An inode while a tree is built. Hardlinks are several names for one. */
export class Leaf {
  mode = 0;
  uid = 0;
  gid = 0;
  size = 0;
  mtime = 0;
  mtimeNsec = 0;
  rdev = 0;
  /** A symlink's target, one character a byte. */
  target = '';
  firstChunk = 0;
  chunkCount = 0;
  xattrs: XattrSet | undefined = undefined;
  /** Names that lead here; counted, like the inode's number is given, when the tree is laid out. */
  nlink = 0;
  inode = -1;
}

export class Directory extends Leaf {
  readonly parent: Directory;
  /** By name, one character a byte. */
  readonly children = new Map<string, Leaf>();
  /** Names of the lower layers that this one removes. */
  whiteouts: Set<string> | undefined = undefined;
  /** Hides all that lower layers have at this place. */
  opaque = false;
  firstDirent = 0;
  direntCount = 0;

  /** Until an entry says otherwise: 0755, root's. Without a parent it is the root, and its own parent. */
  constructor(parent: Directory | undefined) {
    super();
    this.parent = parent ?? this;
    this.mode = S_IFDIR | 0o755;
  }
}
