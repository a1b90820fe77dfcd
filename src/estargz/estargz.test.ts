import { randomBytes } from 'node:crypto';
import { gunzipSync, gzipSync } from 'node:zlib';
import test from 'ava';
import fc from 'fast-check';
import { digestOf } from '../digest/digester.js';
import { codeOf, FormatError, LazylayerError, VerificationError } from '../errors.js';
import type { RandomAccessReader } from '../io/reader.js';
import { BufferReader } from '../io/readers.js';
import { treeFromTar } from '../tar/tree.js';
import { collect, inPieces } from '../testing/image-bytes.js';
import { fileOf, seededBytes, type FileSpec } from '../testing/image-files.js';
import { describeTree, listTree } from '../testing/image-tree.js';
import { buildImage, buildLayer, buildTar, type LayerSpec } from '../testing/image.js';
import { annotationTocDigest } from './annotations.js';
import { encodeFooter, FOOTER_BYTES } from './footer.js';
import { MemberReader } from './member.js';
import { NotEstargzError, openToc, readEstargzTree, suffixBytes } from './open.js';
import { prioritize } from './order.js';
import { EstargzReader } from './reader.js';
import { verifyLayer } from './verifier.js';

const files: readonly FileSpec[] = [
  { path: './', mode: 0o711 },
  { path: 'usr/bin/tool', size: 20_000, mode: 0o4755, xattrs: { 'security.capability': Buffer.from([1, 0, 0, 2]) } },
  { path: 'usr/bin/alias', type: 'hardlink', target: 'usr/bin/tool' },
  { path: 'big', size: 100_000, seed: 7 },
  { path: 'etc/.wh.gone' },
  { path: 'opaque/.wh..wh..opq' },
  { path: 'link', target: 'usr/bin' },
  { path: 'null', type: 'char', devMajor: 1, devMinor: 3, mode: 0o666 },
  { path: 'pipe', type: 'fifo' },
  { path: 'empty', mtime: -3, mtimeNsec: 123_456_789 },
  { path: Buffer.from('bytes-\xff\xe9', 'latin1'), content: 'x', uid: 4_294_967_295, gid: 100_000 },
  { path: `${'long/'.repeat(40)}name`, content: 'y' },
];

class CountingReader extends BufferReader {
  readonly reads: [offset: number, length: number][] = [];
  override async read(offset: number, length: number): Promise<Uint8Array> {
    this.reads.push([offset, length]);
    return super.read(offset, length);
  }

  override stream(offset: number, length: number): AsyncGenerator<Uint8Array> {
    this.reads.push([offset, length]);
    return super.stream(offset, length);
  }
}

const layers: Readonly<Record<string, LayerSpec>> = {
  plain: { files },
  'many chunks': { files, writer: { chunkSize: 1000 } },
  'shared members': { files, writer: { chunkSize: 4000, minChunkSize: 50_000 } },
  'legacy footer': { files, writer: { footer: 'stargz' } },
  'external TOC': { files, writer: { footer: 'external' } },
  'prefetch landmark': { files, prefetch: 3 },
};

