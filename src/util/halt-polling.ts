import { accessSync, constants, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/*
 * How idle processors of a virtual machine wait, where cpuidle's governor is haltpoll: they look for work for a while before they
 * halt, which is a matter of the host (Documentation/virt/guest-halt-polling.rst). The longest such while is a parameter of the
 * whole machine, in nanoseconds; 0 halts at once.
 */

/** The kernel's own default; longer than an answer from memory takes. */
export const HALT_POLL_NS = 200_000;

const governorFile = 'devices/system/cpu/cpuidle/current_governor';
/** Below sysfs. */
export const HALT_POLL_FILE = 'module/haltpoll/parameters/guest_halt_poll_ns';

/** Nanoseconds that an idle processor polls at most; undefined where nothing polls by this parameter. */
export function haltPollNs(sys = '/sys'): number | undefined {
  try {
    if (readFileSync(join(sys, governorFile), 'latin1').trim() !== 'haltpoll') return undefined;
    const text = readFileSync(join(sys, HALT_POLL_FILE), 'latin1').trim();
    return /^\d+$/.test(text) ? Number(text) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Lets idle processors poll until it is disposed of, or this process ends by itself: then the parameter is as it was.
 * Undefined, and nothing changed, where they do so already, cannot, or this user may not say so.
 */
export function pollBeforeHalt(sys = '/sys'): Disposable | undefined {
  if (haltPollNs(sys) !== 0) return undefined;
  const file = join(sys, HALT_POLL_FILE);
  try {
    accessSync(file, constants.W_OK);
    writeFileSync(file, String(HALT_POLL_NS));
  } catch {
    return undefined;
  }
  const restore = () => writeFileSync(file, '0');
  process.once('exit', restore);
  return {
    [Symbol.dispose]() {
      process.off('exit', restore);
      restore();
    },
  };
}
