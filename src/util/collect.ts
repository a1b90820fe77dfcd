const delayMs = 1000;
let timer: NodeJS.Timeout | undefined;

/**
 * Has garbage collected soon, once for all who ask meanwhile, in a process that was started with `--expose-gc`. Shared memory does
 * not press V8 to collect: a thread that makes little garbage would keep what it let go of for hours.
 */
export function collectSoon(): void {
  if (globalThis.gc === undefined) return;
  timer ??= setTimeout(() => {
    timer = undefined;
    globalThis.gc?.();
  }, delayMs).unref();
}
