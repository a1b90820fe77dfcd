import { FormatError } from '../errors.js';
import { NO_BYTES } from '../toc/entry.js';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const MAX_DEPTH = 64;

/** What a backslash and this byte stand for. */
const escapes: Readonly<Record<string, number>> = {
  '"': 0x22,
  '\\': 0x5c,
  '/': 0x2f,
  b: 8,
  f: 12,
  n: 10,
  r: 13,
  t: 9,
};

/** A few words by their bytes, to be found in a document without taking them out of it. */
export class Words<V> {
  readonly #byHash = new Map<number, { word: Uint8Array; value: V }>();

  /** @throws RangeError where two words have one hash: the sets are fixed, so a test would see it */
  constructor(words: Iterable<readonly [string, V]>) {
    for (const [text, value] of words) {
      const word = Buffer.from(text, 'latin1');
      const hash = hashOf(word, 0, word.length);
      if (this.#byHash.has(hash)) throw new RangeError(`${text} has another word's hash`);
      this.#byHash.set(hash, { word, value });
    }
  }

  find(bytes: Uint8Array, start = 0, end = bytes.length, hash = hashOf(bytes, start, end)): V | undefined {
    const found = this.#byHash.get(hash);
    if (found?.word.length !== end - start) return undefined;
    for (let i = 0; i < found.word.length; i++) if (found.word[i] !== bytes[start + i]) return undefined;
    return found.value;
  }
}

function hashOf(bytes: Uint8Array, start: number, end: number): number {
  let hash = 0;
  for (let i = start; i < end; i++) hash = (Math.imul(hash, 31) + bytes[i]) | 0;
  return hash;
}

/**
 * Reads JSON (RFC 8259) from bytes, value by value, so that a document of many megabytes makes no objects that its reader does
 * not want. Strings are bytes: what is not UTF-8 survives, and escapes become UTF-8. Errors give the offset in bytes.
 */
export class JsonCursor {
  at = 0;

  constructor(
    private readonly bytes: Buffer,
    private readonly what: string,
  ) {}

  /** The next byte that is not white space, not consumed; -1 at the end. */
  peek(): number {
    const { bytes } = this;
    for (; this.at < bytes.length; this.at++) {
      const c = bytes[this.at];
      if (c !== 0x20 && c !== 0x0a && c !== 0x09 && c !== 0x0d) return c;
    }
    return -1;
  }

  fail(expected: string, offset = this.at): never {
    const found =
      offset >= this.bytes.length ? 'the end' : JSON.stringify(this.bytes.toString('utf8', offset, offset + 24));
    throw new FormatError(this.what, { offset, expected, found });
  }

  expect(character: number): void {
    if (this.peek() !== character) this.fail(`"${String.fromCharCode(character)}"`);
    this.at++;
  }

  /**
   * Steps through an object: true with the cursor before a key, or past the end. Call with `first` true once after the opening
   * brace was consumed, then with false after each value. Arrays go the same way with `close` "]".
   */
  more(first: boolean, close: number): boolean {
    const c = this.peek();
    if (c === close) {
      this.at++;
      return false;
    }
    if (first) return true;
    this.expect(0x2c);
    if (this.peek() === close) this.fail('a value');
    return true;
  }

  /** A string's bytes: a view of the document where it has no escapes. */
  string(): Buffer {
    const start = this.#open();
    const end = this.#close(start);
    if (end < 0) return this.#escaped(start);
    this.at = end + 1;
    return end === start ? NO_BYTES : this.bytes.subarray(start, end);
  }

  /** What `words` has for the string, or undefined; no memory is taken for it. */
  word<V>(words: Words<V>): V | undefined {
    const start = this.#open();
    const { bytes } = this;
    let hash = 0; // as `hashOf` has it, in the one pass that finds the end
    for (let i = start; i < bytes.length; i++) {
      const c = bytes[i];
      if (c === QUOTE) {
        this.at = i + 1;
        return words.find(bytes, start, i, hash);
      }
      if (c === BACKSLASH) return words.find(this.#escaped(start));
      if (c < 0x20) this.fail('a string without control characters', i);
      hash = (Math.imul(hash, 31) + c) | 0;
    }
    return this.fail('the end of a string', bytes.length);
  }

  /**
   * Hands a string without escapes to `parse` as a range of the document, and gives what that gives.
   * Where there are escapes, or the result is undefined, it was not what was `expected`. A string of the `usual` length is not
   * searched for its end: `parse` must refuse a quote, a backslash and control characters within.
   */
  parsed<V>(
    parse: (bytes: Uint8Array, start: number, end: number) => V | undefined,
    expected: string,
    usual: number,
  ): V {
    const start = this.#open();
    const end = this.bytes[start + usual] === QUOTE ? start + usual : this.#close(start);
    const value = end < 0 ? undefined : parse(this.bytes, start, end);
    if (value === undefined) this.fail(expected, start - 1);
    this.at = end + 1;
    return value;
  }

  #open(): number {
    this.expect(QUOTE);
    return this.at;
  }