for (const [name, spec] of Object.entries(layers)) {
  const open = async () => {
    const layer = await buildLayer(spec);
    const { tocBlob } = layer;
    const externalToc = tocBlob === undefined ? undefined : async () => tocBlob;
    return { layer, options: { tocDigest: annotationTocDigest(layer.descriptor.annotations)!, externalToc } };
  };

  test(`${name}: one read opens it; the tree is the one that the tar inside stands for`, async (t) => {
    const { layer, options } = await open();
    const reader = new CountingReader(layer.bytes);
    const { tree, tocDigest, tocBytes } = await readEstargzTree(reader, options);
    t.is(reader.reads.length, 1);
    t.is(tocDigest, options.tocDigest);
    t.is(tree.facts.source, tocDigest);
    t.is(tree.facts.contentEnd, layer.bytes.length - tocBytes);
    const tar = gunzipSync(layer.bytes);
    t.is(digestOf(tar), layer.diffId);
    const fromTar = await treeFromTar(inPieces(tar, 65_536), { diffId: layer.diffId });
    const withoutDigests = (lines: string[]) => lines.map((line) => line.replace(/ sha256:.*/, ''));
    t.deepEqual(withoutDigests(describeTree(tree)), withoutDigests(describeTree(fromTar)));
    t.is(tree.facts.prefetchBytes !== undefined, spec.prefetch !== undefined);
  });

  test(`${name}: every chunk of the tree inflates from its member to what its digest names`, async (t) => {
    const { layer, options } = await open();
    const { tree } = await readEstargzTree(new BufferReader(layer.bytes), options);
    for (let chunk = 0; chunk < tree.counts.chunks; chunk++) {
      const out = Buffer.alloc(tree.chunkSize[chunk]);
      const member = layer.bytes.subarray(tree.chunkOffset[chunk], tree.chunkEnd(chunk));
      new MemberReader(member).read(tree.chunkInner[chunk], out.length, out, 0);
      t.is(digestOf(out), tree.chunkDigest(chunk));
    }
  });

  test(`${name}: entries come as written, and any range of a file reads right`, async (t) => {
    const { layer, options } = await open();
    await using reader = await EstargzReader.open(new BufferReader(layer.bytes), options);
    const wanted = files.map((spec) => fileOf(spec));
    for await (const entry of reader) {
      if (entry.name.includes('landmark')) continue;
      const { entry: written, content } = wanted.shift()!;
      t.deepEqual(entry.name, written.name);
      t.deepEqual(
        [entry.type, entry.mode, entry.uid, entry.mtime, entry.mtimeNsec],
        [written.type, written.mode, written.uid, written.mtime, written.mtimeNsec],
      );
      if (entry.type !== 'reg') continue;
      for (const [start, end] of [
        [0, entry.size],
        [entry.size >> 1, entry.size],
        [entry.size >> 2, (entry.size >> 2) + (entry.size >> 3)],
      ])
        t.true((await collect(reader.openReadStream(entry, { start, end }))).equals(content.subarray(start, end)));
    }
    t.is(wanted.length, 0);
  });

  test(`${name}: every claim holds`, async (t) => {
    const { layer, options } = await open();
    const claims = { ...options, digest: layer.descriptor.digest, diffId: layer.diffId };
    const result = await verifyLayer(new BufferReader(layer.bytes), claims);
    t.is(result.entries, files.length + (spec.prefetch === undefined ? 0 : 1));
    t.is(layer.descriptor.annotations?.['io.containers.estargz.uncompressed-size'], `${result.uncompressedSize}`);
    const other = digestOf('other');
    for (const key of ['digest', 'diffId'] as const)
      await t.throwsAsync(verifyLayer(new BufferReader(layer.bytes), { ...claims, [key]: other }), {
        instanceOf: VerificationError,
        message: `layer ${key}: expected ${other}, found ${claims[key]}`,
      });
  });
}

test('a TOC that outgrows the first read takes a second one, and no more', async (t) => {
  const many = Array.from({ length: 8000 }, (_, i) => ({
    path: `dir-${i % 50}/${digestOf(`${i}`).slice(7)}`,
    content: `${i}`,
  }));
  const layer = await buildLayer({ files: many, writer: { level: 1 } });
  const reader = new CountingReader(layer.bytes);
  const { tree, tocBytes } = await readEstargzTree(reader, {
    tocDigest: annotationTocDigest(layer.descriptor.annotations),
  });
  const first = suffixBytes(reader.size);
  t.true(tocBytes > first);
  t.deepEqual(reader.reads, [
    [reader.size - first, first],
    [reader.size - tocBytes, tocBytes - first],
  ]);
  t.is(tree.counts.inodes, 1 + 50 + 8000);
});

test('the first read is bounded from both sides', (t) => {
  const of = (aboveBase: boolean) => [1000, 1e6, 5e7, 3e8, 1e9].map((size) => suffixBytes(size, aboveBase));
  t.deepEqual(of(false), [1000, 131_072, 390_625, 524_288, 524_288]);
  t.deepEqual(of(true), [1000, 131_072, 131_072, 292_969, 524_288]);
});

test('a footer that leads far back in a large blob is refused before anything of that size is asked for', async (t) => {
  const size = 2 ** 34;
  const asked: number[] = [];
  const reader: RandomAccessReader = {
    size,
    read: async () => {
      throw new Error('not asked for');
    },
    stream: async function* (_, length) {
      asked.push(length);
      const tail = Buffer.alloc(length < 2 ** 24 ? length : 0);
      encodeFooter('estargz', 0).copy(tail, tail.length - 51);
      yield tail;
    },
    [Symbol.asyncDispose]: async () => {},
  };
  const error = await t.throwsAsync(openToc(reader, { allowNoVerification: true }), { instanceOf: FormatError });
  t.regex(error.message, /a TOC of at most/);
  t.deepEqual(asked, [suffixBytes(size)]);
});

