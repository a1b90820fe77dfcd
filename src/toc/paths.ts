import { ROOT, type Tree } from './tree.js';

/**
 * A path of each of these inodes from the layer's root on, as `/usr/bin/env`; of a file with several names, one of them. Bytes that are
 * no UTF-8 are replaced.
 */
export function pathsOf(tree: Tree, inodes: ReadonlySet<number>): Map<number, string> {
  const paths = new Map<number, string>();
  const directories = new Map<number, string>([[ROOT, '']]);
  const nameOf = (directory: number): string => {
    const known = directories.get(directory);
    if (known !== undefined) return known;
    const parent = tree.parent(directory);
    const path = `${nameOf(parent)}/${direntOf(tree, parent, directory)}`;
    directories.set(directory, path);
    return path;
  };
  for (let directory = 0; directory < tree.counts.inodes && paths.size < inodes.size; directory++) {
    if (!tree.isDirectory(directory)) continue;
    const end = tree.first[directory] + tree.count[directory];
    for (let dirent = tree.first[directory]; dirent < end; dirent++) {
      const inode = tree.direntInode[dirent];
      if (inodes.has(inode) && !paths.has(inode)) paths.set(inode, `${nameOf(directory)}/${String(tree.name(dirent))}`);
    }
  }
  return paths;
}

/** A name that a file or directory has, by the first entry that leads to it; empty for the root. */
export function nameOf(tree: Tree, inode: number): string {
  const dirent = tree.direntInode.indexOf(inode);
  return dirent < 0 ? '' : String(tree.name(dirent));
}

function direntOf(tree: Tree, directory: number, inode: number): string {
  const first = tree.first[directory];
  const at = tree.direntInode.subarray(first, first + tree.count[directory]).indexOf(inode);
  return String(tree.name(first + at));
}
