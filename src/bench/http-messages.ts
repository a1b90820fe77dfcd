/*
 * HTTP/1.1 messages in one direction of a connection (RFC 9112), as far as one who only looks on needs them: heads, and where bodies end.
 *
 *   start-line CRLF *( field-line CRLF ) CRLF [ body ]
 *
 * A body is of `Content-Length` bytes, chunked (size in hexadecimal CRLF, data CRLF, ..., 0 CRLF, trailers CRLF), or up to the end of the
 * connection.
 */

export interface Head {
  readonly startLine: string;
  /** By lower-case name; the last one of several. */
  readonly fields: ReadonlyMap<string, string>;
}

export type Body =
  { readonly kind: 'length'; readonly bytes: number } | { readonly kind: 'chunked' } | { readonly kind: 'rest' };

export interface MessageHandler {
  /** Told of each head; decides how its body is framed. Undefined: what follows is not for us. */
  head(head: Head): Body | undefined;
  /** Bytes of the body went by. */
  body(bytes: number): void;
  end(): void;
  /** What came is no HTTP/1.1, or no longer: nothing more will be told. */
  opaque(): void;
}

const maximumHead = 64 * 1024;
const maximumLine = 1024;
const none = Buffer.alloc(0);

/** How a body is framed by its own fields. */
export function framingOf(fields: Head['fields']): Body | undefined {
  if (/(^|,)\s*chunked\s*$/i.test(fields.get('transfer-encoding') ?? '')) return { kind: 'chunked' };
  const length = fields.get('content-length');
  return length !== undefined && /^\d{1,15}$/.test(length) ? { kind: 'length', bytes: Number(length) } : undefined;
}

export class MessageReader {
  #state: 'head' | 'length' | 'rest' | 'size' | 'data' | 'trailer' | 'opaque' = 'head';
  /** Of a head or a line that has not ended yet. */
  #text = none;
  /** Bytes of the body, or of the chunk with its CRLF, that are still to come. */
  #left = 0;

  constructor(private readonly handler: MessageHandler) {}

  push(bytes: Buffer): void {
    for (let at = 0; at < bytes.length && this.#state !== 'opaque';) at = this.#step(bytes, at);
  }

  /** The connection ended in this direction. */
  close(): void {
    if (this.#state === 'rest') this.handler.end();
    this.#state = 'opaque';
  }

  #step(bytes: Buffer, at: number): number {
    switch (this.#state) {
      case 'head':
        return this.#readHead(bytes, at);
      case 'size':
      case 'trailer':
        return this.#readLine(bytes, at);
      case 'rest':
        this.handler.body(bytes.length - at);
        return bytes.length;
      default: {
        const some = Math.min(this.#left, bytes.length - at);
        this.#left -= some;
        // Of a chunk, the two bytes after the data are none of it.
        if (this.#state === 'length') this.handler.body(some);
        else this.handler.body(Math.max(0, this.#left + some - 2) - Math.max(0, this.#left - 2));
        if (this.#left === 0) {
          if (this.#state === 'data') this.#state = 'size';
          else this.#endMessage();
        }
        return at + some;
      }
    }
  }

  /** Gathers up to and with `end`; the text before it, or undefined where it is not there yet. */
  #gather(bytes: Buffer, at: number, end: string, maximum: number): { text?: string; next: number } {
    const before = this.#text.length;
    const all = before === 0 ? bytes.subarray(at) : Buffer.concat([this.#text, bytes.subarray(at)]);
    const found = all.indexOf(end, Math.max(0, before - end.length + 1), 'latin1');
    if (found > maximum || (found < 0 && all.length > maximum)) {
      this.#giveUp();
      return { next: bytes.length };
    }
    if (found < 0) {
      this.#text = Buffer.from(all);
      return { next: bytes.length };
    }
    this.#text = none;
    return { text: all.toString('latin1', 0, found), next: at + found + end.length - before };
  }

  #readHead(bytes: Buffer, at: number): number {
    // Empty lines before a start line are to be passed over (RFC 9112, section 2.2).
    if (this.#text.length === 0 && (bytes[at] === 0x0d || bytes[at] === 0x0a)) return at + 1;
    // What is no text at all (TLS, say) is found out at its first byte.
    if (this.#text.length === 0 && (bytes[at] < 0x41 || bytes[at] > 0x5a)) {
      this.#giveUp();
      return bytes.length;
    }
    const { text, next } = this.#gather(bytes, at, '\r\n\r\n', maximumHead);
    if (text === undefined) return next;
    const [startLine, ...lines] = text.split('\r\n');
    const fields = new Map<string, string>();
    for (const line of lines) {
      const colon = line.indexOf(':');
      if (colon > 0) fields.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim());
    }
    const body = /(^| )HTTP\/1\.[01]( |$)/.test(startLine) ? this.handler.head({ startLine, fields }) : undefined;
    if (body === undefined) this.#giveUp();
    else if (body.kind === 'chunked') this.#state = 'size';
    else if (body.kind === 'rest') this.#state = 'rest';
    else if (body.bytes === 0) this.#endMessage();
    else {
      this.#state = 'length';
      this.#left = body.bytes;
    }
    return next;
  }

  #readLine(bytes: Buffer, at: number): number {
    const { text, next } = this.#gather(bytes, at, '\r\n', maximumLine);
    if (text === undefined) return next;
    if (this.#state === 'trailer') {
      if (text === '') this.#endMessage();
      return next;
    }
    const size = /^[0-9a-f]{1,12}(?=\s*(;|$))/i.exec(text)?.[0];
    if (size === undefined) this.#giveUp();
    else if (/^0+$/.test(size)) this.#state = 'trailer';
    else {
      this.#state = 'data';
      this.#left = parseInt(size, 16) + 2;
    }
    return next;
  }

  #endMessage(): void {
    this.#state = 'head';
    this.handler.end();
  }

  #giveUp(): void {
    this.#state = 'opaque';
    this.#text = none;
    this.handler.opaque();
  }
}