test('what cannot be opened is refused by what is wrong with it', async (t) => {
  const layer = await buildLayer({ files });
  const tocDigest = annotationTocDigest(layer.descriptor.annotations)!;
  const reader = new BufferReader(layer.bytes);
  const missing = await t.throwsAsync(openToc(reader), {
    instanceOf: LazylayerError,
    message: /--allow-no-verification/,
  });
  t.is(codeOf(missing), 'FAILED_PRECONDITION');
  const unverified = await readEstargzTree(reader, { allowNoVerification: true });
  t.is(unverified.tocDigest, tocDigest);
  await t.throwsAsync(openToc(reader, { tocDigest: digestOf('x'), allowNoVerification: true }), {
    instanceOf: VerificationError,
    message: `TOC: expected ${digestOf('x')}, found ${tocDigest}`,
  });
  for (const format of ['gzip', 'zstd', 'tar'] as const) {
    const other = await buildLayer({ files, format });
    const error = await t.throwsAsync(openToc(new BufferReader(other.bytes), { tocDigest }), {
      instanceOf: NotEstargzError,
    });
    t.is(codeOf(error), 'UNSUPPORTED');
  }
  await t.throwsAsync(openToc(new BufferReader(Buffer.alloc(10)), { tocDigest }), { instanceOf: NotEstargzError });
  const external = await buildLayer({ files, writer: { footer: 'external' } });
  await t.throwsAsync(openToc(new BufferReader(external.bytes), { tocDigest }), {
    message: /TOC lies in another image/,
  });
  const aborted = AbortSignal.abort(new Error('enough'));
  await t.throwsAsync(openToc(reader, { tocDigest, signal: aborted }), { message: 'enough' });
});

test('a TOC says by its end what it inflates to, and gets no more than that', async (t) => {
  const layer = await buildLayer({ files, writer: { footer: 'external' } });
  const tar = gunzipSync(layer.tocBlob!);
  const saying = (member: Buffer, bytes: number) => {
    const changed = Buffer.from(member);
    changed.writeUInt32LE(bytes, changed.length - 4);
    return changed;
  };
  const large = gzipSync(randomBytes(300_000));
  const whole = layer.tocBlob!;
  const members = Buffer.concat([whole, gzipSync('x')]);
  const cases: [Uint8Array, number[], RegExp | undefined][] = [
    [whole, [tar.length], undefined],
    [members, [1, members.length * 1032], undefined],
    [saying(whole, 0xffffffff), [whole.length * 1032], /what gzip has packed, found incorrect length check/],
    [saying(whole, 1), [1], /what gzip has packed, found incorrect length check/],
    [saying(large, 0xffffffff), [], /expected at most \d+ bytes, found 4294967295/],
    [whole.subarray(0, 12), [0], /what gzip has packed/],
  ];
  for (const [toc, expected, message] of cases) {
    const asked: number[] = [];
    const onInflate = async (most: number) => void asked.push(most);
    const options = { externalToc: async () => toc, onInflate, allowNoVerification: true };
    const opening = openToc(new BufferReader(layer.bytes), options);
    if (message === undefined) await t.notThrowsAsync(opening);
    else await t.throwsAsync(opening, { instanceOf: FormatError, message });
    t.deepEqual(asked, expected);
  }
});

test('a layer without digests opens only unverified, and says which chunks nobody can verify', async (t) => {
  const layer = await buildLayer({ files: [{ path: 'f', content: 'x' }], writer: { footer: 'external' } });
  const tar = gunzipSync(layer.tocBlob!);
  const json = tar
    .subarray(512)
    .toString('latin1')
    .replace(/"(chunkDigest|digest)"/g, '"ignored"');
  const end = json.lastIndexOf('}') + 1;
  const toc = buildTar([{ path: 'stargz.index.json', content: Buffer.from(json.slice(0, end), 'latin1') }]);
  const options = { externalToc: async () => gzipSync(toc) };
  const { tree } = await readEstargzTree(new BufferReader(layer.bytes), { ...options, allowNoVerification: true });
  t.false(tree.hasDigest(0));
  const tocDigest = digestOf(Buffer.from(json.slice(0, end), 'latin1'));
  await t.throwsAsync(readEstargzTree(new BufferReader(layer.bytes), { ...options, tocDigest }), {
    message: /expected a chunkDigest, found none/,
  });
});

