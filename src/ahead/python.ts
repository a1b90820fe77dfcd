import { bufferOf } from '../util/bytes.js';

/** One import statement of a Python module (The Python Language Reference, 7.11). */
export interface Import {
  /** Dots before the name: 0 for an absolute name, 1 for the module's own package, 2 for the one above. */
  readonly level: number;
  /** Dotted; empty in `from . import x`. */
  readonly name: string;
  /** What is taken from it, each of which may be a module below it; a lone `*` for all. */
  readonly from: readonly string[];
}

/** A compiled module's opcodes, where they are of interest, and how many words of 4 bytes come before its code. */
interface Bytecode {
  /** Up to this magic number. */
  readonly before: number;
  readonly words: number;
  readonly loadConst: number;
  /** Loads its own argument. */
  readonly loadSmallInt?: number;
  readonly importName: number;
  readonly extendedArg: number;
}

const WORDS_BEFORE_3_11 = 6;
/** By magic numbers of CPython 3.8 to 3.14 (Lib/importlib/_bootstrap_external.py and Include/opcode_ids.h of each). */
const FIRST_MAGIC = 3400;
const BYTECODES: readonly Bytecode[] = [
  { before: 3450, words: WORDS_BEFORE_3_11, loadConst: 100, importName: 108, extendedArg: 144 },
  { before: 3550, words: 5, loadConst: 100, importName: 108, extendedArg: 144 },
  { before: 3600, words: 5, loadConst: 83, importName: 75, extendedArg: 71 },
  { before: 3650, words: 5, loadConst: 82, loadSmallInt: 94, importName: 73, extendedArg: 69 },
];
/** PEP 552: magic number, flags, and time and size, or a hash, of the source. */
const HEADER = 16;
/** As deep as CPython nests what it reads back. */
const MAX_DEPTH = 2000;
const MAX_IMPORTS = 1024;
/** Packages above a module, at most. */
const MAX_LEVEL = 128;
/** Names that one module tells, and how long they are at most. */
const MAX_NAMES = 16_384;
const MAX_NAME = 128;
const NAME_BYTES = Uint8Array.from({ length: 256 }, (_, byte) => (/[\w.]/.test(String.fromCharCode(byte)) ? 1 : 0));
const MAX_SOURCE_LINES = 20_000;

/** Whether a file begins as a compiled module does: a number in two bytes, and a line end that text mode would damage. */
export function isCompiled(beginning: Uint8Array): boolean {
  return bytecodeOf(beginning) !== undefined;
}

function bytecodeOf(bytes: Uint8Array): Bytecode | undefined {
  const magic = bytes[0] | (bytes[1] << 8);
  if (magic < FIRST_MAGIC || bytes[2] !== 0x0d || bytes[3] !== 0x0a) return undefined;
  return BYTECODES.find(({ before }) => magic < before);
}

/**
 * What a compiled module (`.pyc`) imports when it is imported itself: the statements outside of its functions and classes. Those that
 * would not be reached are told too. Empty for all that is none, or contradicts itself: this is for guessing what comes next, so
 * nothing is refused.
 */
export function compiledImports(bytes: Uint8Array): Import[] {
  const bytecode = bytecodeOf(bytes);
  if (bytecode === undefined) return [];
  try {
    return [...importsOf(new Marshal(bytes, HEADER, bytecode.words).module(), bytecode)];
  } catch (error) {
    if (error instanceof RangeError) return [];
    throw error;
  }
}

/** The parts of a module's code object that tell what it imports. */
interface Code {
  readonly instructions: Uint8Array;
  /** A number, or a tuple of strings; undefined of all else. */
  constant(index: number): number | string[] | undefined;
  name(index: number): string | undefined;
}

/** `LOAD_CONST level; LOAD_CONST from; IMPORT_NAME name`, as the compiler writes it. */
function* importsOf(code: Code, opcodes: Bytecode): Generator<Import> {
  const { instructions } = code;
  /** The last two. */
  let loaded: ((() => ReturnType<Code['constant']>) | undefined)[] = [];
  let extended = 0;
  let names = 0;
  for (let at = 0, count = 0; at + 1 < instructions.byteLength; at += 2) {
    if (count >= MAX_IMPORTS || names >= MAX_NAMES) return;
    const opcode = instructions[at];
    const argument = (extended << 8) | instructions[at + 1];
    extended = 0;
    if (opcode === opcodes.extendedArg) extended = argument & 0xffff;
    else if (opcode === opcodes.loadConst) loaded = [loaded.at(-1), () => code.constant(argument)];
    else if (opcode === opcodes.loadSmallInt) loaded = [loaded.at(-1), () => argument];
    else {
      const [level, from] = opcode === opcodes.importName ? loaded.map((constant) => constant?.()) : [];
      loaded = [];
      const name = typeof level === 'number' && level >= 0 && level <= MAX_LEVEL ? code.name(argument) : undefined;
      if (name === undefined) continue;
      const taken = typeof from === 'object' ? from : [];
      count++;
      names += taken.length;
      yield { level: level as number, name, from: taken };
    }
  }
}

