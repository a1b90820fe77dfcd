import test from 'ava';
import fc from 'fast-check';
import { digestOf } from '../digest/digester.js';
import { FormatError } from '../errors.js';
import { checkDiffIds, parseConfig } from './config.js';
import { parseIndex, parseManifest } from './manifest.js';
import { layerType, mediaTypes } from './mediatype.js';

const blob = { mediaType: mediaTypes.ociLayerGzip, digest: digestOf('x'), size: 1 };
const manifest = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config: blob, layers: [blob] };
const index = { schemaVersion: 2, manifests: [{ ...blob, platform: { os: 'linux', architecture: 'arm64' } }] };
const config = { architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [digestOf('y')] } };
const bytes = (value: unknown) => Buffer.from(JSON.stringify(value));

test('reads what registries hold, with the members that writers leave null', (t) => {
  t.deepEqual(parseManifest(bytes({ ...manifest, annotations: { a: 'b' }, subject: null })), {
    mediaType: mediaTypes.ociManifest,
    config: blob,
    layers: [blob],
    annotations: { a: 'b' },
  });
  t.is(
    parseManifest(bytes({ ...manifest, mediaType: undefined }), mediaTypes.dockerManifest).mediaType,
    mediaTypes.dockerManifest,
  );
  t.is(parseIndex(bytes(index)).manifests[0].platform?.architecture, 'arm64');
  const parsed = parseConfig(
    bytes({ ...config, config: { Env: null, Cmd: ['sh'], Labels: { a: 'b' } }, history: [{}] }),
  );
  t.deepEqual(parsed.config, { Env: undefined, Cmd: ['sh'], Labels: { a: 'b' } });
  t.notThrows(() => checkDiffIds(parseManifest(bytes(manifest)), parsed));
});

for (const [what, parse, value, message] of [
  ['no JSON', parseManifest, undefined, /^manifest: expected JSON/],
  ['schema 1', parseManifest, { ...manifest, schemaVersion: 1 }, /^manifest, schemaVersion: expected 2, found 1/],
  [
    'a wrong type',
    parseManifest,
    { ...manifest, mediaType: 'text/plain' },
    /mediaType: expected .*manifest.v1\+json, found "text\/plain"/,
  ],
  ['an index as manifest', parseManifest, index, /^manifest, config: expected/],
  ['both in one document', parseManifest, { ...manifest, manifests: [] }, /manifests: expected nothing/],
  ['both in one index', parseIndex, { ...index, layers: [] }, /^index, layers: expected nothing/],
  [
    'another algorithm',
    parseManifest,
    { ...manifest, config: { ...blob, digest: 'md5:1' } },
    /config\.digest: expected a sha256 digest/,
  ],
  [
    'a negative size',
    parseManifest,
    { ...manifest, layers: [{ ...blob, size: -1 }] },
    /layers\.0\.size: expected >=0, found -1/,
  ],
  ['a broken size', parseManifest, { ...manifest, layers: [{ ...blob, size: 1.5 }] }, /layers\.0\.size/],
  ['a text as annotation list', parseManifest, { ...manifest, annotations: 'x' }, /annotations: expected Object/],
  [
    'a bad diffID',
    parseConfig,
    { ...config, rootfs: { type: 'layers', diff_ids: ['x'] } },
    /diff_ids\.0: expected a sha256 digest/,
  ],
  ['no rootfs', parseConfig, { ...config, rootfs: undefined }, /^config, rootfs: expected/],
] as const)
  test(`refuses ${what}`, (t) => {
    const document = value === undefined ? Buffer.from('{') : bytes(value);
    t.throws(() => (parse as (b: Uint8Array) => unknown)(document), { instanceOf: FormatError, message });
  });

test('refuses what is too large, before it is decoded', (t) => {
  const large = Buffer.alloc(4 * 1024 * 1024 + 1, ' ');
  t.throws(() => parseManifest(large), { message: /^manifest: expected at most 4194304 bytes, found 4194305/ });
});

test('every layer needs a diffID', (t) => {
  const parsed = parseManifest(bytes({ ...manifest, layers: [blob, blob] }));
  t.throws(() => checkDiffIds(parsed, parseConfig(bytes(config))), {
    message: 'config, rootfs.diff_ids: expected 2 digests, one for each layer of the manifest, found 1',
  });
});

test('layer types', (t) => {
  t.deepEqual(layerType(mediaTypes.ociLayer), { compression: 'none', foreign: false });
  t.deepEqual(layerType(mediaTypes.ociLayerZstd), { compression: 'zstd', foreign: false });
  t.deepEqual(layerType(mediaTypes.dockerLayerGzip), { compression: 'gzip', foreign: false });
  t.deepEqual(layerType(mediaTypes.dockerForeignLayerGzip), { compression: 'gzip', foreign: true });
  t.deepEqual(layerType('application/vnd.oci.image.layer.nondistributable.v1.tar+gzip'), {
    compression: 'gzip',
    foreign: true,
  });
  t.is(layerType('application/vnd.in-toto+json'), undefined);
});

test('any document and any change of a good one is read or refused in words', (t) => {
  const places = fc.constantFrom(
    'schemaVersion',
    'mediaType',
    'config',
    'layers',
    'manifests',
    'annotations',
    'rootfs',
    'os',
  );
  const documents = fc
    .tuple(fc.constantFrom<object>(manifest, index, config), places, fc.jsonValue())
    .map(([base, place, value]) => bytes({ ...base, [place]: value }));
  fc.assert(
    fc.property(
      fc.oneof(
        documents,
        fc.uint8Array(),
        fc.json().map((j) => Buffer.from(j)),
      ),
      (document) => {
        for (const parse of [parseManifest, parseIndex, parseConfig])
          try {
            parse(document);
          } catch (error) {
            if (!(error instanceof FormatError)) throw error;
          }
      },
    ),
    { numRuns: 500 },
  );
  t.pass();
});