test('no mutation of a blob gives a wrong byte, a hang, or an error that is not ours', async (t) => {
  const layer = await buildLayer({ files: files.slice(0, 5), writer: { chunkSize: 6000 } });
  const tocDigest = annotationTocDigest(layer.descriptor.annotations)!;
  const expected = new Map(
    files.map((spec) => [Buffer.from(spec.path as string).toString('latin1'), fileOf(spec).content]),
  );
  const size = layer.bytes.length;
  // Half of the changes hit the TOC and the footer, which are small.
  const at = fc.oneof(fc.nat(size - 1), fc.integer({ min: size - 1000 - FOOTER_BYTES.estargz, max: size - 1 }));
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(at, fc.integer({ min: 1, max: 255 }), async (place, flip) => {
      const bad = Buffer.from(layer.bytes);
      bad[place] ^= flip;
      try {
        const reader = await EstargzReader.open(new BufferReader(bad), { tocDigest });
        for await (const entry of reader)
          if (entry.type === 'reg')
            t.true((await collect(reader.openReadStream(entry))).equals(expected.get(entry.name.toString('latin1'))!));
      } catch (error) {
        if (!(error instanceof LazylayerError)) throw error;
        refused++;
      }
    }),
    { numRuns: 300 },
  );
  t.true(refused > 200, `${refused} refused`);
});

test('a claim that does not fit the bytes is named', async (t) => {
  const layer = await buildLayer({
    files: [
      { path: 'a', content: 'one' },
      { path: 'b', content: 'two' },
    ],
  });
  const toc = await openToc(new BufferReader(layer.bytes), { allowNoVerification: true });
  const json = Buffer.from(toc.json).toString('latin1');
  const externally = async (text: string) => {
    const external = await buildLayer({
      files: [
        { path: 'a', content: 'one' },
        { path: 'b', content: 'two' },
      ],
      writer: { footer: 'external' },
    });
    const toc = buildTar([{ path: 'stargz.index.json', content: text }]);
    return verifyLayer(new BufferReader(external.bytes), {
      tocDigest: digestOf(text),
      externalToc: async () => gzipSync(toc),
    });
  };
  await t.notThrowsAsync(externally(json));
  await t.throwsAsync(externally(json.replace('"mode": 420', '"mode": 421')), {
    message: 'TOC entry "a", mode: expected 420, as in the tar, found 421',
  });
  await t.throwsAsync(externally(json.replace('"name": "b"', '"name": "c"')), {
    message: 'TOC entry "c", name: expected b, as in the tar, found c',
  });
  await t.throwsAsync(externally(json.replaceAll(digestOf('one'), digestOf('two'))), {
    message: new RegExp(
      `^"a", chunk at 0 of the blob: expected ${digestOf('two')}, found ${digestOf('one')}|^"a", chunk at [0-9]+`,
    ),
  });
  const entries = (JSON.parse(json) as { entries: unknown[] }).entries;
  await t.throwsAsync(externally(JSON.stringify({ version: 1, entries: entries.slice(0, 1) })), {
    message: 'TOC: expected an entry for "b", found none',
  });
  await t.throwsAsync(externally(JSON.stringify({ version: 1, entries: [...entries, { name: 'z', type: 'fifo' }] })), {
    message: 'tar: expected an entry for "z", found none',
  });
});

test('prioritized files go first, after their directories and the files that they are links to', (t) => {
  const entries = ['./', 'a/', 'a/x', 'b/', 'b/late', 'c'].map((path) => fileOf({ path }).entry);
  entries.push(fileOf({ path: 'b/link', type: 'hardlink', target: 'c' }).entry);
  const { ordered, landmark } = prioritize(entries, ['/b/link', 'a/x', 'none', 'c']);
  t.deepEqual(
    ordered.map(({ name }) => name.toString()),
    ['b/', 'c', 'b/link', 'a/', 'a/x', './', 'b/late'],
  );
  t.is(landmark, 5);
});

test('an image is the same bytes for the same specification, and all its digests are true', async (t) => {
  const spec = { layers: [files, { files, format: 'zstd' as const }, { files, format: 'tar' as const }] };
  const [one, two] = [await buildImage(spec), await buildImage(spec)];
  t.is(one.index.descriptor.digest, two.index.descriptor.digest);
  for (const { bytes, descriptor } of one.blobs.values()) t.is(digestOf(bytes), descriptor.digest);
  t.is(one.layers[2].diffId, one.layers[2].descriptor.digest);
  t.is(listTree(await treeFromTar(inPieces(one.layers[2].bytes, 9999), { diffId: one.layers[2].diffId })).length, 54);
  t.false(seededBytes(100, 1).equals(seededBytes(100, 2)));
});
