import { FormatError } from '../errors.js';
import { MAX_CHUNK_BYTES, MAX_INNER_OFFSET, MAX_MEMBER_CHUNKS } from './entry.js';
import { ROOT, S_IFCHR, S_IFBLK, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, type Tree } from './tree.js';

/**
 * Holds every index of a tree against the section that it leads into, so that no lookup, listing or read of it can leave the
 * arrays, come by a directory twice, or go in circles, whatever the bytes are.
 * @throws FormatError
 */
export function checkTree(tree: Tree, what = 'tree'): void {
  const { counts, facts } = tree;
  const refuse = (expected: string, found: string): never => {
    throw new FormatError(what, { expected, found });
  };
  const within = (first: number, count: number, end: number, of: string): void => {
    if (first + count > end) refuse(`${of} below ${end}`, `${first} and ${count} more`);
  };
  if (counts.inodes === 0 || !tree.isDirectory(ROOT) || tree.extra[ROOT] !== ROOT) refuse('a root directory', 'none');
  for (const fact of [facts.prefetchBytes ?? 0, facts.contentEnd, facts.cacheBytes])
    if (!Number.isSafeInteger(fact) || fact < 0) refuse('facts that are whole numbers', `${fact}`);

  for (let dirent = 0; dirent < counts.dirents; dirent++) {
    within(tree.direntName[dirent], tree.direntNameBytes[dirent], counts.stringBytes, 'a name');
    const name = tree.name(dirent);
    if (name.byteLength === 0 || name.includes(0x2f)) refuse('a name without a slash', JSON.stringify(name.toString()));
  }
  // A directory's parent comes before it and lists it once: no circles. Inodes of other types may have several names.
  const listed = new Uint8Array(counts.inodes);
  listed[ROOT] = 1;
  for (let inode = 0; inode < counts.inodes; inode++) {
    const first = tree.first[inode];
    const count = tree.count[inode];
    switch (tree.mode[inode] & S_IFMT) {
      case S_IFDIR:
        within(first, count, counts.dirents, 'dirents');
        for (let dirent = first; dirent < first + count; dirent++) {
          const child = tree.direntInode[dirent];
          if (child >= counts.inodes) refuse(`an inode below ${counts.inodes}`, `${child}`);
          if (dirent > first && !isBefore(tree, dirent - 1, dirent)) refuse('sorted names', `dirent ${dirent}`);
          if (!tree.isDirectory(child)) continue;
          if (child <= inode || tree.extra[child] !== inode || listed[child] !== 0)
            refuse('each directory in its parent, once', `inode ${child} in ${inode}`);
          listed[child] = 1;
        }
        break;
      case S_IFREG:
        within(first, count, counts.chunks, 'chunks');
        checkFile(tree, inode, refuse);
        break;
      case S_IFLNK:
        within(first, count, counts.stringBytes, 'a target');
        break;
      case S_IFCHR:
      case S_IFBLK:
      case S_IFIFO:
        break;
      default:
        refuse('a known file type', `mode 0${tree.mode[inode].toString(8)}`);
    }
    checkXattrs(tree, tree.xattr[inode], within);
  }
  checkChunks(tree, refuse);
}

/** Whether two dirents are in the order that a lookup goes by. */
function isBefore(tree: Tree, a: number, b: number): boolean {
  const { strings, direntName, direntNameBytes } = tree;
  const [one, two] = [direntName[a], direntName[b]];
  return strings.compare(strings, two, two + direntNameBytes[b], one, one + direntNameBytes[a]) < 0;
}

type Refuse = (expected: string, found: string) => never;

/** A file's chunks lie together in the cache file and hold its size. */
function checkFile(tree: Tree, inode: number, refuse: Refuse): void {
  let bytes = 0;
  const first = tree.first[inode];
  for (let chunk = first; chunk < first + tree.count[inode]; chunk++) {
    if (tree.chunkCache[chunk] !== tree.chunkCache[first] + bytes)
      refuse("a file's chunks together in the cache", `inode ${inode}`);
    bytes += tree.chunkSize[chunk];
  }
  if (bytes !== tree.size[inode]) refuse(`${tree.size[inode]} bytes of chunks`, `${bytes} of inode ${inode}`);
}

function checkChunks(tree: Tree, refuse: Refuse): void {
  const { contentEnd, cacheBytes } = tree.facts;
  let before = 0;
  let ofMember = 0;
  let reach = 0;
  for (let chunk = 0; chunk < tree.counts.chunks; chunk++) {
    const offset = tree.chunkOffset[chunk];
    const cache = tree.chunkCache[chunk];
    if (!(Number.isSafeInteger(offset) && offset >= before && offset < contentEnd))
      refuse(`chunk ${chunk} between ${before} and ${contentEnd}`, `${offset}`);
    if (!(Number.isSafeInteger(cache) && cache >= 0 && cache + tree.chunkSize[chunk] <= cacheBytes))
      refuse(`a cache of ${cacheBytes} bytes`, `chunk ${chunk} at ${cache}`);
    const same = chunk > 0 && offset === before;
    ofMember = same ? ofMember + 1 : 1;
    if (ofMember > MAX_MEMBER_CHUNKS) refuse(`at most ${MAX_MEMBER_CHUNKS} chunks in one member`, 'more');
    const inner = tree.chunkInner[chunk];
    const size = tree.chunkSize[chunk];
    const least = same ? reach : 0;
    if (inner < least || inner > MAX_INNER_OFFSET || size > MAX_CHUNK_BYTES)
      refuse(
        `chunk ${chunk} at ${least} to ${MAX_INNER_OFFSET} of its member, of at most ${MAX_CHUNK_BYTES} bytes`,
        `${size} bytes at ${inner}`,
      );
    reach = inner + size;
    before = offset;
  }
}

function checkXattrs(
  tree: Tree,
  record: number,
  within: (first: number, count: number, end: number, of: string) => void,
): void {
  if (record === 0) return;
  const { xattrWords, stringBytes } = tree.counts;
  within(record, 1, xattrWords, 'xattrs');
  const count = tree.xattrs[record];
  within(record + 1, count * 4, xattrWords, 'xattrs');
  for (let word = record + 1; word < record + 1 + count * 4; word += 2)
    within(tree.xattrs[word], tree.xattrs[word + 1], stringBytes, 'an xattr');
}
