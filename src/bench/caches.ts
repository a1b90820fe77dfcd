import { writeFile } from 'node:fs/promises';
import { runCommand } from '../util/command.js';

/** Drops the page cache (1), dentries and inodes (2) or both (3) (proc_sys_vm(5)); false where this user may not. */
export async function dropCaches(what: 1 | 2 | 3 = 3): Promise<boolean> {
  await runCommand('sync', []);
  return writeFile('/proc/sys/vm/drop_caches', String(what)).then(
    () => true,
    () => false,
  );
}
