import test from 'ava';
import fc from 'fast-check';
import { FormatError, LazylayerError } from '../errors.js';
import { collect, inPieces } from '../testing/image-bytes.js';
import { fileOf, type FileSpec } from '../testing/image-files.js';
import { buildTar } from '../testing/image.js';
import { parseTarHeader, TAR_BLOCK } from './header.js';
import { parsePax, type PaxAttributes } from './pax.js';
import { TarReader, type TarEntry } from './reader.js';
import { encodeTarHeader, TAR_END, tarPadding } from './writer.js';

async function readAll(tar: Uint8Array, pieceSize = 1000): Promise<{ entry: TarEntry; content: Buffer }[]> {
  const reader = new TarReader(inPieces(tar, pieceSize));
  const all = [];
  for await (const entry of reader) all.push({ entry, content: await collect(reader.payload()) });
  return all;
}

const zero = {
  name: Buffer.from('f'),
  type: 'reg',
  size: 0,
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtime: 0,
  mtimeNsec: 0,
} as const;
const plain = { ...zero, linkName: Buffer.alloc(0), devMajor: 0, devMinor: 0, xattrs: [] };

/** A header with some of its bytes replaced and its checksum made right again. */
function patched(changes: readonly (readonly [at: number, bytes: string])[], from = encodeTarHeader(plain)): Buffer {
  const block = Buffer.from(from);
  for (const [at, bytes] of changes) block.write(bytes, at, 'latin1');
  block.fill(0x20, 148, 156);
  block.write(
    block
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0') + '\0',
    148,
    'latin1',
  );
  return block;
}

/** An extended header of a type, with its payload. */
function extended(typeFlag: string, payload: string): Buffer {
  const size = Buffer.byteLength(payload, 'latin1');
  const header = patched([[156, typeFlag]], encodeTarHeader({ ...plain, size }));
  return Buffer.concat([header, Buffer.from(payload, 'latin1'), tarPadding(size)]);
}

const record = (text: string): string => {
  let length = text.length + 2;
  while (`${length} ${text}\n`.length !== length) length++;
  return `${length} ${text}\n`;
};

test('what the writer writes, the reader reads, whatever the pieces', async (t) => {
  const bytes = fc.uint8Array({ minLength: 1, maxLength: 300 }).map((b) => Buffer.from(b.map((x) => x || 1)));
  const spec: fc.Arbitrary<FileSpec> = fc.record({
    path: bytes,
    type: fc.constantFrom('reg', 'symlink', 'hardlink', 'char', 'fifo'),
    target: bytes,
    size: fc.integer({ min: 0, max: 2000 }),
    mode: fc.integer({ min: 0, max: 0o7777 }),
    uid: fc.integer({ min: 0, max: 0xffff_ffff }),
    gid: fc.integer({ min: 0, max: 0xffff_ffff }),
    mtime: fc.integer({ min: -1e12, max: 1e12 }),
    mtimeNsec: fc.integer({ min: 0, max: 999_999_999 }),
    devMajor: fc.integer({ min: 0, max: 4095 }),
    xattrs: fc.dictionary(fc.stringMatching(/^user\.[a-z]{1,9}$/), fc.uint8Array({ maxLength: 40 })),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(spec, { maxLength: 5 }), fc.integer({ min: 1, max: 3000 }), async (specs, pieceSize) => {
      const found = await readAll(buildTar(specs), pieceSize);
      t.is(found.length, specs.length);
      specs.forEach((wanted, i) => {
        const { entry, content } = fileOf(wanted);
        const { headerOffset, payloadOffset, ...read } = found[i].entry;
        if (read.type === 'dir') {
          t.is(entry.name.at(-1), 0x2f);
          return;
        }
        const isLink = entry.type === 'symlink' || entry.type === 'hardlink';
        const isDevice = entry.type === 'char';
        t.deepEqual(read, {
          ...entry,
          linkName: isLink ? entry.linkName : Buffer.alloc(0),
          devMajor: isDevice ? entry.devMajor : 0,
        });
        t.true(payloadOffset > headerOffset);
        if (entry.type === 'reg') t.deepEqual(found[i].content, Buffer.from(content));
      });
    }),
    { numRuns: 150 },
  );
});

test('payload that is not read is passed over; offsets are places in the archive', async (t) => {
  const tar = buildTar([
    { path: 'a', size: 700 },
    { path: 'b', content: 'hello' },
  ]);
  const reader = new TarReader(inPieces(tar, 333));
  t.is((await reader.next())?.payloadOffset, 512);
  const b = await reader.next();
  t.is(b?.headerOffset, 512 + 1024);
  t.is(tar.toString('latin1', b?.payloadOffset, (b?.payloadOffset ?? 0) + 5), 'hello');
  t.is(await reader.next(), undefined);
  t.is(await reader.next(), undefined);
  t.is(reader.position, tar.length);
});

