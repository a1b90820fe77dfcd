import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { WakeLatency } from './wake-latency.js';

test('latencies are asked for as numbers of 32 bits', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'lazylayer-latency-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const device = join(directory, 'device');
  // A file keeps what a device would take one after the other.
  writeFileSync(device, '');
  const asked = () => {
    const bytes = readFileSync(device);
    return Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readInt32LE(i * 4));
  };
  const latency = WakeLatency.open(device)!;
  t.deepEqual(asked(), [], 'to have it open asks for nothing');
  latency.hold();
  latency.release();
  t.deepEqual(asked(), [0, 2_000_000_000]);
  latency[Symbol.dispose]();
  latency.hold();
  latency[Symbol.dispose]();
  t.is(asked().length, 2, 'a closed one asks for nothing');
});

test('where there is no such device, or it takes nothing, nothing is asked for', (t) => {
  t.is(WakeLatency.open(join(tmpdir(), 'lazylayer-no-such-device')), undefined);
  using full = WakeLatency.open('/dev/full')!;
  t.notThrows(() => full.hold());
});
