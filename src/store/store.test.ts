import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { publishImage } from '../testing/published-image.js';
import { base64, openStore, settled, storeLayers } from '../testing/store-fixture.js';
import { until } from '../testing/until.js';

test('a layer is shown by both its digests, with the others of its image, in 2 + N requests; info and blob are its own', async (t) => {
  const { root, registry, reference, digests, tocs, image } = await publishImage(t, storeLayers.slice(0, 2));
  const { store, layers: shown, close } = await openStore(root);
  t.teardown(close);
  const name = base64(reference());
  await store.resolve([name]);
  await store.resolve([name, digests[0]]);
  await store.resolve([name, tocs[1]]);
  t.is(registry.requests.length, 4);
  const found = shown(reference());
  t.deepEqual(found.map(({ digest }) => digest).sort(), [...digests, ...tocs].sort());
  for (const [i, { descriptor, diffId }] of image.layers.entries()) {
    const byToc = found.find(({ digest }) => digest === tocs[i])!;
    const byDigest = found.find(({ digest }) => digest === digests[i])!;
    t.deepEqual({ ...byToc, digest: '' }, { ...byDigest, digest: '' });
    t.is(byToc.files!.blob, descriptor.size);
    const info = await store.read([name, tocs[i], 'info'], 0, byToc.files!.info);
    const { compression, ...rest } = JSON.parse(Buffer.from(info).toString()) as Record<string, unknown>;
    t.is(compression, 2);
    t.like(rest, {
      'compressed-diff-digest': digests[i],
      'compressed-size': descriptor.size,
      'diff-digest': diffId,
      'toc-digest': tocs[i],
      flags: { 'expected-layer-diffid': diffId },
    });
    const blob = await store.read([name, digests[i], 'blob'], 3, descriptor.size - 3);
    t.true(Buffer.from(blob).equals(image.blobs.get(descriptor.digest)!.bytes.subarray(3)));
  }
});

test('what landmarks ask for comes once the image is looked up, and is not asked for again when its layers are used', async (t) => {
  const size = 300_000;
  const layer = (seed: number) => ({ files: ['a', 'b'].map((path) => ({ path, size, seed: seed++ })), prefetch: 1 });
  const { root, registry, reference, digests } = await publishImage(t, [layer(1), layer(3)]);
  const { store, served, layers, close } = await openStore(root, { prefetch: true });
  t.teardown(close);
  const name = base64(reference());
  const present = () => layers(reference()).map(({ slot }) => served.totals(slot).presentBytes);
  await store.resolve([name]);
  for (const digest of digests) await store.resolve([name, digest]);
  await until(() => present().length > 0 && present().every((bytes) => bytes === size));
  const asked = registry.requests.length;
  t.is(asked, 2 + 2 * digests.length, 'manifest and config; TOC and landmark of each layer');
  for (const digest of digests) await store.use([name, digest]);
  for (const digest of digests) await store.release([name, digest]);
  t.is(registry.requests.length, asked);
});

test('what cannot be lazy, or is not there, is EIO with the reason told; names that are none are EINVAL', async (t) => {
  const { root, reference, digests, registry } = await publishImage(t, storeLayers);
  const { store, answers, close } = await openStore(root);
  t.teardown(close);
  const name = base64(reference());
  await t.throwsAsync(store.resolve([name, digests[2]]), { code: 'UNAVAILABLE' });
  await t.throwsAsync(store.resolve([name, `sha256:${'0'.repeat(64)}`]), { code: 'UNAVAILABLE' });
  await t.throwsAsync(store.resolve([base64(reference('none'))]), { code: 'UNAVAILABLE' });
  await store.resolve([name, digests[0]]);
  t.deepEqual(answers.map(({ digest, refusal }) => `${digests.indexOf(digest)} ${refusal?.code ?? 'shown'}`).sort(), [
    '-1 NOT_FOUND',
    '0 shown',
    '1 shown',
    '2 UNSUPPORTED',
  ]);
  for (const path of [['%'], [base64('img:1')], [base64(`${registry.host}/img`)], [name, 'sha256:0'], [name, 'diff']])
    await t.throwsAsync(store.resolve(path), { code: 'INVALID_ARGUMENT' }, path.join('/'));
  await fc.assert(
    fc.asyncProperty(fc.array(fc.string(), { minLength: 1, maxLength: 3 }), async (path) => {
      const error = await t.throwsAsync(store.resolve(path), { code: 'INVALID_ARGUMENT' });
      return error !== undefined;
    }),
    { numRuns: 200 },
  );
});

