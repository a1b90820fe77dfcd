import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { find, type FaultAction } from './registry-faults.js';

/** Bytes that a registry serves: in memory, or in a file that is read as they are asked for. */
export type Content = { readonly size: number } & ({ readonly bytes: Uint8Array } | { readonly file: string });

const pieceSize = 64 * 1024;

async function* pieces(content: Content, start: number, end: number): AsyncGenerator<Uint8Array> {
  if ('file' in content) {
    if (end > start) yield* createReadStream(content.file, { start, end: end - 1, highWaterMark: 4 * pieceSize });
    return;
  }
  for (let at = start; at < end; at += pieceSize) yield content.bytes.subarray(at, Math.min(at + pieceSize, end));
}

function corrupted(piece: Uint8Array, at: number, fault: { offset: number; length: number }): Uint8Array {
  const from = Math.max(0, fault.offset - at);
  const to = Math.min(piece.byteLength, fault.offset + fault.length - at);
  if (from >= to) return piece;
  const copy = Uint8Array.from(piece);
  for (let i = from; i < to; i++) copy[i] ^= 0xff;
  return copy;
}

/**
 * Writes bytes [start, end) of the content as the body, with the faults that concern bodies. `count` is told of each piece. Ends
 * when the body has ended, or the client or a fault has closed the connection.
 */
export async function sendBody(
  response: ServerResponse,
  content: Content,
  range: { start: number; end: number },
  faults: readonly FaultAction[],
  count: (bytes: number) => void,
): Promise<void> {
  const corrupt = find(faults, 'corrupt');
  const slow = find(faults, 'slow');
  const cut = find(faults, 'truncate') ?? find(faults, 'reset') ?? find(faults, 'stall');
  let left = cut?.after ?? Infinity;
  let at = range.start;
  for await (const whole of pieces(content, range.start, range.end)) {
    if (response.destroyed) return;
    let piece = whole.byteLength > left ? whole.subarray(0, left) : whole;
    if (corrupt !== undefined) piece = corrupted(piece, at, corrupt);
    at += piece.byteLength;
    left -= piece.byteLength;
    count(piece.byteLength);
    const step = slow === undefined ? piece.byteLength : Math.max(1, Math.floor(slow.bytesPerMs * 5));
    for (let i = 0; i < piece.byteLength; i += step) {
      if (slow !== undefined) await sleep(5);
      await write(response, piece.subarray(i, i + step));
      if (response.destroyed) return;
    }
    if (left <= 0) break;
  }
  if (cut === undefined) {
    const excess = find(faults, 'excess');
    const late = find(faults, 'late-end');
    if (late !== undefined) await sleep(late.ms);
    response.end(excess === undefined ? undefined : Buffer.alloc(excess.bytes));
    return;
  }
  if (cut.after === 0) response.flushHeaders();
  if (cut.kind === 'stall') return;
  if (cut.kind === 'truncate' && find(faults, 'chunked') !== undefined) return void response.end();
  const { socket } = response;
  if (socket === null) return;
  if (cut.kind === 'reset') {
    await sleep(5); // what was written leaves before the reset overtakes it
    socket.resetAndDestroy();
  } else socket.end();
}

async function write(response: ServerResponse, bytes: Uint8Array): Promise<void> {
  if (response.write(bytes) || response.destroyed) return;
  const controller = new AbortController();
  const { signal } = controller;
  await Promise.race([once(response, 'drain', { signal }), once(response, 'close', { signal })]).catch(() => {});
  controller.abort();
}