test('GNU long names and links, base-256 numbers, prefixes, old archives', async (t) => {
  const long = 'd/'.repeat(90) + 'file';
  const tar = Buffer.concat([
    extended('L', `${long}\0`),
    extended('K', `${long}-target\0`),
    patched([[156, '2']]),
    patched([
      [108, '\x80\0\0\0\xff\xff\xff\xff'],
      [136, '\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe'],
    ]),
    patched([[345, 'some/prefix']]),
    patched([
      [0, 'old/'],
      [156, '\0'],
      [257, '\0\0\0\0\0\0\0\0'],
    ]),
    patched([
      [0, 'contiguous'],
      [156, '7'],
    ]),
    TAR_END,
  ]);
  const [link, big, prefixed, old, contiguous] = (await readAll(tar)).map(({ entry }) => entry);
  t.deepEqual([link.name.toString(), link.linkName.toString(), link.type], [long, `${long}-target`, 'symlink']);
  t.deepEqual([big.uid, big.mtime], [0xffff_ffff, -2]);
  t.is(prefixed.name.toString(), 'some/prefix/f');
  t.deepEqual([old.name.toString(), old.type], ['old/', 'dir']);
  t.is(contiguous.type, 'reg');
});

test('pax records: binary values, both forms of attributes, fractions, global ones and ones taken back', async (t) => {
  const tar = Buffer.concat([
    extended('g', record('uid=77') + record('comment=for all')),
    extended(
      'x',
      record('path=n\xe9w\nline') +
        record('mtime=-1.25') +
        record('hdrcharset=BINARY') +
        record('SCHILY.xattr.security.capability=\x01\0\n=\xff') +
        record(`LIBARCHIVE.xattr.user.a%3Db=${Buffer.from('value').toString('base64')}`),
    ),
    encodeTarHeader(plain),
    extended('x', record('uid=') + record('mtime=5.123456789999')),
    encodeTarHeader({ ...plain, uid: 3 }),
    TAR_END,
  ]);
  const [one, two] = (await readAll(tar)).map(({ entry }) => entry);
  t.is(one.name.toString('latin1'), 'n\xe9w\nline');
  t.deepEqual([one.uid, one.mtime, one.mtimeNsec], [77, -2, 750_000_000]);
  t.deepEqual(
    one.xattrs.map(({ name, value }) => [Buffer.from(name).toString(), Buffer.from(value).toString('latin1')]),
    [
      ['security.capability', '\x01\0\n=\xff'],
      ['user.a=b', 'value'],
    ],
  );
  t.deepEqual([two.uid, two.mtime, two.mtimeNsec], [3, 5, 123_456_789]);
});

test("attributes for all are one list for all, and an entry's own come before them", async (t) => {
  const tar = Buffer.concat([
    extended('g', record('SCHILY.xattr.user.a=all') + record('SCHILY.xattr.user.b=all')),
    encodeTarHeader(plain),
    extended('g', record('comment=nothing new')),
    encodeTarHeader(plain),
    encodeTarHeader(plain),
    extended('x', record('SCHILY.xattr.user.b=own') + record('path=own')),
    extended('g', record('SCHILY.xattr.user.b=later') + record('path=later')),
    encodeTarHeader(plain),
    TAR_END,
  ]);
  const entries = (await readAll(tar)).map(({ entry }) => entry);
  const shown = entries.map(({ xattrs }) => xattrs.map(({ name, value }) => `${String(name)}=${String(value)}`).join());
  t.deepEqual(shown, ['user.a=all,user.b=all', shown[0], shown[0], 'user.a=all,user.b=own']);
  t.is(entries[3].name.toString(), 'own');
  t.is(entries[1].xattrs, entries[2].xattrs);
});

test('the archive may end where an entry might begin; what follows the end is still consumed', async (t) => {
  const header = encodeTarHeader(plain);
  t.is((await readAll(Buffer.alloc(0))).length, 0);
  t.is((await readAll(header)).length, 1);
  t.is((await readAll(Buffer.concat([header, TAR_END.subarray(0, 512)]))).length, 1);
  const reader = new TarReader(inPieces(Buffer.concat([header, TAR_END, Buffer.alloc(5000, 'x')]), 999));
  for await (const _ of reader);
  t.is(reader.position, 512 + 1024 + 5000);
});

/** More than half of what extended headers may have. */
const HALF = record(`comment=${'c'.repeat(614_400)}`);

