import { mkdtemp, readdir, rm, truncate, unlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { digestOf } from '../digest/digester.js';
import { directoryName } from './entry.js';
import { RefPool, type PoolContent } from './pool.js';

const max = 30;
const holdMs = 120_000;
const names = Array.from({ length: 50 }, (_, i) => `registry.example/image-${i}:latest`);

interface ModelEntry {
  usedAt: number;
  heldUntil: number;
  corrupt: boolean;
}

/** What the pool should know, in the plainest words: no disk, no concurrency. */
class Model {
  now = 1_700_000_000_000;
  readonly entries = new Map<string, ModelEntry>();
  readonly counts = new Map<string, number>();
  /** Least recent first. */
  idle: string[] = [];
  loads = 0;

  tick(ms: number): void {
    this.now += ms;
    const over = [...this.entries].filter(([name, e]) => e.heldUntil <= this.now && !this.idle.includes(name));
    for (const [name] of over.sort((a, b) => a[1].heldUntil - b[1].heldUntil)) this.settle(name);
  }

  get(name: string): void {
    const entry = this.entries.get(name);
    if (entry === undefined || entry.corrupt) {
      this.loads++;
      this.idle = this.idle.filter((n) => n !== name);
      this.entries.set(name, { usedAt: this.now, heldUntil: this.now + holdMs, corrupt: false });
    } else {
      entry.usedAt = this.now;
      this.settle(name);
    }
  }

  use(name: string): number {
    this.idle = this.idle.filter((n) => n !== name);
    return this.count(name, 1);
  }

  release(name: string): number {
    if (!this.counts.has(name)) return 0;
    const left = this.count(name, -1);
    if (left === 0 && this.entries.has(name)) this.settle(name);
    return left;
  }

  restart(): void {
    this.idle = [];
    for (const [name] of [...this.entries].sort((a, b) => a[1].usedAt - b[1].usedAt)) this.settle(name);
  }

  private count(name: string, by: number): number {
    const count = (this.counts.get(name) ?? 0) + by;
    if (count === 0) this.counts.delete(name);
    else this.counts.set(name, count);
    return count;
  }

  private settle(name: string): void {
    if (this.counts.has(name) || this.entries.get(name)!.heldUntil > this.now) return;
    this.idle = [...this.idle.filter((n) => n !== name), name];
    if (this.idle.length > max) this.entries.delete(this.idle.shift()!);
  }
}

class Real {
  loads = 0;
  pool!: RefPool;
  constructor(
    readonly dir: string,
    readonly model: Model,
  ) {}

  async open(): Promise<this> {
    this.pool = await RefPool.open({
      dir: this.dir,
      max,
      holdMs,
      now: () => this.model.now,
      load: async (reference) => content(reference),
      loadConfig: async (reference) => {
        this.loads++;
        return content(reference).configBytes;
      },
    });
    return this;
  }

  /** Every command ends here: the disk, the load count and the use counts are what the model says. */
  async compare(): Promise<void> {
    await this.pool.flushed();
    same([...this.pool.entries()].map((e) => e.reference).sort(), [...this.model.entries.keys()].sort(), 'entries');
    same(
      (await readdir(this.dir)).filter((n) => n !== 'uses').sort(),
      [...this.model.entries.keys()].map((reference) => directoryName({ reference })).sort(),
      'directories',
    );
    same(this.loads, this.model.loads, 'loads');
  }
}

function content(reference: string): Required<PoolContent> {
  const configBytes = Buffer.from(JSON.stringify({ config: reference }));
  const manifestBytes = Buffer.from(
    JSON.stringify({ config: { digest: digestOf(configBytes), size: configBytes.length } }),
  );
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  return {
    descriptor: { mediaType, digest: digestOf(manifestBytes), size: manifestBytes.length },
    manifestBytes,
    configBytes,
  };
}

function same(found: unknown, expected: unknown, what: string): void {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: expected ${b}, found ${a}`);
}

abstract class Command implements fc.AsyncCommand<Model, Real> {
  check(): boolean {
    return true;
  }
  async run(model: Model, real: Real): Promise<void> {
    model.tick(1); // no two commands at one moment, so that the order of use times is total
    await this.apply(model, real);
    await real.compare();
  }
  abstract apply(model: Model, real: Real): Promise<void>;
  abstract toString(): string;
}

class Get extends Command {
  constructor(
    readonly first: number,
    readonly count: number,
    readonly askers: number,
  ) {
    super();
  }
  async apply(model: Model, real: Real): Promise<void> {
    for (let i = this.first; i < this.first + this.count; i++) {
      const name = names[i % names.length];
      model.tick(1);
      model.get(name);
      const answers = await Promise.all(Array.from({ length: this.askers }, () => real.pool.get(name)));
      for (const { configBytes } of answers) same(JSON.parse(String(configBytes)), { config: name }, 'config');
    }
  }
  toString = (): string => `get ${this.first}..+${this.count} x${this.askers}`;
}

class Use extends Command {
  constructor(readonly index: number) {
    super();
  }
  async apply(model: Model, real: Real): Promise<void> {
    same(real.pool.use(names[this.index], 'layer'), model.use(names[this.index]), 'use');
  }
  toString = (): string => `use ${this.index}`;
}

class Release extends Command {
  constructor(readonly index: number) {
    super();
  }
  async apply(model: Model, real: Real): Promise<void> {
    same(real.pool.release(names[this.index], 'layer'), model.release(names[this.index]), 'release');
  }
  toString = (): string => `release ${this.index}`;
}

class Pass extends Command {
  constructor(readonly ms: number) {
    super();
  }
  async apply(model: Model): Promise<void> {
    model.tick(this.ms);
  }
  toString = (): string => `${this.ms} ms pass`;
}

class Restart extends Command {
  async apply(model: Model, real: Real): Promise<void> {
    await real.pool[Symbol.asyncDispose]();
    await real.open();
    model.restart();
  }
  toString = (): string => 'restart';
}

class Corrupt extends Command {
  constructor(
    readonly index: number,
    readonly file: 'manifest' | 'config',
    readonly how: 'truncate' | 'overwrite' | 'remove',
  ) {
    super();
  }
  async apply(model: Model, real: Real): Promise<void> {
    const entry = model.entries.get(names[this.index]);
    if (entry === undefined || entry.corrupt) return;
    entry.corrupt = true;
    const directory = join(real.dir, directoryName({ reference: names[this.index] }));
    const path = join(directory, this.file);
    if (this.how === 'truncate') await truncate(path, 7);
    else if (this.how === 'overwrite') await writeFile(path, '{}');
    else await unlink(path);
    // Removing a file changes the directory's time, by the machine's clock, not the model's.
    await utimes(directory, entry.usedAt / 1000, entry.usedAt / 1000);
  }
  toString = (): string => `${this.how} ${this.file} of ${this.index}`;
}

async function play(run: (start: () => Promise<{ model: Model; real: Real }>) => Promise<unknown>): Promise<Model> {
  const dir = await mkdtemp(join(tmpdir(), 'lazylayer-pool-'));
  const model = new Model();
  const real = new Real(dir, model);
  try {
    await run(async () => ({ model, real: await real.open() }));
    return model;
  } finally {
    await real.pool[Symbol.asyncDispose]();
    await rm(dir, { recursive: true });
  }
}

test('50 references loaded, their holds over: the 30 asked for last are left', async (t) => {
  const commands = [new Get(0, 50, 2), new Use(3), new Pass(holdMs), new Restart(), new Release(3), new Get(10, 30, 1)];
  const model = await play(async (start) => fc.asyncModelRun(start, commands));
  t.is(model.idle.length, max);
});

const index = fc.nat(names.length - 1);
const commands = fc.commands(
  [
    fc.tuple(index, fc.integer({ min: 1, max: 25 }), fc.integer({ min: 1, max: 3 })).map((a) => new Get(...a)),
    index.map((i) => new Use(i)),
    index.map((i) => new Release(i)),
    fc.integer({ min: 1, max: 200_000 }).map((ms) => new Pass(ms)),
    fc.constant(new Restart()),
    fc
      .tuple(index, fc.constantFrom('manifest', 'config'), fc.constantFrom('truncate', 'overwrite', 'remove'))
      .map((a) => new Corrupt(...a)),
  ],
  { size: 'max', maxCommands: 40 },
);

test('50 references in an LRU of 30 behave as the model says, whatever happens to them', async (t) => {
  await t.notThrowsAsync(
    fc.assert(
      fc.asyncProperty(commands, async (sequence) => {
        await play((start) => fc.asyncModelRun(start, sequence));
      }),
      { numRuns: 40, interruptAfterTimeLimit: 20_000 },
    ),
  );
});
