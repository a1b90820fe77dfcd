import { writeFile } from 'node:fs/promises';
import { runCommand } from '../util/command.js';

/** Drops page cache, dentries and inodes (proc_sys_vm(5)); false where this user may not. */
export async function dropCaches(): Promise<boolean> {
  await runCommand('sync', []);
  return writeFile('/proc/sys/vm/drop_caches', '3').then(
    () => true,
    () => false,
  );
}
