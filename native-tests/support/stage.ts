import type { ExecutionContext, TestFn } from 'ava';
import { compareTrees, estargzFiles, roundToSeconds } from './compare.js';
import { startDockerRegistry } from './docker-registry.js';
import { fixtureImages, type Fixtures } from './fixtures.js';
import { CountingProxy } from './proxy.js';
import { Scene } from './scene.js';
import { Teardown } from './tools.js';

export interface Stage {
  readonly scene: Scene;
  readonly proxy: CountingProxy;
  readonly target: string;
  readonly fixtures: Fixtures;
  /** Reference of a fixture image, as the proxy's registry has it. */
  readonly image: (name: string) => string;
}

/** Retries are short, so that a registry that is down is told of soon. Ends inside `[fetch]`, for a test to add to it. */
const quickRetries = '[fetch]\nmax_retries = 2\nmin_wait_msec = 10\nmax_wait_msec = 50\n';

/**
 * Makes the images and serves them for all tests of a file; the returned function gives a test its own scene, with a counting proxy
 * before the registry. `config` continues config.toml inside its `[fetch]` table.
 */
export function stageFor(test: TestFn): (t: ExecutionContext, config?: string) => Promise<Stage> {
  const shared = new Teardown();
  let fixtures: Fixtures;
  let upstream: number;
  test.before('images and their registry', async (t) => {
    t.timeout(600_000);
    fixtures = await fixtureImages();
    upstream = (await startDockerRegistry(shared, fixtures.storage, { readOnly: true })).port;
  });
  test.after.always('the registry ends', () => shared[Symbol.asyncDispose]());
  return async (t, config = '') => {
    t.timeout(180_000);
    const proxy = await CountingProxy.start(t, upstream);
    const scene = await Scene.open(t, `${quickRetries}${config}`);
    const image = (name: string) => `${proxy.host}/${name}:1`;
    return { proxy, scene, image, target: await scene.mountPoint(), fixtures };
  };
}

/*
 * overlayfs shows a lower file's own link count: a link that a layer above takes away still counts, unlike one that was unpacked and
 * then removed (the third layer removes `link-b`). It hides `trusted.overlay.opaque`, but not the attribute of the other namespace,
 * which mounts with `userxattr` need.
 */
const ofTheKernel = [
  './opt/becomes-directory: xattr user.overlay.opaque: expected none, found 0x79',
  './opt/opaque: xattr user.overlay.opaque: expected none, found 0x79',
  './srv/hard/link-a: links: expected 2, found 3',
  './srv/hard/sub/link-c: links: expected 2, found 3',
];

/** Differences between a mounted fixture image and what umoci unpacked, beyond the ones that are the kernel's way. */
export async function differences(
  { fixtures, backend }: Pick<Stage, 'fixtures'> & { backend: Backend },
  image: 'lazy' | 'odd',
  target: string,
): Promise<string[]> {
  const kept = image === 'lazy' ? roundToSeconds : (time: bigint) => time;
  const time = (nanoseconds: bigint) => shown[backend](kept(nanoseconds));
  const ignore = image === 'lazy' ? estargzFiles : [];
  const found = await compareTrees(fixtures.reference[image], target, { time, ignore });
  const known = [...ofTheKernel, ...(backend === 'fuse-native' && image === 'odd' ? lostNames(found) : [])];
  const missing = known.filter((line) => !found.includes(line)).map((line) => `expected to differ: ${line}`);
  return [...missing, ...found.filter((line) => !known.includes(line))];
}

export type Backend = 'kernel' | 'fuse-native';

/** The library behind fuse-native carries times as milliseconds since 1970; the part that is lost is not compared. */
const shown: Readonly<Record<Backend, (nanoseconds: bigint) => bigint>> = {
  kernel: (nanoseconds) => nanoseconds,
  'fuse-native': (nanoseconds) => (nanoseconds < 0n ? 0n : nanoseconds - (nanoseconds % 1_000_000n)),
};

/** The same library carries paths as text: of a name that is no UTF-8, nobody can ask it. `srv/names` holds seven such. */
function lostNames(found: readonly string[]): string[] {
  const lost = found.filter((line) => /^\.\/srv\/names\/.*: expected \w+, found nothing$/.test(line));
  return lost.length === 7 ? lost : [];
}
