import { hash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { codeOf } from '../errors.js';
import { writeFileAtomic } from '../util/atomic-file.js';
import { Presence } from './presence.js';

/*
 * The presence bitmap on disk (little-endian, offsets in bytes):
 *
 *    0  8  magic "lazybits"
 *    8  4  version
 *   12  4  chunks
 *   16 32  SHA-256 of everything from byte 48, then of the 16 bytes above and the tree's source digest
 *   48     words of 32 bits, one bit a chunk
 *
 * The checksum ties the bits to one tree: bits of another would call the wrong chunks present.
 */
const MAGIC = 'lazybits';
const VERSION = 1;
const HEADER_BYTES = 48;

function checksum(file: Buffer, source: string): Buffer {
  return hash(
    'sha256',
    Buffer.concat([file.subarray(HEADER_BYTES), file.subarray(0, 16), Buffer.from(source)]),
    'buffer',
  );
}

/** Writes the bits atomically and durably. `source` is the source digest of the tree whose chunks they are. */
export async function saveBitmap(path: string, presence: Presence, chunks: number, source: string): Promise<void> {
  const bits = Buffer.from(presence.buffer, 0, Presence.bytes(chunks));
  const file = Buffer.allocUnsafe(HEADER_BYTES + bits.length);
  file.write(MAGIC, 0, 'latin1');
  file.writeUInt32LE(VERSION, 8);
  file.writeUInt32LE(chunks, 12);
  bits.copy(file, HEADER_BYTES); // one copy, so that bits set meanwhile cannot make the checksum wrong
  checksum(file, source).copy(file, 16);
  await writeFileAtomic(path, file);
}

/** The bits as they were saved, or undefined where there are none, or none that can be believed for this tree. */
export async function loadBitmap(path: string, chunks: number, source: string): Promise<Presence | undefined> {
  let file: Buffer;
  try {
    file = await readFile(path);
  } catch (error) {
    if (codeOf(error) === 'NOT_FOUND') return undefined;
    throw error;
  }
  const bytes = Presence.bytes(chunks);
  if (
    file.length !== HEADER_BYTES + bytes ||
    file.toString('latin1', 0, 8) !== MAGIC ||
    file.readUInt32LE(8) !== VERSION ||
    file.readUInt32LE(12) !== chunks ||
    !checksum(file, source).equals(file.subarray(16, HEADER_BYTES))
  )
    return undefined;
  const presence = new Presence(new SharedArrayBuffer(bytes));
  Buffer.from(presence.buffer).set(file.subarray(HEADER_BYTES));
  return presence;
}

/** Chunks in all and chunks present as a bitmap file says, for reports; undefined for a file that is none. */
export async function countBitmap(path: string): Promise<{ chunks: number; present: number } | undefined> {
  const file = await readFile(path).catch(() => undefined);
  if (file === undefined || file.length < HEADER_BYTES || file.toString('latin1', 0, 8) !== MAGIC) return undefined;
  const chunks = file.readUInt32LE(12);
  if (file.length !== HEADER_BYTES + Presence.bytes(chunks)) return undefined;
  const presence = new Presence(new SharedArrayBuffer(Presence.bytes(chunks)));
  Buffer.from(presence.buffer).set(file.subarray(HEADER_BYTES));
  return { chunks, present: presence.count() };
}
