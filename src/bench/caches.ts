import { writeFile } from 'node:fs/promises';
import { LazylayerError } from '../errors.js';
import { runCommand } from '../util/command.js';

/** The page cache (1), dentries and inodes (2) or both (3): proc_sys_vm(5). */
type Caches = 1 | 2 | 3;

const switchPath = '/proc/sys/vm/drop_caches';

/** Drops them. @throws PERMISSION_DENIED with the reason where this process may not: also root in a container whose /proc/sys is read-only */
export async function dropCaches(what: Caches = 3): Promise<void> {
  await runCommand('sync', []);
  await writeFile(switchPath, String(what)).catch((cause: NodeJS.ErrnoException) => {
    throw new LazylayerError(
      'PERMISSION_DENIED',
      `the page cache cannot be dropped: ${switchPath}: ${cause.code}; that takes root and, in a container, a writable /proc/sys`,
      { cause },
    );
  });
}
