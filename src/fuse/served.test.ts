import test from 'ava';
import type { Layer } from '../layer/layer.js';
import type { FuseServer } from './server.js';
import { ServedLayers } from './served.js';

const layer = (slot: number) => ({ slot, digest: `sha256:${slot}`, view: { slot } }) as unknown as Layer;

test('an image that shares layers with one that is being added waits until they are there', async (t) => {
  let open!: () => void;
  const gate = new Promise<void>((resolve) => (open = resolve));
  const shown = new Set<number>();
  const served = new ServedLayers();
  served.bind({
    attach: async ({ slot }: { slot: number }) => {
      await gate;
      shown.add(slot);
    },
    setReferences: async () => {},
  } as unknown as FuseServer);
  const first = served.add('a', [layer(1), layer(2)]);
  const second = served.add('b', [layer(2)]).then(() => shown.has(2));
  setImmediate(open);
  t.true(await second);
  await first;
});
