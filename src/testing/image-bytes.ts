/** The same bytes as a stream, in pieces of `size`, all in one reused buffer: who keeps a view of a piece sees it change. */
export async function* inPieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array, void, undefined> {
  const piece = new Uint8Array(size);
  for (let at = 0; at < bytes.byteLength; at += size) {
    const part = bytes.subarray(at, at + size);
    piece.set(part);
    yield piece.subarray(0, part.byteLength);
    piece.fill(0xee);
  }
}

/** All bytes of a stream. */
export async function collect(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const piece of source) parts.push(Buffer.from(piece));
  return Buffer.concat(parts);
}