test('uses survive a restart without the registry, whatever its tag means by then; the last one takes the record along', async (t) => {
  const { root, registry, reference, digests, tocs } = await publishImage(t, storeLayers);
  const name = base64(reference());
  {
    const { store, close } = await openStore(root);
    await Promise.all([store.use([name, digests[0]]), store.use([name, tocs[0]]), store.use([name, digests[1]])]);
    await store.release([name, tocs[1]]);
    await store.release([name, tocs[1]]);
    await close();
  }
  await registry.stop();
  registry.reset();
  const { store, workspace, layers: shown, close, errors } = await openStore(root);
  t.teardown(close);
  t.deepEqual(errors, []);
  t.deepEqual(
    shown(reference()).map(({ digest }) => digest),
    [digests[0], tocs[0]],
  );
  t.is(workspace.pool.uses(reference(), `store:${digests[0]}`), 2);
  await store.release([name, digests[0]]);
  t.is((await readdir(join(root, 'store'))).length, 1);
  await store.release([name, digests[0]]);
  t.deepEqual(await readdir(join(root, 'store')), []);
  t.deepEqual([...workspace.pool.entries()][0].uses.size, 0);
});

test('the pool counts what the records say: it kept something else when it ended', async (t) => {
  const { root, reference, digests } = await publishImage(t, storeLayers);
  const name = base64(reference());
  const first = await openStore(root);
  await first.store.use([name, digests[0]]);
  await first.store.use([name, digests[1]]);
  first.workspace.pool.release(reference(), `store:${digests[0]}`);
  first.workspace.pool.use(reference(), `store:${digests[1]}`);
  first.workspace.pool.use(reference(), 'store:sha256:unknown');
  first.workspace.pool.use(reference(), 'of somebody else');
  await first.close();
  await writeFile(join(root, 'store', 'no-record'), '{"layer":');
  const { workspace, shown, close } = await openStore(root);
  t.teardown(close);
  t.deepEqual(Object.fromEntries([...workspace.pool.entries()][0].uses), {
    'of somebody else': 1,
    [`store:${digests[0]}`]: 1,
    [`store:${digests[1]}`]: 1,
  });
  t.deepEqual(shown(), [reference()]);
  t.is((await readdir(join(root, 'store'))).length, 2);
});

test('a request that the kernel sends again is counted once; on another connection its number means nothing', async (t) => {
  const { root, reference, digests } = await publishImage(t, storeLayers);
  const layer = [base64(reference()), digests[0]];
  const count = ({ workspace }: Awaited<ReturnType<typeof openStore>>) =>
    workspace.pool.uses(reference(), `store:${digests[0]}`);
  const first = await openStore(root);
  await first.store.use(layer, { id: 2, again: false });
  await first.store.use(layer, { id: 4, again: false });
  await first.store.release(layer, { id: 6, again: false });
  await first.close();
  const second = await openStore(root, { resumed: true });
  await second.store.use(layer, { id: 4, again: true });
  await second.store.release(layer, { id: 6, again: true });
  t.is(count(second), 1, 'counted by the process before');
  await second.store.use(layer, { id: 8, again: true });
  t.is(count(second), 2, 'it died before it counted this one');
  // The last use goes, and its record with it; what was asked before is remembered all the same.
  await second.store.release(layer, { id: 10, again: false });
  await second.store.release(layer, { id: 12, again: false });
  await second.store.use(layer, { id: 14, again: false });
  await second.close();
  const third = await openStore(root, { resumed: true });
  await third.store.release(layer, { id: 12, again: true });
  t.is(count(third), 1);
  await third.close();
  const anew = await openStore(root);
  await anew.store.release(layer, { id: 12, again: true });
  t.is(count(anew), 0);
  await anew.close();
});

test('fifty references in a pool of thirty: those that are used or recent stay, the others leave mount and memory', async (t) => {
  const { root, publish, reference, digests } = await publishImage(t, storeLayers.slice(0, 1));
  const { store, workspace, shown, attached, errors, close, layers: of } = await openStore(root, { hold_sec: 0 });
  t.teardown(close);
  const tags = Array.from({ length: 50 }, (_, i) => `t${i}`);
  tags.forEach(publish);
  publish('0');
  await store.use([base64(reference('0')), digests[0]]);
  for (const tag of tags) await store.resolve([base64(reference(tag)), digests[0]]);
  await settled(() => shown().length === 31, workspace);
  t.deepEqual(shown().sort(), ['0', ...tags.slice(20)].map(reference).sort());
  t.is(attached.size, 1, 'all share one layer');
  await store.release([base64(reference('0')), digests[0]]);
  await store.resolve([base64(reference('t0')), digests[0]]);
  await store.resolve([base64(reference('t1')), digests[0]]);
  await settled(() => shown().length === 30, workspace);
  t.true(of(reference('t0')).length > 0, 'what has left can come again');
  t.deepEqual(errors, []);
});
