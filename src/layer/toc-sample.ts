import { digestOf } from '../digest/digester.js';
import type { Digest } from '../digest/digest.js';

const DIRECTORIES = 60;
const FILES_EACH = 7;

/**
 * A TOC as its writers write it: indented, without members that are zero, and with every kind of entry, name and number that layers of
 * programs have, since code that was compiled without having seen them is thrown away when it does.
 */
export function sampleToc(): { json: Buffer; facts: { tocDigest: Digest; contentEnd: number } } {
  const entries: object[] = [];
  let offset = 85;
  const chunk = (compressed: number) => ({ offset: (offset += compressed), chunkDigest: digestOf(`${offset}`) });
  entries.push({ name: '.no.prefetch.landmark', type: 'reg', size: 1, ...chunk(0), digest: digestOf('landmark') });
  entries.push({ name: 'bin', type: 'symlink', modtime: '2026-11-21T12:42:03Z', linkName: 'usr/bin', mode: 41471 });
  for (let i = 0; i < DIRECTORIES; i++) {
    const modtime = `20${String(10 + (i % 30))}-0${1 + (i % 9)}-1${i % 10}T0${i % 10}:3${i % 10}:59${i % 9 === 0 ? '.25' : ''}Z`;
    const directory = `usr/${i % 4 === 0 ? 'lib/x86_64-linux-gnu' : `share/doc/${i % 5}`}/part-${i}`;
    entries.push({ name: `${directory}/`, type: 'dir', modtime, mode: 16877, ...(i % 7 === 0 && { gid: 50 }) });
    for (let k = 0; k < FILES_EACH; k++) {
      const name = `${directory}/${k === 0 ? '.h' : `library-${k}.so.${i}`}`;
      const file = { name, type: 'reg', size: 40 * (i + 1) * (k + 1) ** 3, modtime, mode: 33188 };
      const first = chunk(k === 5 && i % 20 === 0 ? 2 ** 31 : 60 * (i + 1));
      if (k === 0 && i % 10 === 0) entries.push({ ...file, size: undefined });
      else if (k === 6) {
        const further = { name, type: 'chunk', chunkOffset: 4_194_304 };
        const whole = { size: 13_000_000 + i, digest: digestOf(name), chunkSize: 4_194_304 };
        entries.push({ ...file, ...whole, ...first });
        entries.push({ ...further, ...chunk(900_000), chunkSize: 4_194_304 });
        entries.push({ ...further, ...chunk(900_000), chunkOffset: 8_388_608 });
      } else entries.push({ ...file, ...first, digest: first.chunkDigest });
    }
    const link = { modtime, mode: 41471, name: `${directory}/link` };
    entries.push({ ...link, type: 'symlink', linkName: `../part-${i}/library-1.so.${i}` });
    if (i % 10 === 0) {
      entries.push({
        ...link,
        name: `${directory}/hard & "fast"`,
        type: 'hardlink',
        linkName: `${directory}/library-2.so.${i}`,
      });
      const xattrs = { 'security.capability': 'AQAAAgAgAAAAAAAAAAAAAAAAAAA=' };
      entries.push({
        ...link,
        name: `${directory}/ping`,
        type: 'reg',
        size: 77,
        mode: 35309,
        uid: 1000,
        xattrs,
        ...chunk(50),
      });
      entries.push({ ...link, name: `${directory}/null`, type: 'char', mode: 8630, devMajor: 1, devMinor: 3 });
    }
  }
  return {
    json: Buffer.from(JSON.stringify({ version: 1, entries }, undefined, '\t')),
    facts: { tocDigest: digestOf('sample'), contentEnd: offset + 1_000_000 },
  };
}
