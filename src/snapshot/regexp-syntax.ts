import { LazylayerError } from '../errors.js';

/** Whether a code point is in a class. */
export type CharacterClass = (codePoint: number) => boolean;

export type Assertion = 'text start' | 'text end' | 'line start' | 'line end' | 'word boundary' | 'no word boundary';

export type Node =
  | { readonly type: 'class'; readonly takes: CharacterClass }
  | { readonly type: 'assertion'; readonly assertion: Assertion }
  | { readonly type: 'sequence' | 'alternatives'; readonly nodes: readonly Node[] }
  | { readonly type: 'repeat'; readonly node: Node; readonly min: number; readonly max: number };

interface Flags {
  /** Case does not matter. */
  i: boolean;
  /** `^` and `$` also match at lines. */
  m: boolean;
  /** `.` matches newlines too. */
  s: boolean;
}

/** RE2 repeats nothing more often than this. */
const maxRepeat = 1000;
/** Groups in groups. */
const maxDepth = 200;

const word = inRanges('09AZaz__');
const perl: Readonly<Record<string, CharacterClass>> = { d: inRanges('09'), w: word, s: inRanges('\t\n\f\r  ') };
const posix: Readonly<Record<string, CharacterClass>> = {
  alnum: inRanges('09AZaz'),
  alpha: inRanges('AZaz'),
  ascii: inRanges('\0\x7f'),
  blank: inRanges('\t\t  '),
  cntrl: inRanges('\0\x1f\x7f\x7f'),
  digit: inRanges('09'),
  graph: inRanges('!~'),
  lower: inRanges('az'),
  print: inRanges(' ~'),
  punct: inRanges('!/:@[`{~'),
  space: inRanges('\t\r  '),
  upper: inRanges('AZ'),
  word,
  xdigit: inRanges('09AFaf'),
};
const controls: Readonly<Record<string, number>> = { a: 7, f: 12, t: 9, n: 10, r: 13, v: 11 };

export const isWord = word;

/** Pairs of first and last character. */
function inRanges(pairs: string): CharacterClass {
  return (c) => {
    for (let i = 0; i < pairs.length; i += 2) if (c >= pairs.charCodeAt(i) && c <= pairs.charCodeAt(i + 1)) return true;
    return false;
  };
}

const not =
  (takes: CharacterClass): CharacterClass =>
  (c) =>
    !takes(c);

function folded(takes: CharacterClass): CharacterClass {
  const other = (c: number, text: string) => {
    const folded = text.codePointAt(0)!;
    return folded !== c && takes(folded);
  };
  return (c) => {
    if (takes(c)) return true;
    const text = String.fromCodePoint(c);
    return other(c, text.toLowerCase()) || other(c, text.toUpperCase());
  };
}

/** Reads a regular expression in RE2's syntax (github.com/google/re2/wiki/Syntax); laziness and groups' names mean nothing here. */
export function parseRegexp(text: string): Node {
  return new Parser(text).parse();
}

class Parser {
  readonly #text: string;
  readonly #input: readonly string[];
  #at = 0;
  #depth = 0;
  #flags: Flags = { i: false, m: false, s: false };

  constructor(text: string) {
    this.#text = text;
    this.#input = [...text];
  }

