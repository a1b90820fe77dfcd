import { open } from 'node:fs/promises';
import { codeOf, FormatError } from '../errors.js';

/*
 * The start of an LMDB file: two pages, each with a meta record of which the one with the higher transaction counts (little-endian,
 * offsets in bytes from the page):
 *
 *   24  4  magic 0xbeefc0de
 *  144  8  number of the last page in use
 *  152  8  transaction
 */
const PAGE = 4096;
const MAGIC = 0xbeefc0de;

/**
 * Holds the head of a database file against its length. LMDB maps the file and believes it: one that is no database, or was cut
 * short, ends the process with a signal instead of an error. A file that is not there is sound.
 * @throws FormatError
 */
export async function checkIndexFile(path: string): Promise<void> {
  const file = await open(path, 'r').catch((error: unknown) => {
    if (codeOf(error) === 'NOT_FOUND') return undefined;
    throw error;
  });
  if (file === undefined) return;
  try {
    const { size } = await file.stat();
    const head = Buffer.alloc(2 * PAGE);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    const metas = [0, PAGE].filter((page) => bytesRead === head.length && head.readUInt32LE(page + 24) === MAGIC);
    if (metas.length < 2) throw new FormatError(path, { offset: 24, expected: 'two LMDB meta pages', found: 'others' });
    const newest = head.readBigUInt64LE(152) >= head.readBigUInt64LE(PAGE + 152) ? 0 : PAGE;
    const needed = (Number(head.readBigUInt64LE(newest + 144)) + 1) * PAGE;
    if (needed > size) throw new FormatError(path, { expected: `${needed} bytes`, found: `${size}` });
  } finally {
    await file.close();
  }
}
