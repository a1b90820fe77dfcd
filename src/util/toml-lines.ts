import { parse } from 'smol-toml';

/** Where something is in a TOML document: table and key names, and indices of arrays. */
export type KeyPath = readonly (string | number)[];

/**
 * The lines, from 1, on which the keys of a TOML document first appear. The parser tells no positions of what it accepts, and a
 * value that is well-formed can still be wrong. Wants a document that the parser accepts.
 */
export class KeyLines {
  readonly #lines = new Map<string, number>();
  /** Elements so far of each array of tables. */
  readonly #tables = new Map<string, number>();
  #at = 0;
  #line = 1;

  constructor(private readonly text: string) {
    let table: KeyPath = [];
    for (this.#space(); this.#at < text.length; this.#space()) {
      if (this.#peek() === '[') table = this.#header();
      else this.#pair(table);
    }
  }

  /** The line of a key, or of the nearest table around it that is written down. */
  lineOf(path: KeyPath): number | undefined {
    for (let n = path.length; n > 0; n--) {
      const line = this.#lines.get(JSON.stringify(path.slice(0, n)));
      if (line !== undefined) return line;
    }
    return undefined;
  }

  #peek(): string {
    return this.text[this.#at] ?? '';
  }

  #step(count = 1): void {
    for (; count > 0 && this.#at < this.text.length; count--) if (this.text[this.#at++] === '\n') this.#line++;
  }

  /** White space, line ends and comments. */
  #space(): void {
    for (;;) {
      if (/\s/.test(this.#peek())) this.#step();
      else if (this.#peek() === '#') while (this.#at < this.text.length && this.#peek() !== '\n') this.#step();
      else return;
    }
  }

  #record(path: KeyPath): void {
    const key = JSON.stringify(path);
    if (!this.#lines.has(key)) this.#lines.set(key, this.#line);
  }

  /** `[a.b]` and `[[a.b]]`. A name on the way that is an array of tables means its last element. */
  #header(): KeyPath {
    this.#step();
    const isArray = this.#peek() === '[';
    if (isArray) this.#step();
    const path: (string | number)[] = [];
    const keys = this.#keys();
    keys.forEach((key, i) => {
      path.push(key);
      this.#record(path);
      const id = JSON.stringify(path);
      const last = i === keys.length - 1;
      if (last && isArray) this.#tables.set(id, (this.#tables.get(id) ?? 0) + 1);
      const elements = this.#tables.get(id);
      if (elements === undefined) return;
      path.push(elements - 1);
      this.#record(path);
    });
    this.#step(isArray ? 2 : 1);
    return path;
  }

  #pair(table: KeyPath): void {
    const path = [...table];
    for (const key of this.#keys()) {
      path.push(key);
      this.#record(path);
    }
    this.#step(); // the equals sign
    this.#value(path);
  }

  /** A key with its dots. Leaves the position behind it and the space that follows. */
  #keys(): string[] {
    const keys: string[] = [];
    for (;;) {
      this.#space();
      const start = this.#at;
      const quote = this.#peek();
      if (quote === '"' || quote === "'") {
        this.#string();
        keys.push(Object.keys(parse(`${this.text.slice(start, this.#at)} = 0`))[0]);
      } else {
        while (/[^\s.=\]]/.test(this.#peek())) this.#step();
        keys.push(this.text.slice(start, this.#at));
      }
      this.#space();
      if (this.#peek() !== '.') return keys;
      this.#step();
    }
  }

  #value(path: KeyPath): void {
    this.#space();
    switch (this.#peek()) {
      case '"':
      case "'":
        return this.#string();
      case '[':
        return this.#list(']', (index) => {
          const element = [...path, index];
          this.#record(element);
          this.#value(element);
        });
      case '{':
        return this.#list('}', () => this.#pair(path));
      default:
        while (/[^\s,#\]}]/.test(this.#peek())) this.#step();
        // A date and a time may be parted by a space; the time is then skipped as the rest of the line is.
        if (/^ \d/.test(this.text.slice(this.#at, this.#at + 2))) {
          this.#step();
          while (/[^\s,#\]}]/.test(this.#peek())) this.#step();
        }
    }
  }

  #list(close: string, element: (index: number) => void): void {
    this.#step();
    for (let index = 0; ; index++) {
      this.#space();
      if (this.#peek() === close || this.#at >= this.text.length) return this.#step();
      element(index);
      this.#space();
      if (this.#peek() === ',') this.#step();
    }
  }

  /** Any of the four kinds of string. */
  #string(): void {
    const quote = this.#peek();
    const long = this.text.startsWith(quote.repeat(3), this.#at);
    this.#step(long ? 3 : 1);
    const end = long ? quote.repeat(3) : quote;
    while (this.#at < this.text.length && !this.text.startsWith(end, this.#at))
      this.#step(quote === '"' && this.#peek() === '\\' ? 2 : 1);
    this.#step(end.length);
    // Up to two quotes may stand right before the closing three, as part of the text.
    for (let n = 0; long && n < 2 && this.#peek() === quote; n++) this.#step();
  }
}
