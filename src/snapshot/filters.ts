import { LazylayerError } from '../errors.js';
import { compileRegexp, type Regexp } from './regexp.js';
import type { Info } from './snapshotter.js';

type Filter = (info: Info) => boolean;

/**
 * Reads filters in containerd's syntax. A snapshot passes that any of them takes, and every one where there are none.
 *
 *     filter    = [selector *("," selector)]          all selectors must hold; an empty filter takes everything
 *     selector  = fieldpath [operator value]          without an operator: the field is there
 *     fieldpath = field *("." field)                  kind, name, parent, labels.KEY; anything else is never there
 *     field     = quoted | 1*(letter | digit | "_" | "-")
 *     operator  = "==" | "!=" | "~="                  "~=": a regular expression in RE2's syntax matches somewhere in the value
 *     value     = quoted | 1*(anything but "," and spaces)
 *     quoted    = '"' Go string syntax '"'            for "~=" also between slashes or bars
 *
 * Spaces may stand before a field, an operator and a value. A field that is not there is the empty string to `!=` and `~=`. A
 * regular expression takes time in proportion to its own length times the text's, whatever it is.
 * @throws INVALID_ARGUMENT that says where and why
 */
export function parseFilters(filters: readonly string[]): Filter {
  const all = filters.map((text) => new Parser(text).filter());
  return all.length === 0 ? () => true : (info) => all.some((takes) => takes(info));
}

/** The value of a field; undefined where it is not there. */
function valueOf(info: Info, path: readonly string[]): string | undefined {
  switch (path[0]) {
    case 'kind':
      return info.kind;
    case 'name':
      return info.name;
    case 'parent':
      return info.parent;
    case 'labels': {
      const key = path.slice(1).join('.');
      return Object.hasOwn(info.labels, key) ? info.labels[key] : undefined;
    }
    default:
      return undefined;
  }
}

const space = /\s/;
const fieldCharacter = /[A-Za-z0-9_-]/;
const valueCharacter = /[^\s,\p{C}]/u;
const escapes: Readonly<Record<string, string>> = { a: '\x07', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' };
/** Digits and base of the numeric escapes. */
const numeric: Readonly<Record<string, readonly [number, number]>> = { x: [2, 16], u: [4, 16], U: [8, 16] };

class Parser {
  readonly #text: string;
  /** Code points, so that an offset is a character. */
  readonly #input: readonly string[];
  #at = 0;

  constructor(text: string) {
    this.#text = text;
    this.#input = [...text];
  }

  filter(): Filter {
    if (this.#text === '') return () => true;
    const selectors = [this.#selector()];
    while (this.#at < this.#input.length) {
      if (this.#input[this.#at] !== ',') this.#fail('a comma or the end');
      this.#at++;
      selectors.push(this.#selector());
    }
    return (info) => selectors.every((takes) => takes(info));
  }

  #selector(): Filter {
    const path = [this.#field()];
    while (this.#input[this.#at] === '.') {
      this.#at++;
      path.push(this.#field());
    }
    const next = this.#input[this.#at];
    if (next === undefined || next === ',') return (info) => valueOf(info, path) !== undefined;
    const operator = this.#operator();
    const value = this.#value(operator === '~=');
    switch (operator) {
      case '==':
        return (info) => valueOf(info, path) === value;
      case '!=':
        return (info) => (valueOf(info, path) ?? '') !== value;
      case '~=': {
        const regexp = this.#regexp(value);
        return (info) => regexp.matches(valueOf(info, path) ?? '');
      }
    }
  }

  #field(): string {
    this.#skipSpace();
    if (this.#input[this.#at] === '"') return this.#quoted();
    return this.#run(fieldCharacter) || this.#fail('a field, or one in double quotes');
  }

  #operator(): '==' | '!=' | '~=' {
    this.#skipSpace();
    const operator = this.#run(/[=!~]/);
    if (operator === '==' || operator === '!=' || operator === '~=') return operator;
    this.#at -= operator.length;
    return this.#fail('an operator (==, != or ~=)');
  }

  #value(slashesQuote: boolean): string {
    this.#skipSpace();
    const first = this.#input[this.#at] ?? '';
    if (first === '"' || (slashesQuote && (first === '/' || first === '|'))) return this.#quoted();
    // What would begin another token has to be quoted.
    if (/^[/|.=!~]?$/.test(first)) this.#fail(`a value, in double quotes where it begins with one of / | . = ! ~`);
    return this.#run(valueCharacter) || this.#fail('a value');
  }

  #regexp(value: string): Regexp {
    try {
      return compileRegexp(value);
    } catch (cause) {
      throw new LazylayerError('INVALID_ARGUMENT', `filter ${this.#text}`, { cause });
    }
  }

  /** A literal as Go writes strings, in whichever of its quotes it begins with; another quote need not, and cannot, be escaped. */
  #quoted(): string {
    const quote = this.#input[this.#at++];
    const bytes: Buffer[] = [];
    for (;;) {
      const c = this.#input[this.#at];
      if (c === undefined || c === '\n' || c === '\0') this.#fail(`a closing ${quote}`);
      this.#at++;
      if (c === quote) break;
      bytes.push(c === '\\' ? this.#escape(quote) : Buffer.from(c));
    }
    return Buffer.concat(bytes).toString();
  }

  #escape(quote: string): Buffer {
    const c = this.#input[this.#at] ?? '';
    if (c === quote || c === '\\' || c in escapes) {
      this.#at++;
      return Buffer.from(escapes[c] ?? c);
    }
    // Octal escapes have no letter of their own.
    const [digits, base] = numeric[c] ?? [3, 8];
    const from = numeric[c] === undefined ? this.#at : this.#at + 1;
    const text = this.#input.slice(from, from + digits).join('');
    const valid = text.length === digits && (base === 8 ? /^[0-7]+$/ : /^[0-9a-fA-F]+$/).test(text);
    const value = parseInt(text, base);
    const byte = c !== 'u' && c !== 'U';
    if (!valid || value > (byte ? 0xff : 0x10ffff)) this.#fail('an escape sequence of a Go string');
    this.#at = from + digits;
    return byte ? Buffer.of(value) : Buffer.from(String.fromCodePoint(value));
  }

  #skipSpace(): void {
    this.#run(space);
  }

  #run(character: RegExp): string {
    const from = this.#at;
    while (this.#at < this.#input.length && character.test(this.#input[this.#at])) this.#at++;
    return this.#input.slice(from, this.#at).join('');
  }

  #fail(expected: string): never {
    const found = this.#input[this.#at];
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `filter ${this.#text} at character ${this.#at}: expected ${expected}, found ${found === undefined ? 'the end' : JSON.stringify(found)}`,
    );
  }
}
