import { closeSync, openSync, writeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { haltPollNs } from '../util/halt-polling.js';
import type { Held } from './alert.js';

/** Processors that wait for nothing poll all at once: of many, more power than files are worth. */
const MOST_PROCESSORS = 8;

/** Microseconds as an i32 in native byte order: no latency, and as much as there is (the kernel's default). */
const none = new Uint8Array(Int32Array.of(0).buffer);
const any = new Uint8Array(Int32Array.of(2_000_000_000).buffer);

/**
 * Asks the kernel that idle processors wake without latency: they poll, as `cpu_dma_latency` of its power management has it
 * (Documentation/power/pm_qos_interface.rst). No setting of the machine changes. What is asked for ends with `release`, and with the
 * descriptor, however this process ends.
 */
export class WakeLatency implements Held, Disposable {
  #fd: number;

  private constructor(
    fd: number,
    private readonly needed: () => boolean,
  ) {
    this.#fd = fd;
  }

  /** Asks where it is `needed` at that time. Undefined where this user may not ask. */
  static open(needed = halts, device = '/dev/cpu_dma_latency'): WakeLatency | undefined {
    try {
      return new WakeLatency(openSync(device, 'r+'), needed);
    } catch {
      return undefined;
    }
  }

  hold(): void {
    if (this.#fd >= 0 && this.needed()) this.#ask(none);
  }

  release(): void {
    this.#ask(any);
  }

  [Symbol.dispose](): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  #ask(latency: Uint8Array): void {
    if (this.#fd < 0) return;
    try {
      writeSync(this.#fd, latency);
    } catch {
      // Only speed depends on it.
      this[Symbol.dispose]();
    }
  }
}

/** Where being woken is dear: in a virtual machine of a few processors that halt as soon as they are idle. */
export function halts(): boolean {
  const processors = availableParallelism();
  return processors > 1 && processors <= MOST_PROCESSORS && haltPollNs() === 0;
}
