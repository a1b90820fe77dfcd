/** The first multiple of `step` that is no less. */
export function roundUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}

/** The same bytes as a Buffer, which are not copied: `length` of them from `offset`. */
export function bufferOf(bytes: Uint8Array, offset = 0, length = bytes.byteLength - offset): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset + offset, length);
}

/**
 * Puts pieces into memory, one behind the other, and gives how many bytes came; more than there is room for where it stopped at that.
 * `onCame` hears of each piece that is there, by all that has come.
 */
export async function gather(
  pieces: AsyncIterable<Uint8Array>,
  into: Uint8Array,
  onCame?: (come: number) => void,
): Promise<number> {
  let come = 0;
  for await (const piece of pieces) {
    const at = come;
    come += piece.byteLength;
    if (come > into.byteLength) break;
    into.set(piece, at);
    onCame?.(come);
  }
  return come;
}
