import { execFileSync } from 'node:child_process';

/**
 * Writes a script that can be run at once. Another process does it: a descriptor of ours that is open for writing would be inherited by whatever
 * another test starts at that moment, and who runs the script then finds it busy (ETXTBSY).
 */
export function writeProgram(path: string, script: string): void {
  execFileSync('sh', ['-ec', 'cat >"$0"; chmod 755 "$0"', path], { input: `#!/bin/sh\n${script}\n` });
}
