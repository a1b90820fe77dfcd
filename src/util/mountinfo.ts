import { readFile } from 'node:fs/promises';

/** One line of /proc/self/mountinfo (proc_pid_mountinfo(5)). */
export interface MountEntry {
  /** `major:minor` of the filesystem. */
  readonly device: string;
  readonly target: string;
  /** Filesystem type with its subtype, such as `fuse.lazylayer`. */
  readonly type: string;
  readonly source: string;
  /** Options of the filesystem itself, separated by commas. */
  readonly superOptions: string;
}

/** Every mount that this process sees, in the order in which they were made: a later one covers an earlier one. */
export async function listMounts(): Promise<MountEntry[]> {
  return parseMountinfo(await readFile('/proc/self/mountinfo', 'utf8'));
}

/*
 * 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
 * id parent dev root target options [optional fields…] - type source super-options
 */
export function parseMountinfo(text: string): MountEntry[] {
  const mounts: MountEntry[] = [];
  for (const line of text.split('\n')) {
    const fields = line.split(' ');
    const dash = fields.indexOf('-', 6);
    if (dash < 0) continue;
    mounts.push({
      device: fields[2],
      target: unescape(fields[4]),
      type: fields[dash + 1],
      source: unescape(fields[dash + 2]),
      superOptions: fields[dash + 3] ?? '',
    });
  }
  return mounts;
}

/** The kernel writes space, tab, newline and backslash as three octal digits, and leaves every other byte. */
function unescape(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
}
