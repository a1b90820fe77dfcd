import type { Import } from '../ahead/python.js';

/** By version: magic number, words before a code object's instructions, and opcodes, as Include/opcode_ids.h of each has them. */
const VERSIONS = {
  '3.8': { magic: 3413, words: 6, loadConst: 100, importName: 108, extendedArg: 144, popTop: 1 },
  '3.11': { magic: 3495, words: 5, loadConst: 100, importName: 108, extendedArg: 144, popTop: 1 },
  '3.12': { magic: 3531, words: 5, loadConst: 100, importName: 108, extendedArg: 144, popTop: 1 },
  '3.13': { magic: 3571, words: 5, loadConst: 83, importName: 75, extendedArg: 71, popTop: 32 },
  '3.14': { magic: 3627, words: 5, loadConst: 82, loadSmallInt: 94, importName: 73, extendedArg: 69, popTop: 31 },
} as const;

export type PythonVersion = keyof typeof VERSIONS;
export const PYTHON_VERSIONS = Object.keys(VERSIONS) as PythonVersion[];

/** What a module may have among its constants; a number that is no integer is a float, a bigint a long integer. */
export type Constant = null | boolean | number | bigint | string | Uint8Array | readonly Constant[] | CodeContent;

/** A code object that does nothing but import. */
export interface CodeContent {
  readonly imports: readonly Import[];
  /** Come before those that the imports need: more than 256 of them make long arguments. */
  readonly constants?: readonly Constant[];
  readonly names?: readonly string[];
}

/** A compiled module as py_compile writes it: a header, and a code object in marshal's format, version 4. */
export function pycFile(version: PythonVersion, content: CodeContent): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt16LE(VERSIONS[version].magic);
  header.write('\r\n', 2);
  const writer = new MarshalWriter(version);
  writer.add(content);
  return Buffer.concat([header, ...writer.parts]);
}

/** Where CPython 3.11 keeps what it compiles a module to, of whose path `.py` is left out. */
export const pycPath = (module: string) => module.replace(/([^/]*)$/, '__pycache__/$1.cpython-311.pyc');

/** What a module tells of an import. */
export const told = (level: number, name: string, ...from: string[]): Import => ({ level, name, from });

const none = Buffer.alloc(0);

/** As CPython: every string is written once, and referred to by its number from then on. */
class MarshalWriter {
  readonly parts: Buffer[] = [];
  readonly #strings = new Map<string, number>();
  #numbered = 0;

  constructor(private readonly version: PythonVersion) {}

  add(value: Constant): void {
    if (value === null) this.#type('N');
    else if (typeof value === 'boolean') this.#type(value ? 'T' : 'F');
    else if (typeof value === 'bigint') this.#long(value);
    else if (typeof value === 'string') this.#string(value);
    else if (value instanceof Uint8Array) this.#sized('s', value);
    else if (isTuple(value)) this.#tuple(value);
    else if (typeof value === 'object') this.#code(value);
    else if (Number.isInteger(value)) this.#int('i', value);
    else {
      this.#type('g');
      const bytes = Buffer.alloc(8);
      bytes.writeDoubleLE(value);
      this.parts.push(bytes);
    }
  }

  #type(letter: string, numbered = false): void {
    this.parts.push(Buffer.of(letter.charCodeAt(0) | (numbered ? 0x80 : 0)));
    if (numbered) this.#numbered++;
  }

  #word(value: number): void {
    const bytes = Buffer.alloc(4);
    bytes.writeInt32LE(value | 0);
    this.parts.push(bytes);
  }

  #int(letter: string, value: number): void {
    this.#type(letter);
    this.#word(value);
  }

  #sized(letter: string, bytes: Uint8Array, numbered = false): void {
    this.#type(letter, numbered);
    if (letter.toLowerCase() === 'z') this.parts.push(Buffer.of(bytes.byteLength));
    else this.#word(bytes.byteLength);
    this.parts.push(Buffer.from(bytes));
  }

  #string(text: string): void {
    const known = this.#strings.get(text);
    if (known !== undefined) return this.#int('r', known);
    this.#strings.set(text, this.#numbered);
    const bytes = Buffer.from(text);
    const isAscii = bytes.byteLength === text.length;
    this.#sized(!isAscii ? 'u' : text.length < 256 ? 'Z' : 'A', bytes, true);
  }

  #long(value: bigint): void {
    const digits: number[] = [];
    for (let rest = value < 0n ? -value : value; rest > 0n; rest >>= 15n) digits.push(Number(rest & 0x7fffn));
    this.#int('l', value < 0n ? -digits.length : digits.length);
    for (const digit of digits) this.parts.push(Buffer.of(digit & 255, digit >> 8));
  }

  #tuple(items: readonly Constant[]): void {
    if (items.length < 256) {
      this.#type(')', true);
      this.parts.push(Buffer.of(items.length));
    } else {
      this.#type('(', true);
      this.#word(items.length);
    }
    for (const item of items) this.add(item);
  }

  #code({ imports, constants = [], names = [] }: CodeContent): void {
    const { words, loadConst, importName, extendedArg, popTop, ...rest } = VERSIONS[this.version];
    const allConstants = [...constants];
    const allNames = [...names];
    const instructions: number[] = [];
    const emit = (opcode: number, argument: number) => {
      for (const shift of [24, 16, 8])
        if (argument >> shift > 0) instructions.push(extendedArg, (argument >> shift) & 255);
      instructions.push(opcode, argument & 255);
    };
    for (const { level, name, from } of imports) {
      if ('loadSmallInt' in rest && level >= 0 && level < 256) emit(rest.loadSmallInt, level);
      else emit(loadConst, allConstants.push(level) - 1);
      emit(loadConst, allConstants.push(from.length === 0 ? null : from) - 1);
      emit(importName, allNames.push(name) - 1);
      emit(popTop, 0);
    }
    this.#type('c', true);
    for (let i = 0; i < words; i++) this.#word(0);
    const variables =
      words === 6 ? [[], [], [], 'module.py', '<module>'] : [[], none, 'module.py', '<module>', '<module>'];
    for (const part of [Buffer.from(instructions), allConstants, allNames, ...variables]) this.add(part);
    this.#word(1);
    for (const table of words === 6 ? [none] : [none, none]) this.add(table);
  }
}

const isTuple = (value: Constant): value is readonly Constant[] => Array.isArray(value);
