import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { HALT_POLL_FILE, HALT_POLL_NS, haltPollNs, pollBeforeHalt } from './halt-polling.js';

/** A directory like /sys, and what the parameter's file says in it. */
function sysfs(t: ExecutionContext, governor: string, parameter?: string) {
  const sys = mkdtempSync(join(tmpdir(), 'lazylayer-sysfs-'));
  t.teardown(() => rmSync(sys, { recursive: true }));
  const put = (path: string, text: string) => {
    mkdirSync(join(sys, dirname(path)), { recursive: true });
    writeFileSync(join(sys, path), text);
  };
  put('devices/system/cpu/cpuidle/current_governor', `${governor}\n`);
  if (parameter !== undefined) put(HALT_POLL_FILE, `${parameter}\n`);
  return { sys, parameter: () => readFileSync(join(sys, HALT_POLL_FILE), 'latin1').trim() };
}

test('how long processors poll is told of the haltpoll governor alone', (t) => {
  t.is(haltPollNs(sysfs(t, 'haltpoll', '0').sys), 0);
  t.is(haltPollNs(sysfs(t, 'haltpoll', '200000').sys), 200_000);
  t.is(haltPollNs(sysfs(t, 'menu', '200000').sys), undefined, 'the module may be there and not govern');
  t.is(haltPollNs(sysfs(t, 'haltpoll').sys), undefined);
  t.is(haltPollNs(sysfs(t, 'haltpoll', 'much').sys), undefined);
  t.is(haltPollNs(join(tmpdir(), 'lazylayer-no-such-sysfs')), undefined);
});

test('polling is switched on for a while, and only where it was off', (t) => {
  const off = sysfs(t, 'haltpoll', '0');
  {
    using polling = pollBeforeHalt(off.sys);
    t.truthy(polling);
    t.is(off.parameter(), String(HALT_POLL_NS));
    t.is(pollBeforeHalt(off.sys), undefined, 'it is on');
  }
  t.is(off.parameter(), '0');
  const on = sysfs(t, 'haltpoll', '50000');
  t.is(pollBeforeHalt(on.sys), undefined);
  t.is(on.parameter(), '50000');
  const other = sysfs(t, 'menu', '0');
  t.is(pollBeforeHalt(other.sys), undefined);
  t.is(other.parameter(), '0');
});

test('whoever ends without disposing of it leaves the parameter as it was', (t) => {
  const { sys, parameter } = sysfs(t, 'haltpoll', '0');
  const before = process.listeners('exit');
  t.truthy(pollBeforeHalt(sys));
  const [atExit] = process.listeners('exit').filter((listener) => !before.includes(listener));
  t.is(parameter(), String(HALT_POLL_NS));
  process.off('exit', atExit);
  atExit(0);
  t.is(parameter(), '0');
});
