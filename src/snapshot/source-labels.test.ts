import test from 'ava';
import { digestOf } from '../digest/digester.js';
import { sourceOf } from './source-labels.js';

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
      'containerd.io/snapshot/remote/stargz.skipverify': 'true',
    }),
    { reference: 'r.example/img:1', digest: b, layers: [b, c], skipVerify: true },
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

test('what is missing or malformed is said', (t) => {
  t.deepEqual(sourceOf({}), { reason: 'no labels tell of the image and the layer' });
  const reference = 'containerd.io/snapshot/cri.image-ref';
  t.deepEqual(sourceOf({ [reference]: 'x', 'containerd.io/snapshot/cri.layer-digest': 'md5:1' }), {
    reason: "the layer's label is no sha256 digest: md5:1",
  });
});