const refused: readonly [message: string, tar: Buffer][] = [
  ['tar at offset 0: expected 512 bytes of header, found the end after 100', Buffer.alloc(100, 'x')],
  [
    'tar at offset 812: expected 700 more bytes of payload, found the end',
    buildTar([{ path: 'a', size: 1000 }]).subarray(0, 812),
  ],
  [
    'tar header at offset 0: expected checksum 3811, as it says, found 3908',
    Buffer.from(encodeTarHeader(plain).map((byte, i) => (i === 1 ? 0x61 : byte))),
  ],
  ['tar header, size at offset 126: expected octal digits, found "00900000000\\u0000"', patched([[126, '9']])],
  ['tar header, size at offset 0: expected 0 to 9007199254740991, found -1', patched([[124, '\xff'.repeat(12)]])],
  [
    'tar header, size at offset 124: expected a number of at most 53 bits, found 4835703278458516698824704',
    patched([[124, '\x80\x04' + '\0'.repeat(10)]]),
  ],
  ['tar header, uid at offset 0: expected 0 to 4294967295, found -1', patched([[108, '\xff'.repeat(8)]])],
  [
    'tar, entry "f" at offset 0: expected a file, link, device, directory or fifo, found type "S"',
    patched([[156, 'S']]),
  ],
  [
    'pax record at offset 0: expected no sparse file: layers hold none, found GNU.sparse.major',
    extended('x', record('GNU.sparse.major=1')),
  ],
  [
    'pax record at offset 0: expected "length keyword=value" and a newline, found "999 path=x\\n"',
    extended('x', '999 path=x\n'),
  ],
  ['pax record, uid at offset 0: expected 0 to 4294967295, found "-1"', extended('x', record('uid=-1'))],
  ['pax record, mtime at offset 0: expected decimal seconds, found "soon"', extended('x', record('mtime=soon'))],
  [
    'tar, long name at offset 512: expected at most 1048576 bytes, found 2097152',
    patched([[156, 'L']], encodeTarHeader({ ...plain, size: 2_097_152 })),
  ],
  [
    'tar, pax header at offset 616960: expected at most 1048576 bytes, found 1228833',
    Buffer.concat([extended('x', HALF), extended('L', 'n'), extended('x', HALF)]),
  ],
  [
    'tar, global pax headers at offset 616960: expected at most 1048576 bytes, found 1228832',
    Buffer.concat([extended('g', HALF), encodeTarHeader(plain), encodeTarHeader(plain), extended('g', HALF)]),
  ],
  ['tar at offset 1024: expected the entry of an extended header, found the end', extended('L', 'name\0')],
  [
    'tar at offset 512: expected a second block of zeros, found other bytes',
    Buffer.concat([Buffer.alloc(512), encodeTarHeader(plain)]),
  ],
];
for (const [message, tar] of refused)
  test(`refuses: ${message}`, async (t) => {
    await t.throwsAsync(readAll(tar), { instanceOf: FormatError, message });
  });

test('signed checksums of old writers are accepted', (t) => {
  const block = patched([[0, '\xe9']]);
  const signed = block.reduce((sum, byte, i) => sum + (i >= 148 && i < 156 ? 0x20 : (byte << 24) >> 24), 0);
  block.write(signed.toString(8).padStart(6, '0'), 148, 'latin1');
  t.is(parseTarHeader(block, 0, 0)?.name.toString('latin1'), '\xe9');
});

test('no mutation of an archive brings more than an error of ours, nor a hang', async (t) => {
  const good = buildTar([
    { path: 'dir/' },
    { path: 'dir/'.repeat(40) + 'long', size: 600, uid: 4_000_000_000, xattrs: { 'user.a': 'b' }, mtimeNsec: 5 },
    { path: 'link', target: 'x'.repeat(120) },
  ]);
  const change = fc.record({ at: fc.nat(good.length - 1), byte: fc.nat(255) });
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 6 }), fc.nat(good.length), async (changes, cut) => {
      const bad = Buffer.from(good);
      for (const { at, byte } of changes) bad[at] = byte;
      const tar = cut % 3 === 0 ? bad.subarray(0, cut) : bad;
      try {
        for (const { entry, content } of await readAll(tar, 700)) t.is(content.length, entry.size);
      } catch (error) {
        if (!(error instanceof LazylayerError)) throw error;
      }
    }),
    { numRuns: 400 },
  );
  t.is(good.length % TAR_BLOCK, 0);
});

test('an extended header full of attributes is read in one pass', (t) => {
  const count = 6000;
  let compared = 0;
  const prototype = Buffer.prototype as Buffer;
  const { equals } = Object.getOwnPropertyDescriptors(prototype) as { equals: { value: Buffer['equals'] } };
  prototype.equals = function (other) {
    compared++;
    return equals.value.call(this, other);
  };
  const pax: PaxAttributes = {};
  try {
    const records = Array.from({ length: count }, (_, i) => record(`SCHILY.xattr.user.${i}=x`)).join('');
    parsePax(Buffer.from(records), 0, pax);
  } finally {
    prototype.equals = equals.value;
  }
  t.is([...pax.xattrs!.values()].length, count);
  t.true(compared < count);
});