/** Highest bit of a type: the object is numbered, and may be referred to. */
const NUMBERED = 0x80;
const byType = (sizes: Readonly<Record<string, number>>): readonly (number | undefined)[] =>
  Object.entries(sizes).reduce<number[]>((table, [letter, size]) => ((table[letter.charCodeAt(0)] = size), table), []);
/** Bytes that follow on the type. */
const FIXED = byType({ N: 0, F: 0, T: 0, S: 0, '.': 0, '0': 0, i: 4, r: 4, I: 8, g: 8, y: 16 });
/** Bytes of the length, or of the number of items, that follows on the type. */
const STRINGS = byType({ s: 4, t: 4, u: 4, a: 4, A: 4, z: 1, Z: 1 });
const SEQUENCES = byType({ '(': 4, '[': 4, '<': 4, '>': 4, ')': 1 });
const [CODE, INT, LONG, DICT, SLICE, REFERENCE, NULL] = Buffer.from('cil{:r0');

/**
 * CPython's marshal format, version 4 (Python/marshal.c), as far as compiled modules have it: a byte of type, and what follows on it.
 *
 *    c        code: words; objects: instructions, constants, names, five more; a word; one more object before 3.11, then two
 *    stuAazZ  length, bytes          ([<>)  number of items, objects          {  keys and values, 0          :  three objects
 *    l        4  number of digits, 2 bytes each                               r  4  number of the object that is meant
 *
 * Goes over objects, and remembers where they are. @throws RangeError where they end too late, or never
 */
class Marshal {
  readonly #bytes: Buffer;
  readonly #words: number;
  /** Where numbered objects begin, in the order of their numbers. */
  readonly #numbered: number[] = [];
  /** By the places of tuples: any number of constants may be the same one. */
  readonly #known = new Map<number, string[] | undefined>();
  #at: number;
  #depth = 0;

  constructor(bytes: Uint8Array, at: number, words: number) {
    this.#bytes = bufferOf(bytes);
    this.#at = at;
    this.#words = words;
  }

  module(): Code {
    if (this.#begin() !== CODE) throw new RangeError('no code object');
    this.#pass(4 * this.#words);
    const instructions = this.#next();
    const constants = this.#items();
    const names = this.#strings(this.#next()) ?? [];
    return {
      instructions: this.#text(instructions) ?? this.#bytes.subarray(0, 0),
      constant: (index) => (index < constants.length ? this.#constant(constants[index]) : undefined),
      name: (index) => names[index],
    };
  }

  /** The type of the object that begins here. */
  #begin(): number {
    const type = this.#bytes.readUInt8(this.#at);
    if ((type & NUMBERED) !== 0) this.#numbered.push(this.#at);
    this.#at++;
    return type & ~NUMBERED;
  }

  /** Goes over one object. @returns where it begins */
  #next(): number {
    const start = this.#at;
    const type = this.#begin();
    if (++this.#depth > MAX_DEPTH) throw new RangeError('too deep');
    const fixed = FIXED[type];
    const length = STRINGS[type];
    const items = SEQUENCES[type];
    if (fixed !== undefined) this.#pass(fixed);
    else if (length !== undefined) this.#pass(this.#count(length));
    else if (items !== undefined) this.#objects(this.#count(items));
    else if (type === LONG) this.#pass(2 * Math.abs(this.#count(4) | 0));
    else if (type === SLICE) this.#objects(3);
    else if (type === DICT) while (this.#bytes[this.#next()] !== NULL) this.#next();
    else if (type === CODE) {
      this.#pass(4 * this.#words);
      this.#objects(8);
      this.#pass(4);
      this.#objects(this.#words === WORDS_BEFORE_3_11 ? 1 : 2);
    } else throw new RangeError(`unknown type ${type}`);
    this.#depth--;
    return start;
  }

  #pass(bytes: number): void {
    this.#at += bytes;
  }

  #objects(count: number): void {
    for (let i = 0; i < count; i++) this.#next();
  }

