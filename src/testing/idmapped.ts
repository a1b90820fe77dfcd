import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { runCommand } from '../util/command.js';

/** Ranges `CONTAINER:HOST:COUNT`, several with commas. */
export interface IdRanges {
  readonly uids: string;
  readonly gids: string;
}

/*
 * What mount(8) of Debian 12 cannot do: a copy of a mount with its owners mapped. The numbers of the calls are the same on every
 * machine: open_tree (428), mount_setattr (442), move_mount (429).
 */
const bindMapped = `
my ($namespace, $source, $target) = @ARGV;
open(my $users, '<', $namespace) or die "$namespace: $!";
# OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC; the path is below AT_FDCWD.
my $tree = syscall(428, -100, $source, 0x80001);
die "open_tree $source: $!" if $tree < 0;
# struct mount_attr: set (MOUNT_ATTR_IDMAP), clear, propagation, user namespace.
my $attributes = pack('Q4', 0x100000, 0, 0, fileno $users);
my $path = '';
# AT_EMPTY_PATH
syscall(442, $tree, $path, 0x1000, $attributes, 32) == 0 or die "mount_setattr $source: $!";
# MOVE_MOUNT_F_EMPTY_PATH
syscall(429, $tree, $path, -100, $target, 4) == 0 or die "move_mount $target: $!";
`;

/** Binds directories, each at its target, with the owners of their files mapped. Whoever calls unmounts them. */
export async function bindIdmapped(binds: readonly { source: string; target: string }[], ids: IdRanges): Promise<void> {
  // Its first process holds the namespace until its input ends.
  const holder = spawn('unshare', ['--user', 'sh', '-c', 'echo; exec cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(holder, 'exit');
  try {
    await Promise.race([once(holder.stdout, 'data'), ended]);
    for (const [file, ranges] of [
      ['uid_map', ids.uids],
      ['gid_map', ids.gids],
    ])
      await writeFile(`/proc/${holder.pid}/${file}`, ranges.replaceAll(':', ' ').replaceAll(',', '\n'));
    for (const { source, target } of binds)
      await runCommand('perl', ['-e', bindMapped, `/proc/${holder.pid}/ns/user`, source, target]);
  } finally {
    holder.stdin.end();
    await ended;
  }
}
