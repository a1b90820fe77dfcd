import { join } from 'node:path';
import type { ReferenceLayer } from '../fs/served-tree.js';
import type { FuseServer } from '../fuse/server.js';
import { ServedLayers } from '../fuse/served.js';
import { AdditionalLayerStore, type LayerAnswer } from '../store/store.js';
import { Workspace } from '../workspace/workspace.js';
import type { LayerSpec } from './image.js';
import { configOver } from './published-image.js';

/** Two that can be lazy, and a plain one. */
export const storeLayers: LayerSpec[] = [
  { files: [{ path: 'a', content: 'lowest' }] },
  { files: [{ path: 'b', content: 'middle' }] },
  { files: [{ path: 'c', content: 'plain' }], format: 'gzip' },
];

export const base64 = (text: string) => Buffer.from(text).toString('base64');

/** A store over a root, with what the mount would show of it. */
export async function openStore(
  root: string,
  {
    resumed = false,
    prefetch = false,
    ...pool
  }: { max_entries?: number; hold_sec?: number; resumed?: boolean; prefetch?: boolean } = {},
) {
  const defaults = configOver(root);
  const config = { ...defaults, pool: { ...defaults.pool, ...pool } };
  let evicted = (_: string): void => {};
  const workspace = await Workspace.open(config, { onEvict: ({ reference }) => evicted(reference) });
  const served = new ServedLayers();
  const answers: LayerAnswer[] = [];
  const errors: unknown[] = [];
  const store = new AdditionalLayerStore({
    workspace,
    served,
    uses: join(root, 'store'),
    resumed,
    prefetch,
    background: false,
    onAnswer: (answer) => answers.push(answer),
    onError: (_, error) => errors.push(error),
  });
  evicted = (reference) => store.evicted(reference);
  await store.restore();
  const shown = new Map(served.initial().references.map(({ reference, layers }) => [reference, layers]));
  const { layers: awake, asleep } = served.initial();
  const attached = new Set<number>([...awake, ...asleep].map(({ slot }) => slot));
  const fuse = {
    attach: async ({ slot }: { slot: number }) => void attached.add(slot),
    detach: async (slot: number) => void attached.delete(slot),
    sleep: async ({ slot }: { slot: number }) => void attached.add(slot),
    setReference: async (reference: string, layers: readonly ReferenceLayer[] | undefined) => {
      if (layers === undefined) shown.delete(reference);
      else shown.set(reference, layers);
    },
  } as unknown as FuseServer;
  await served.bind(Promise.resolve(fuse));
  return {
    workspace,
    served,
    store,
    answers,
    errors,
    attached,
    shown: () => [...shown.keys()],
    layers: (reference: string) => shown.get(reference) ?? [],
    close: async () => {
      await store[Symbol.asyncDispose]();
      await workspace[Symbol.asyncDispose]();
    },
  };
}

/** Evictions go on behind whoever caused them. */
export async function settled(check: () => boolean, workspace: Workspace): Promise<void> {
  for (const deadline = Date.now() + 10_000; !check() && Date.now() < deadline;) {
    await workspace.pool.flushed();
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
