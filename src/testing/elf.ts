/** What an ELF file made by `elfFile` says. */
export interface ElfContent {
  readonly interpreter?: string;
  readonly needed?: readonly string[];
  readonly runpath?: string;
  /** 62, x86-64, by default. */
  readonly machine?: number;
  /** Bytes of the file, filled up behind what is told. */
  readonly size?: number;
  /** What lies between the strings and the dynamic section, as the code of a program does. */
  readonly code?: Uint8Array;
  /** Bytes of the file that are loaded, all by default. */
  readonly loaded?: number;
}

/** Where the file's bytes are loaded: addresses are not offsets. */
const LOADED_AT = 0x40_0000;

/** A little-endian 64-bit ELF file that holds nothing but what the loader asks for. */
export function elfFile(content: ElfContent): Buffer {
  const { interpreter, needed = [], runpath, machine = 62, size = 0, code = new Uint8Array(0) } = content;
  const programs = interpreter === undefined ? 2 : 3;
  const headers = 64 + programs * 56;
  const strings = ['', ...needed, ...(runpath === undefined ? [] : [runpath])];
  const stringTable = Buffer.from(strings.map((text) => `${text}\0`).join(''), 'latin1');
  const placeOf = (text: string) =>
    Buffer.byteLength(strings.slice(0, strings.indexOf(text)).join('\0')) + Math.min(1, strings.indexOf(text));
  const interp = Buffer.from(interpreter === undefined ? '' : `${interpreter}\0`, 'latin1');
  const interpAt = headers;
  const stringsAt = interpAt + interp.byteLength;
  const codeAt = stringsAt + stringTable.byteLength;
  const dynamicAt = codeAt + code.byteLength;
  const entries: [number, number][] = [
    ...needed.map((name): [number, number] => [1, placeOf(name)]),
    ...(runpath === undefined ? [] : [[29, placeOf(runpath)] as [number, number]]),
    [5, LOADED_AT + stringsAt],
    [10, stringTable.byteLength],
    [0, 0],
  ];
  const end = dynamicAt + entries.length * 16;
  const file = Buffer.alloc(Math.max(end, size));
  file.write('7f454c46020101', 0, 'hex');
  file.writeUInt16LE(3, 16);
  file.writeUInt16LE(machine, 18);
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(64, 52);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(programs, 56);
  const segment = (index: number, type: number, offset: number, length: number) => {
    const at = 64 + index * 56;
    file.writeUInt32LE(type, at);
    file.writeBigUInt64LE(BigInt(offset), at + 8);
    file.writeBigUInt64LE(BigInt(LOADED_AT + offset), at + 16);
    file.writeBigUInt64LE(BigInt(length), at + 32);
    file.writeBigUInt64LE(BigInt(length), at + 40);
  };
  segment(0, 1, 0, content.loaded ?? file.byteLength);
  segment(1, 2, dynamicAt, entries.length * 16);
  if (interpreter !== undefined) segment(2, 3, interpAt, interp.byteLength);
  interp.copy(file, interpAt);
  stringTable.copy(file, stringsAt);
  file.set(code, codeAt);
  for (const [i, [tag, value]] of entries.entries()) {
    file.writeBigUInt64LE(BigInt(tag), dynamicAt + i * 16);
    file.writeBigUInt64LE(BigInt(value), dynamicAt + i * 16 + 8);
  }
  return file;
}
