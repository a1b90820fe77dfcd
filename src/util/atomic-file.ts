import { randomBytes } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

/**
 * Replaces the file at `path` so that any reader, and any crash, sees the old bytes or the new ones: written aside, synced,
 * renamed, and the directory synced so that the name is durable too.
 */
export async function writeFileAtomic(
  path: string,
  bytes: Uint8Array | string,
  options?: { mode?: number },
): Promise<void> {
  const aside = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const file = await open(aside, 'wx', options?.mode ?? 0o644);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(aside, path);
  } catch (error) {
    await rm(aside, { force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
}

/**
 * Replaces the file at `path` in one step, by bytes that are not on the disk yet: `durable` resolves when they are. The name is not
 * made durable.
 */
export async function replaceFile(path: string, pieces: readonly Uint8Array[]): Promise<{ durable: Promise<void> }> {
  const aside = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  const file = await open(aside, 'wx', 0o644);
  try {
    for (const piece of pieces) await file.writeFile(piece);
    await rename(aside, path);
  } catch (error) {
    await file.close();
    await rm(aside, { force: true });
    throw error;
  }
  return { durable: file.sync().finally(() => file.close()) };
}

/** Makes the names in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  const dir = await open(path, 'r');
  try {
    await dir.sync();
  } finally {
    await dir.close();
  }
}
