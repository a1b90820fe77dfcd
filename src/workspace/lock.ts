import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { tryLock } from 'fs-native-extensions';
import { codeOf, LazylayerError } from '../errors.js';

/**
 * The right to be the one process that uses a root. Given back by `release`, and by the kernel when the last process that has
 * the descriptor ends, however it ends.
 */
export interface RootLock {
  /** For a child process that shall hold the lock too. */
  readonly fd: number;
  release(): void;
}

/** @throws BUSY with the process id of who has it */
export function lockRoot(root: string): RootLock {
  mkdirSync(root, { recursive: true, mode: 0o700 });
  const path = join(root, 'lock');
  const fd = openSync(path, 'a+', 0o600);
  if (!tryLock(fd)) {
    const holder = readFileSync(path, 'latin1').trim();
    closeSync(fd);
    throw new LazylayerError(
      'BUSY',
      `${root} is in use by another lazylayer process${holder === '' ? '' : ` (pid ${holder})`}: wait for its end, or use another --root`,
    );
  }
  try {
    ftruncateSync(fd);
    writeSync(fd, `${process.pid}\n`);
  } catch (cause) {
    closeSync(fd);
    throw new LazylayerError(codeOf(cause), `${path} cannot be written`, { cause });
  }
  let released = false;
  return {
    fd,
    release() {
      if (!released) closeSync(fd);
      released = true;
    },
  };
}

/** Whether some process has the root. */
export function isLocked(root: string): boolean {
  let fd: number;
  try {
    fd = openSync(join(root, 'lock'), 'r+');
  } catch {
    return false;
  }
  try {
    return !tryLock(fd);
  } finally {
    closeSync(fd);
  }
}