  parse(): Node {
    const node = this.#alternatives();
    if (this.#at < this.#input.length) this.#fail('no closing parenthesis without an opening one');
    return node;
  }

  #alternatives(): Node {
    const outer = { ...this.#flags };
    if (++this.#depth > maxDepth) this.#fail(`at most ${maxDepth} nested groups`);
    const nodes = [this.#sequence()];
    while (this.#take('|')) nodes.push(this.#sequence());
    this.#depth--;
    this.#flags = outer;
    return nodes.length === 1 ? nodes[0] : { type: 'alternatives', nodes };
  }

  #sequence(): Node {
    const nodes: Node[] = [];
    for (;;) {
      const c = this.#input[this.#at];
      if (c === undefined || c === '|' || c === ')') return { type: 'sequence', nodes };
      if (this.#take('\\Q')) {
        nodes.push(...this.#quotation());
        continue;
      }
      const node = this.#atom();
      if (node !== undefined) nodes.push(this.#repeated(node));
    }
  }

  /** Up to `\E` or the end: every character stands for itself; what repeats repeats the last. */
  #quotation(): Node[] {
    const nodes: Node[] = [];
    while (this.#at < this.#input.length && !this.#take('\\E')) nodes.push(this.#literal(this.#next()));
    const last = nodes.pop();
    return last === undefined ? [] : [...nodes, this.#repeated(last)];
  }

  #repeated(node: Node): Node {
    const repetition = this.#repetition();
    if (repetition === undefined) return node;
    this.#take('?');
    const from = this.#at;
    if (this.#repetition() !== undefined) {
      this.#at = from;
      this.#fail('no repetition of a repetition');
    }
    const [min, max] = repetition;
    return { type: 'repeat', node, min, max };
  }

  #repetition(): readonly [number, number] | undefined {
    if (this.#take('*')) return [0, Infinity];
    if (this.#take('+')) return [1, Infinity];
    if (this.#take('?')) return [0, 1];
    // Braces that hold no numbers stand for themselves.
    const found = /^\{(\d{1,9})(?:(,)(\d{1,9})?)?\}/.exec(this.#input.slice(this.#at, this.#at + 24).join(''));
    if (found === null) return undefined;
    const min = Number(found[1]);
    const max = found[2] === undefined ? min : found[3] === undefined ? Infinity : Number(found[3]);
    if (min > maxRepeat || (max > maxRepeat && max !== Infinity) || max < min)
      this.#fail(`a repetition from a smaller to a larger number, of at most ${maxRepeat}`);
    this.#at += found[0].length;
    return [min, max];
  }

  /** Undefined for what only sets flags. */
  #atom(): Node | undefined {
    const c = this.#next();
    switch (c) {
      case '(':
        return this.#group();
      case '[':
        return this.#cased(this.#bracket());
      case '.':
        return { type: 'class', takes: this.#flags.s ? () => true : (point) => point !== 10 };
      case '^':
        return { type: 'assertion', assertion: this.#flags.m ? 'line start' : 'text start' };
      case '$':
        return { type: 'assertion', assertion: this.#flags.m ? 'line end' : 'text end' };
      case '\\':
        return this.#escaped();
      case '*':
      case '+':
      case '?':
        this.#at--;
        return this.#fail('something to repeat');
      default:
        return this.#literal(c);
    }
  }

  #group(): Node | undefined {
    const outer = { ...this.#flags };
    if (this.#take('?')) {
      const rest = this.#input.slice(this.#at, this.#at + 64).join('');
      const name = /^P?<\w+>/.exec(rest);
      const flags = /^([imsU]*)(?:-([imsU]+))?([:)])/.exec(rest);
      if (name !== null) this.#at += name[0].length;
      else if (flags !== null) {
        this.#at += flags[0].length;
        for (const [set, value] of [[flags[1], true] as const, [flags[2] ?? '', false] as const])
          for (const flag of set) if (flag !== 'U') this.#flags[flag as keyof Flags] = value;
        if (flags[3] === ')') return undefined;
      } else this.#fail('?: or ?P<name> or flags of i, m, s and U after an opening parenthesis');
    }
    const node = this.#alternatives();
    if (!this.#take(')')) this.#fail('a closing parenthesis');
    this.#flags = outer;
    return node;
  }

  #bracket(): CharacterClass {
    const negated = this.#take('^');
    const parts: CharacterClass[] = [];
    for (let first = true; first || !this.#take(']'); first = false) {
      const posixName = /^\[:(\^?)([a-z]+):\]/.exec(this.#input.slice(this.#at, this.#at + 16).join(''));
      if (posixName !== null) {
        const named = Object.hasOwn(posix, posixName[2])
          ? posix[posixName[2]]
          : this.#fail('the name of a POSIX class');
        this.#at += posixName[0].length;
        parts.push(posixName[1] === '' ? named : not(named));
        continue;
      }
      const low = this.#member();
      if (typeof low !== 'number') {
        parts.push(low);
        continue;
      }
      let high: number | CharacterClass = low;
      if (this.#input[this.#at] === '-' && this.#input[this.#at + 1] !== ']') {
        this.#at++;
        high = this.#member();
      }
      if (typeof high !== 'number' || high < low) this.#fail('a range from a lower to a higher character');
      const last = high;
      parts.push((c) => c >= low && c <= last);
    }
    const takes: CharacterClass = (c) => parts.some((part) => part(c));
    const cased = this.#flags.i ? folded(takes) : takes;
    return negated ? not(cased) : cased;
  }

  /** One character of a bracket, or a class. */
  #member(): number | CharacterClass {
    const c = this.#next();
    if (c !== '\\') return c.codePointAt(0)!;
    return this.#class() ?? this.#codePoint();
  }

  #escaped(): Node {
    const c = this.#input[this.#at];
    if (c === 'A') return this.#assertion('text start');
    if (c === 'z') return this.#assertion('text end');
    if (c === 'b') return this.#assertion('word boundary');
    if (c === 'B') return this.#assertion('no word boundary');
    const takes = this.#class();
    if (takes !== undefined) return this.#cased(takes);
    const point = this.#codePoint();
    return this.#cased((other) => other === point);
  }

  #assertion(assertion: Assertion): Node {
    this.#at++;
    return { type: 'assertion', assertion };
  }

  /** `\d` and its like, and Unicode's `\pL` and `\p{Greek}`, after the backslash. */
  #class(): CharacterClass | undefined {
    const c = this.#input[this.#at] ?? '';
    const lower = c.toLowerCase();
    if (Object.hasOwn(perl, lower)) {
      this.#at++;
      return c === lower ? perl[lower] : not(perl[lower]);
    }
    const property = /^[pP](?:\{(\^?)(\w{1,40})\}|(\w))/.exec(this.#input.slice(this.#at, this.#at + 48).join(''));
    if (property === null) return undefined;
    const takes = unicodeClass(property[2] ?? property[3]) ?? this.#fail('a category or script of Unicode');
    this.#at += property[0].length;
    return (c === 'P') !== (property[1] === '^') ? not(takes) : takes;
  }

  /** A single character, after the backslash. */
  #codePoint(): number {
    const c = this.#next();
    if (Object.hasOwn(controls, c)) return controls[c];
    const rest = this.#input.slice(this.#at - 1, this.#at + 16).join('');
    const number =
      /^(?:0[0-7]{0,2}|[1-7][0-7]{1,2})/.exec(rest) ?? /^x(?:([0-9a-fA-F]{2})|\{([0-9a-fA-F]{1,8})\})/.exec(rest);
    if (number !== null) {
      const hex = number[1] ?? number[2];
      const point = hex === undefined ? parseInt(number[0], 8) : parseInt(hex, 16);
      if (point > 0x10ffff) this.#fail('a character of Unicode');
      this.#at += number[0].length - 1;
      return point;
    }
    // A letter or digit that means nothing is an error, so that it can come to mean something.
    if (/[A-Za-z0-9]/.test(c)) {
      this.#at--;
      this.#fail('an escape sequence of RE2');
    }
    return c.codePointAt(0)!;
  }

  #literal(c: string): Node {
    const point = c.codePointAt(0)!;
    return this.#cased((other) => other === point);
  }

  #cased(takes: CharacterClass): Node {
    return { type: 'class', takes: this.#flags.i ? folded(takes) : takes };
  }

  #take(text: string): boolean {
    const found = this.#input.slice(this.#at, this.#at + text.length).join('') === text;
    if (found) this.#at += text.length;
    return found;
  }

  #next(): string {
    if (this.#at >= this.#input.length) this.#fail('more');
    return this.#input[this.#at++];
  }

  #fail(expected: string): never {
    const found = this.#input[this.#at];
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `regular expression ${this.#text} at character ${this.#at}: expected ${expected}, found ${found === undefined ? 'the end' : JSON.stringify(found)}`,
    );
  }
}

/** A general category or a script, as the engine's own Unicode tables have it; applied to one character at a time. */
function unicodeClass(name: string): CharacterClass | undefined {
  for (const property of [name, `Script=${name}`])
    try {
      const one = new RegExp(`^\\p{${property}}$`, 'u');
      return (c) => one.test(String.fromCodePoint(c));
    } catch {
      continue;
    }
  return undefined;
}
