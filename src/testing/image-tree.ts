import type { Digest } from '../digest/digest.js';
import { digestOf } from '../digest/digester.js';
import { TreeBuilder } from '../toc/builder.js';
import type { TocChunk } from '../toc/entry.js';
import { NONE, ROOT, type Tree } from '../toc/tree.js';
import { fileOf, type FileSpec } from './image-files.js';
import { hexOf } from '../digest/digest.js';

/** The digest that trees made here name as their source. */
export const TREE_SOURCE: Digest = digestOf('source');

/** A tree of these files without any format between: each file's bytes follow the last one's, in chunks of `chunkSize`. */
export function treeOf(files: readonly FileSpec[], chunkSize = 4096): Tree {
  const builder = new TreeBuilder();
  let offset = 0;
  for (const spec of files) {
    const { entry, content } = fileOf(spec);
    const chunks: TocChunk[] = [];
    for (let at = 0; at < entry.size; at += chunkSize) {
      const bytes = content.subarray(at, at + chunkSize);
      chunks.push({
        offset: offset + at,
        innerOffset: 0,
        size: bytes.byteLength,
        digest: Buffer.from(hexOf(digestOf(bytes)), 'hex'),
      });
    }
    offset += entry.size;
    builder.add({ ...entry, chunks });
  }
  return builder.build({ source: TREE_SOURCE, contentEnd: offset });
}

/** The inode at a path below the root, without following symlinks; NONE where there is none. */
export function inodeAt(tree: Tree, path: string): number {
  let inode = ROOT;
  for (const name of path.split('/'))
    if (inode !== NONE && name !== '') inode = tree.lookup(inode, Buffer.from(name, 'latin1'));
  return inode;
}

/** All paths of a tree with what they are, in the order of a depth-first walk: `usr/bin 040755`. */
export function listTree(tree: Tree, directory = ROOT, prefix = ''): string[] {
  const lines: string[] = [];
  for (let dirent = tree.first[directory]; dirent < tree.first[directory] + tree.count[directory]; dirent++) {
    const inode = tree.direntInode[dirent];
    const path = prefix + tree.name(dirent).toString('latin1');
    lines.push(`${path} 0${tree.mode[inode].toString(8)}`);
    if (tree.isDirectory(inode)) lines.push(...listTree(tree, inode, `${path}/`));
  }
  return lines;
}

/** A cheap picture of everything that a tree shows, to hold two trees against each other: places in the blob and the cache left out. */
export function describeTree(tree: Tree): string[] {
  const describe = (path: string, inode: number): string => {
    const xattrs = [...tree.xattrsOf(inode)].map(
      ({ name, value }) => `${name.toString('latin1')}=${value.toString('hex')}`,
    );
    const chunks = tree.isRegular(inode)
      ? Array.from({ length: tree.count[inode] }, (_, i) => tree.chunkDigest(tree.first[inode] + i))
      : [];
    return [
      path,
      tree.mode[inode].toString(8),
      tree.uid[inode],
      tree.gid[inode],
      tree.size[inode],
      tree.nlink[inode],
      `${tree.mtime[inode]}.${tree.mtimeNsec[inode]}`,
      tree.isSymlink(inode) ? tree.target(inode).toString('latin1') : tree.rdev(inode),
      ...xattrs,
      ...chunks,
    ].join(' ');
  };
  const paths = ['', ...listTree(tree).map((line) => line.slice(0, line.lastIndexOf(' ')))];
  return paths.map((path) => describe(path, inodeAt(tree, path)));
}
