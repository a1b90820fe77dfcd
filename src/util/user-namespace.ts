import { readFileSync } from 'node:fs';

/*
 * /proc/self/uid_map (user_namespaces(7)): a line for each range of ids, of three numbers: the first id inside, the first outside, how many.
 */

/** Whether the ids of a map are not simply those of the machine. */
export function inUserNamespace(uidMap: string): boolean {
  return uidMap.trim().split(/\s+/).join(' ') !== '0 0 4294967295';
}

/** What an id inside is outside; itself where the map does not have it. */
export function outsideId(uidMap: string, id: number): number {
  for (const line of uidMap.trim().split('\n')) {
    const [inside, outside, count] = line.trim().split(/\s+/).map(Number);
    if (id >= inside && id < inside + count) return outside + id - inside;
  }
  return id;
}

/** Who runs this process, to the namespace around its own: under `podman unshare` not the root that it is inside. */
export function ownerId(): number {
  return outsideId(readFileSync('/proc/self/uid_map', 'utf8'), process.getuid!());
}
