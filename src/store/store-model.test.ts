import test from 'ava';
import fc from 'fast-check';
import { publishImage } from '../testing/published-image.js';
import { base64, openStore, settled, storeLayers } from '../testing/store-fixture.js';

/** Entries that a pool may have beside those that are used. */
const room = 2;

/** What clients think: uses by tag and layer. */
type Model = Map<string, number>;
interface Real {
  store: Awaited<ReturnType<typeof openStore>>;
}

test('any order of uses, releases, lookups, evictions and restarts leaves the counts that clients expect', async (t) => {
  const image = await publishImage(t, storeLayers.slice(0, 2));
  const { registry, digests, tocs, reference } = image;
  const tags = ['a', 'b', 'c', 'd', 'e'];
  tags.forEach(image.publish);
  const name = (tag: string) => base64(reference(tag));
  const count = (model: Model, tag: string, layer: number) => model.get(`${tag} ${layer}`) ?? 0;
  const uses = ({ store }: Real, tag: string, layer: number) =>
    store.workspace.pool.uses(reference(tag), `store:${digests[layer]}`);

  /** What must hold whenever nothing is under way. */
  const check = async (model: Model, real: Real): Promise<void> => {
    const { store } = real;
    const used = tags.filter((tag) => [0, 1].some((layer) => count(model, tag, layer) > 0));
    await settled(() => store.shown().length <= used.length + room, store.workspace);
    for (const tag of tags)
      for (const layer of [0, 1]) {
        const expected = count(model, tag, layer);
        t.is(uses(real, tag, layer), expected, `${tag} ${layer}`);
        if (expected > 0) t.true(store.layers(reference(tag)).some(({ digest }) => digest === digests[layer]));
      }
    t.true(store.shown().length <= used.length + room, 'what is not used leaves');
    t.deepEqual(store.errors, []);
  };

  class Command implements fc.AsyncCommand<Model, Real> {
    constructor(
      private readonly words: string,
      private readonly act: (model: Model, real: Real) => Promise<void>,
    ) {}
    check = () => true;
    toString = () => this.words;
    async run(model: Model, real: Real): Promise<void> {
      await this.act(model, real);
      await check(model, real);
    }
  }

  const layer = fc.record({
    tag: fc.constantFrom(...tags),
    layer: fc.constantFrom(0, 1),
    key: fc.constantFrom(digests, tocs),
  });
  const times = fc.integer({ min: 1, max: 3 });
  const commands = [
    fc.tuple(layer, times).map(
      ([{ tag, layer, key }, n]) =>
        new Command(`use ${tag} ${layer} ${n} times at once`, async (model, { store }) => {
          await Promise.all(Array.from({ length: n }, () => store.store.use([name(tag), key[layer]])));
          model.set(`${tag} ${layer}`, count(model, tag, layer) + n);
        }),
    ),
    fc.tuple(layer, times).map(
      ([{ tag, layer, key }, n]) =>
        new Command(`release ${tag} ${layer} ${n} times at once`, async (model, { store }) => {
          await Promise.all(Array.from({ length: n }, () => store.store.release([name(tag), key[layer]])));
          model.set(`${tag} ${layer}`, Math.max(0, count(model, tag, layer) - n));
        }),
    ),
    layer.map(
      ({ tag, layer, key }) =>
        new Command(`use and release ${tag} ${layer} at once`, async (model, { store }) => {
          const path = [name(tag), key[layer]];
          const before = count(model, tag, layer);
          // One release more than there are uses would do nothing, so that the order would matter.
          await Promise.all([store.store.use(path), store.store.use(path)]);
          await Promise.all([store.store.release(path), store.store.use(path), store.store.release(path)]);
          await store.store.release(path);
          model.set(`${tag} ${layer}`, before);
        }),
    ),
    layer.map(
      ({ tag, layer, key }) =>
        new Command(`look ${tag} ${layer} up`, async (_, { store }) => {
          await store.store.resolve([name(tag)]);
          await store.store.resolve([name(tag), key[layer]]);
        }),
    ),
    fc.constant(
      new Command('evict whatever can be', async (_, { store }) => {
        for (const tag of tags) await store.store.resolve([name(tag)]);
      }),
    ),
    fc.constant(
      new Command('restart', async (_, real) => {
        await real.store.close();
        registry.reset();
        real.store = await openStore(image.root, { max_entries: room, hold_sec: 0 });
        t.is(registry.requests.length, 0, 'what is used comes back without the registry');
      }),
    ),
  ];
  await fc.assert(
    fc.asyncProperty(fc.commands(commands, { maxCommands: 15 }), async (run) => {
      const real: Real = { store: await openStore(image.root, { max_entries: room, hold_sec: 0 }) };
      try {
        await fc.asyncModelRun(() => ({ model: new Map() as Model, real }), run);
      } finally {
        // The next run begins without uses.
        for (const tag of tags)
          for (const layer of [0, 1])
            while (uses(real, tag, layer) > 0) await real.store.store.release([name(tag), digests[layer]]);
        await real.store.close();
      }
    }),
    { numRuns: 12, endOnFailure: true },
  );
});