  /** Where the closing quote of the string at `start` stands; -1 where there are escapes before it. */
  #close(start: number): number {
    const { bytes } = this;
    for (let i = start; i < bytes.length; i++) {
      const c = bytes[i];
      if (c === QUOTE) return i;
      if (c === BACKSLASH) return -1;
      if (c < 0x20) this.fail('a string without control characters', i);
    }
    return this.fail('the end of a string', bytes.length);
  }

  #skipString(): void {
    const start = this.#open();
    const end = this.#close(start);
    if (end < 0) this.#escaped(start);
    else this.at = end + 1;
  }

  #escaped(start: number): Buffer {
    const { bytes } = this;
    // No escape is shorter than what it stands for. One piece of memory, as a piece an escape would take a hundred times the text.
    const out = Buffer.allocUnsafe(this.#escapedEnd(start) - start);
    let length = 0;
    for (let i = start; ; i++) {
      const c = bytes[i];
      if (c < 0x20) this.fail('a string without control characters', i);
      if (c === QUOTE) {
        this.at = i + 1;
        return out.subarray(0, length);
      }
      if (c !== BACKSLASH) {
        out[length++] = c;
        continue;
      }
      const kind = String.fromCharCode(bytes[i + 1]);
      if (kind === 'u') {
        let text = String.fromCharCode(this.#hex(i + 2));
        i += 5;
        // Two escapes that are a pair of surrogates are one character; one alone becomes U+FFFD.
        if (/[\ud800-\udbff]/.test(text) && bytes[i + 1] === BACKSLASH && bytes[i + 2] === 0x75) {
          const second = String.fromCharCode(this.#hex(i + 3));
          if (/[\udc00-\udfff]/.test(second)) {
            text += second;
            i += 6;
          }
        }
        length += out.write(text, length, 'utf8');
      } else {
        if (!Object.hasOwn(escapes, kind)) this.fail('an escape', i);
        out[length++] = escapes[kind];
        i += 1;
      }
    }
  }

  /** Where the closing quote of a string with escapes stands. */
  #escapedEnd(start: number): number {
    for (let i = start; i < this.bytes.length; i++) {
      const c = this.bytes[i];
      if (c === QUOTE) return i;
      if (c === BACKSLASH) i++;
    }
    return this.fail('the end of a string', this.bytes.length);
  }

  #hex(at: number): number {
    const digits = this.bytes.toString('latin1', at, at + 4);
    if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.fail('four hex digits', at);
    return Number.parseInt(digits, 16);
  }

  /** A number. Integers of up to 15 digits take the short way. */
  number(): number {
    const { bytes } = this;
    this.peek();
    const start = this.at;
    let i = start;
    let value = 0;
    for (; i < bytes.length && i - start < 15; i++) {
      const digit = bytes[i] - 0x30;
      if (!(digit >= 0 && digit <= 9)) break;
      value = value * 10 + digit;
    }
    const after = bytes[i];
    const plain = after !== 0x2e && after !== 0x65 && after !== 0x45 && !(after >= 0x30 && after <= 0x39);
    if (i > start && plain && (bytes[start] !== 0x30 || i === start + 1)) {
      this.at = i;
      return value;
    }
    const text = /^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/.exec(
      bytes.toString('latin1', start, start + 400),
    );
    if (text === null || text[0].length === 400) return this.fail('a number');
    this.at = start + text[0].length;
    return Number(text[0]);
  }

  /** Consumes `null` where it is next. */
  null(): boolean {
    return this.peek() === 0x6e && this.#literal('null');
  }

  #literal(word: string): boolean {
    if (this.bytes.toString('latin1', this.at, this.at + word.length) !== word) this.fail('a value');
    this.at += word.length;
    return true;
  }

  /** Passes over a value of any kind. */
  skip(depth = 0): void {
    if (depth > MAX_DEPTH) this.fail(`nesting of at most ${MAX_DEPTH}`);
    const c = this.peek();
    if (c === QUOTE) this.#skipString();
    else if (c === 0x7b) {
      this.at++;
      for (let first = true; this.more(first, 0x7d); first = false) {
        this.#skipString();
        this.expect(0x3a);
        this.skip(depth + 1);
      }
    } else if (c === 0x5b) {
      this.at++;
      for (let first = true; this.more(first, 0x5d); first = false) this.skip(depth + 1);
    } else if (c === 0x74) this.#literal('true');
    else if (c === 0x66) this.#literal('false');
    else if (c === 0x6e) this.#literal('null');
    else this.number();
  }
}
