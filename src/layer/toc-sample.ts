import { digestOf } from '../digest/digester.js';
import type { Digest } from '../digest/digest.js';

const DIRECTORIES = 120;
const FILES_EACH = 10;
/** Members in the order in which writers write them. */
const MEMBERS = [
  ...['name', 'type', 'size', 'modtime', 'linkName', 'mode', 'uid', 'gid', 'devMajor', 'devMinor', 'xattrs'],
  ...['offset', 'chunkOffset', 'digest', 'chunkSize', 'chunkDigest'],
];

/**
 * A TOC as its writers write it: indented, without members that are zero, and with every kind of entry that layers of programs have, about
 * as often, since code that was compiled without having seen them is thrown away when it does. What is rare is left out where it would
 * make the code slower for all else: times and sizes beyond 31 bits.
 */
export function sampleToc(): { json: Buffer; facts: { tocDigest: Digest; contentEnd: number } } {
  const entries: object[] = [];
  const add = (entry: Readonly<Record<string, unknown>>) => {
    entries.push(Object.fromEntries(MEMBERS.filter((key) => key in entry).map((key) => [key, entry[key]])));
  };
  let offset = 85;
  const chunk = (compressed: number) => ({ offset: (offset += compressed), chunkDigest: digestOf(`${offset}`) });
  /** The one chunk of a file: both have the same digest. */
  const only = (compressed: number) => {
    const placed = chunk(compressed);
    return { ...placed, digest: placed.chunkDigest };
  };
  const empty = { digest: digestOf('') };
  const time = (i: number) => {
    const fraction = i % 40 === 0 ? '.25' : '';
    return `20${String(10 + (i % 17))}-0${1 + (i % 9)}-1${i % 10}T0${i % 10}:3${i % 10}:59${fraction}Z`;
  };
  add({ name: '.no.prefetch.landmark', type: 'reg', size: 1, ...only(0) });
  add({ name: 'bin', type: 'symlink', modtime: time(1), linkName: 'usr/bin', mode: 41471 });
  add({ name: 'dev/', type: 'dir', modtime: time(1), mode: 16877 });
  for (let i = 1; i < 8; i++)
    add({ name: `dev/tty${i}`, type: 'char', modtime: time(i), mode: 8630, devMajor: 4, devMinor: i });
  for (let i = 0; i < DIRECTORIES; i++) {
    const modtime = time(i);
    const directory = `usr/${i % 4 === 0 ? 'lib/x86_64-linux-gnu' : `share/doc/${i % 5}`}/part-${i}`;
    add({ name: `${directory}/`, type: 'dir', modtime, mode: 16877, ...(i % 30 === 0 && { gid: 50 }) });
    const file = (name: string, size: number) => ({ name: `${directory}/${name}`, type: 'reg', size, modtime });
    const mode = i % 4 === 0 ? 33261 : 33188;
    for (let k = 0; k < FILES_EACH; k++)
      add({
        ...file(k === 0 ? '.h' : `library-${k}.so.${i}`, 40 * (i + 1) * (k + 1) ** 2),
        mode,
        ...only(60 * (i + 1)),
      });
    add({ name: `${directory}/sub-${i}/`, type: 'dir', modtime, mode: 16877 });
    add({ ...file(`sub-${i}/above`, 9), mode, ...only(9) });
    add({ ...file('zz-after-it', 9), mode, ...only(9) });
    if (i % 3 === 0)
      add({
        name: `${directory}/link`,
        type: 'symlink',
        modtime,
        linkName: i % 2 === 0 ? `../part-${i}/library-1.so.${i}` : `/${directory}/library-1.so`,
        mode: 41471,
      });
    if (i % 10 !== 0) continue;
    const { size: _, ...nothing } = file('empty', 0);
    add({ ...nothing, mode, ...empty });
    const whole = digestOf(directory);
    add({ ...file('large', 9_000_000), mode, ...chunk(50), digest: whole, chunkSize: 4_194_304 });
    const further = { name: `${directory}/large`, type: 'chunk' };
    add({ ...further, ...chunk(900_000), chunkOffset: 4_194_304, chunkSize: 4_194_304 });
    add({ ...further, ...chunk(900_000), chunkOffset: 8_388_608 });
    if (i % 40 !== 0) continue;
    add({ name: `${directory}/hard & "fast"`, type: 'hardlink', modtime, linkName: `${directory}/.h`, mode: 33188 });
    const xattrs = { 'security.capability': 'AQAAAgAgAAAAAAAAAAAAAAAAAAA=' };
    add({ ...file('ping', 77), mode: 35309, uid: 1000, xattrs, ...only(50) });
    add({ name: `${directory}/.wh.gone`, type: 'reg', modtime, mode: 33188, ...empty });
    add({ name: `${directory}/sub-${i}/.wh..wh..opq`, type: 'reg', modtime, mode: 33188, ...empty });
  }
  return {
    json: Buffer.from(JSON.stringify({ version: 1, entries }, undefined, '\t')),
    facts: { tocDigest: digestOf('sample'), contentEnd: offset + 1_000_000 },
  };
}
