import { digestOf } from '../digest/digester.js';
import type { Digest } from '../digest/digest.js';

const FILES = 400;

/** A TOC as converters write them, with every kind of entry and number that a layer of programs has. */
export function sampleToc(): { json: Buffer; facts: { tocDigest: Digest; contentEnd: number } } {
  const digest = digestOf('');
  const common = { modtime: '2024-05-06T07:08:09Z', mode: 33188, uid: 0, gid: 0, userName: 'root', groupName: 'root' };
  const entries: object[] = [];
  let offset = 0;
  for (let i = 0; i < FILES; i++) {
    const directory = `usr/lib/x86_64-linux-gnu/part-${i >> 4}`;
    if (i % 16 === 0) entries.push({ name: `${directory}/`, type: 'dir', ...common, mode: 16877 });
    // Every so often beyond 32 bits, as in large layers.
    offset += i % 50 === 0 ? 2 ** 28 : 5000 + 7 * i;
    const name = `${directory}/lib${i}.so`;
    if (i % 9 === 0) entries.push({ name: `${name}.1`, type: 'symlink', linkName: `../lib${i}.so`, ...common });
    const size = i % 20 === 0 ? 9_000_000 : 3000 + i;
    const xattrs = i % 100 === 0 ? { 'security.capability': 'AQAAAgAgAAAAAAAAAAAAAAAAAAA=' } : undefined;
    const file = { name, type: 'reg', size, ...common, offset, digest, xattrs, chunkDigest: digest };
    if (i % 20 !== 0) entries.push(file);
    else {
      entries.push({ ...file, chunkSize: 4_194_304 });
      entries.push({
        name,
        type: 'chunk',
        offset: (offset += 4000),
        chunkOffset: 4_194_304,
        chunkSize: 4_805_696,
        chunkDigest: digest,
      });
    }
    if (i % 40 === 0) entries.push({ name: `${name}\u00e9 & more`, type: 'hardlink', linkName: name, ...common });
  }
  return {
    json: Buffer.from(JSON.stringify({ version: 1, entries })),
    facts: { tocDigest: digest, contentEnd: offset + 1_000_000 },
  };
}
