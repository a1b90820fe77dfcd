import test from 'ava';
import { digestOf } from '../digest/digester.js';
import { isOfBlob, labelsOf, sourceOf } from './source-labels.js';

const [a, b, c] = ['a', 'b', 'c'].map((text) => digestOf(text));

test("CRI's labels go before ctr-remote's", (t) => {
  t.deepEqual(
    sourceOf({
      'containerd.io/snapshot/cri.image-ref': 'r.example/cri:1',
      'containerd.io/snapshot/cri.layer-digest': a,
      'containerd.io/snapshot/cri.image-layers': `${a},${b},sha256:cut-off`,
      'containerd.io/snapshot/cri.manifest-digest': c,
      'containerd.io/snapshot/remote/stargz.reference': 'r.example/other:1',
      'containerd.io/snapshot/remote/stargz.digest': b,
    }),
    { reference: 'r.example/cri:1', digest: a, manifest: c, layers: [a, b] },
  );
});

test("ctr-remote's and BuildKit's, with what they say of prefetch and verification", (t) => {
  t.deepEqual(
    sourceOf({
      'containerd.io/snapshot/remote/stargz.reference': 'r.example/img:1',
      'containerd.io/snapshot/remote/stargz.digest': b,
      'containerd.io/snapshot/remote/stargz.layers': c,
      'containerd.io/snapshot/remote/stargz.prefetch': '1024',
      'containerd.io/snapshot/remote/stargz.skipverify': 'true', // not a client's to say
    }),
    { reference: 'r.example/img:1', digest: b, layers: [b, c], prefetchBytes: 1024 },
  );
  t.deepEqual(
    sourceOf({
      'containerd.io/snapshot/remote/stargz.reference.x8f3': 'r.example/img:1',
      'containerd.io/snapshot/remote/stargz.digest.x8f3': b,
      'containerd.io/snapshot/remote/stargz.session.0.x8f3': 'session',
    }),
    { reference: 'r.example/img:1', digest: b, layers: [b] },
  );
});

test('URLs are those of the layer, or of the one at a place in the list', (t) => {
  const labels = {
    'containerd.io/snapshot/cri.image-ref': 'r.example/img:1',
    'containerd.io/snapshot/cri.layer-digest': a,
    'containerd.io/snapshot/cri.image-layers': `${a},sha256:cut-off,${c}`,
    'containerd.io/snapshot/remote/stargz.prefetch': '-1',
  };
  const key = 'containerd.io/snapshot/remote/urls';
  const urls = (more: Record<string, string>) => {
    const source = sourceOf({ ...labels, ...more });
    if ('reason' in source) throw new Error(source.reason);
    t.is(source.prefetchBytes, undefined);
    return source.urls === undefined ? undefined : [...source.urls];
  };
  t.is(urls({}), undefined);
  t.is(urls({ [key]: '', [`${key}.0`]: '', [`${key}.1`]: 'https://u', [`${key}.9`]: 'https://u' }), undefined);
  t.deepEqual(urls({ [key]: 'https://one/x,https://two/x', [`${key}.2`]: 'https://three' }), [
    [a, ['https://one/x', 'https://two/x']],
    [c, ['https://three']],
  ]);
  t.deepEqual(urls({ [`${key}.2`]: 'https://three' }), [[c, ['https://three']]]);
  t.deepEqual(urls({ [`${key}.x8f3`]: 'https://one', [`${key}.2.x8f3`]: 'https://three' }), [
    [a, ['https://one']],
    [c, ['https://three']],
  ]);
});

test('what is missing or malformed is said', (t) => {
  t.deepEqual(sourceOf({}), { reason: 'no labels tell of the image and the layer' });
  const reference = 'containerd.io/snapshot/cri.image-ref';
  t.deepEqual(sourceOf({ [reference]: 'x', 'containerd.io/snapshot/cri.layer-digest': 'md5:1' }), {
    reason: "the layer's label is no sha256 digest: md5:1",
  });
});

test('what labels are made of is what they are read as', (t) => {
  const layer = { reference: 'r.example/img:1', digest: a, manifest: b, tocDigest: c };
  t.deepEqual(sourceOf(labelsOf(layer)), { ...layer, layers: [a] });
  t.deepEqual(sourceOf(labelsOf({ reference: 'r.example/img:1', digest: a })), {
    reference: 'r.example/img:1',
    digest: a,
    layers: [a],
  });
});

test('layers of no TOC are the same only where they are of one blob', (t) => {
  const labels = labelsOf({ reference: 'r.example/img:1', digest: a });
  t.true(isOfBlob(labels, { digest: a }));
  t.false(isOfBlob(labels, { digest: b }));
  t.false(isOfBlob(labels, { digest: b, tocDigest: c }));
  t.true(isOfBlob({ ...labels, 'containerd.io/snapshot/stargz/toc.digest': c }, { digest: b, tocDigest: c }));
});

test('a key may have one more component, and no two', (t) => {
  const key = 'containerd.io/snapshot/cri.layer-digest';
  const labels = { 'containerd.io/snapshot/cri.image-ref': 'r.example/img:1' };
  t.like(sourceOf({ ...labels, [`${key}.x8f3`]: a }), { digest: a });
  t.true('reason' in sourceOf({ ...labels, [`${key}.x8f3.y`]: a }));
});