  /** The number in so many bytes that is next. */
  #count(bytes: number): number {
    this.#pass(bytes);
    return this.#bytes.readUIntLE(this.#at - bytes, bytes);
  }

  /** Goes over a sequence. @returns where its items begin */
  #items(): number[] {
    const size = SEQUENCES[this.#begin()];
    if (size === undefined) throw new RangeError('no sequence');
    const places: number[] = [];
    for (let count = this.#count(size); count > 0; count--) places.push(this.#next());
    return places;
  }

  /** Where an object is, itself or what it refers to. */
  #place(at: number): number {
    return (this.#bytes[at] & ~NUMBERED) === REFERENCE ? this.#numbered[this.#bytes.readUInt32LE(at + 1)] : at;
  }

  /** The bytes of a string; undefined of all else. */
  #text(where: number): Buffer | undefined {
    const at = this.#place(where);
    const size = STRINGS[this.#bytes[at] & ~NUMBERED];
    if (size === undefined) return undefined;
    const from = at + 1 + size;
    return this.#bytes.subarray(from, from + this.#bytes.readUIntLE(at + 1, size));
  }

  /** A tuple of strings, which lies before here, each cut to the length of a name; undefined of all else. */
  #strings(where: number): string[] | undefined {
    const at = this.#place(where);
    if (!this.#known.has(at)) this.#known.set(at, this.#tuple(at));
    return this.#known.get(at);
  }

  #tuple(at: number): string[] | undefined {
    const size = SEQUENCES[this.#bytes[at] & ~NUMBERED];
    if (size === undefined) return undefined;
    const strings: string[] = [];
    let item = at + 1 + size;
    for (let count = Math.min(MAX_NAMES, this.#bytes.readUIntLE(at + 1, size)); count > 0; count--) {
      const text = this.#text(item);
      if (text === undefined) return undefined;
      strings.push(text.toString('utf8', 0, MAX_NAME));
      const isReference = this.#place(item) !== item;
      item += isReference ? 5 : text.byteOffset + text.byteLength - this.#bytes.byteOffset - item;
    }
    return strings;
  }

  #constant(where: number): number | string[] | undefined {
    const at = this.#place(where);
    return (this.#bytes[at] & ~NUMBERED) === INT ? this.#bytes.readInt32LE(at + 1) : this.#strings(at);
  }
}

/** Words that libraries have for other reasons: Python's own tests are for Python's developers. */
const NEVER_IMPORTED = ['test'];

/**
 * Names that a module in another language may import, as `compiledImports`: strings that look like names of modules, in the order of their
 * places, each once. Whoever knows which modules there are knows which of them are some.
 */
export function libraryImports(bytes: Uint8Array): Import[] {
  const names = new Set<string>();
  const text = bufferOf(bytes);
  for (let at = 0; at < text.byteLength && names.size < MAX_NAMES;) {
    const zero = text.indexOf(0, at);
    const end = zero < 0 ? text.byteLength : zero;
    let from = end;
    while (from > at && NAME_BYTES[text[from - 1]] === 1) from--;
    if (from === at && end - at >= 2 && end - at <= MAX_NAME) names.add(text.toString('latin1', at, end));
    at = end + 1;
  }
  for (const name of NEVER_IMPORTED) names.delete(name);
  return [...names].map((name) => ({ level: 0, name, from: [] }));
}

/** What makes a function or class, or is for type checkers: what is below it is not run when the module is imported. */
const NOT_RUN = /^\s*(?:async\s|def\s|class\s|if\s+(?:typing\.)?TYPE_CHECKING\b)/;
/** No two parts of these match the same, one beside the other: of a line as long as a file they take no longer than of others. */
const IMPORT = /^\s*import\s+(.+)/;
const FROM = /^\s*from\s*(?:(\.+)\s*)?(?:(\w[\w.]*)\s+)?import\b(.+)/;
const CLOSING = /^\s*[)\]}]/;
/** Lines of one statement that are put together, and about how long it is then at most. */
const MAX_LINES = 256;
const MAX_STATEMENT = 16 * 1024;

/** What a module's source (`.py`) imports, as `compiledImports`; lines of long strings that look like statements are taken for some. */
export function sourceImports(source: string): Import[] {
  const imports: Import[] = [];
  const lines = source.split('\n', MAX_SOURCE_LINES);
  let hidden = Infinity;
  let names = 0;
  for (let at = 0; at < lines.length && names < MAX_NAMES; at++) {
    const indent = lines[at].search(/[^\s#]/);
    // The end of a head that takes several lines stands where its beginning does.
    if (indent < 0 || indent > hidden || (indent === hidden && CLOSING.test(lines[at]))) continue;
    hidden = NOT_RUN.test(lines[at]) ? indent : Infinity;
    if (!/^\s*(?:import|from)\b/.test(lines[at])) continue;
    let statement = withoutComment(lines[at]);
    const last = Math.min(lines.length - 1, at + MAX_LINES);
    while (isOpen(statement) && at < last && statement.length < MAX_STATEMENT)
      statement = statement.replace(/\\$/, '') + withoutComment(lines[++at]);
    for (const part of statement.split(';')) {
      const [, plain] = IMPORT.exec(part) ?? [];
      const [, dots = '', name = '', from] = FROM.exec(part) ?? [];
      const words = wordsOf(plain ?? from ?? '', MAX_NAMES - names);
      names += words.length;
      if (plain !== undefined) for (const word of words) imports.push({ level: 0, name: word, from: [] });
      else if (from !== undefined && dots.length <= MAX_LEVEL) imports.push({ level: dots.length, name, from: words });
    }
  }
  return imports;
}

const withoutComment = (line: string): string => line.replace(/#.*/, '').trimEnd();
const isOpen = (statement: string): boolean =>
  statement.endsWith('\\') || (statement.includes('(') && !statement.includes(')'));

/** The names of a list, without the others by which they are known: `a.b as c, d`. */
function wordsOf(list: string, most: number): string[] {
  return list.split(',', most).flatMap((item) => /[\w.]+|\*/.exec(item)?.[0] ?? []);
}
