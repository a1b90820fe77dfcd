import { bufferOf } from '../util/bytes.js';

/** What a dynamically linked program or library says of the files it needs. */
export interface Dynamic {
  /** PT_INTERP: the path of the dynamic loader; absent in libraries. */
  readonly interpreter?: string;
  /** DT_NEEDED: names of libraries, to be looked for, or paths. */
  readonly needed: readonly string[];
  /** DT_RUNPATH, or else DT_RPATH: directories to look in first, at most 32; `$ORIGIN` is the file's own. */
  readonly runpath: readonly string[];
  /** e_machine, such as 62 for x86-64. */
  readonly machine: number;
  /** Where the dynamic section lies in the file, in bytes. */
  readonly place: number;
  /** The end of what is loaded of the file, in bytes; behind it lies what linkers and debuggers read. */
  readonly loaded: number;
}

/** Bytes [offset, offset + length) of the file, fewer at its end. */
export type ReadAt = (offset: number, length: number) => Promise<Uint8Array>;

const HEADER = 64;
const PROGRAM_HEADER = 56;
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NEEDED = 1;
const DT_STRTAB = 5;
const DT_STRSZ = 10;
const DT_RPATH = 15;
const DT_RUNPATH = 29;
// No sound file comes near these.
const MAX_PROGRAM_HEADERS = 64;
const MAX_PATH = 4096;
const MAX_DYNAMIC = 64 * 1024;
const MAX_STRINGS = 4 * 1024 * 1024;
const MAX_NEEDED = 256;
const MAX_RUNPATH = 32;
const MAX_NAME = 255;
/** Names that are guessed, and places that are looked at for them: any bytes may look like one. */
const MAX_GUESSED = 64;
const MAX_LOOKS = 4096;
/** The name of a shared library, as tools give it: `libm.so.6`, `ld-linux-x86-64.so.2`. */
const LIBRARY = /^[A-Za-z0-9_][\w.+-]*\.so(\.[\w.+-]+)?$/;

/**
 * Reads what a 64-bit little-endian ELF file needs to run (System V ABI, generic part, chapters 4 and 5). Undefined for all else, and for
 * files that contradict themselves: this is for guessing what comes next, so nothing is refused.
 *
 *    ELF header:      0  4  7f "ELF"   4  1  class, 2 for 64 bits   5  1  data, 1 for little-endian
 *                    18  2  e_machine  32  8  e_phoff              54  2  e_phentsize   56  2  e_phnum
 *    program header:  0  4  p_type      8  8  p_offset   16  8  p_vaddr   32  8  p_filesz
 *    dynamic entry:   0  8  d_tag       8  8  d_val
 */
export async function readDynamic(read: ReadAt): Promise<Dynamic | undefined> {
  const header = viewOf(await read(0, HEADER));
  if (header.byteLength < HEADER || header.getUint32(0) !== 0x7f454c46) return undefined;
  if (header.getUint8(4) !== 2 || header.getUint8(5) !== 1) return undefined;
  const count = header.getUint16(56, true);
  if (header.getUint16(54, true) !== PROGRAM_HEADER || count > MAX_PROGRAM_HEADERS) return undefined;
  const programs = viewOf(await read(wordAt(header, 32), count * PROGRAM_HEADER));
  const segments: { type: number; offset: number; address: number; length: number }[] = [];
  for (let at = 0; at + PROGRAM_HEADER <= programs.byteLength; at += PROGRAM_HEADER)
    segments.push({
      type: programs.getUint32(at, true),
      offset: wordAt(programs, at + 8),
      address: wordAt(programs, at + 16),
      length: wordAt(programs, at + 32),
    });
  const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
  if (dynamic === undefined) return undefined;
  const table = viewOf(await read(dynamic.offset, Math.min(dynamic.length, MAX_DYNAMIC)));
  const entries: { tag: number; value: number }[] = [];
  for (let at = 0; at + 16 <= table.byteLength; at += 16)
    entries.push({ tag: wordAt(table, at), value: wordAt(table, at + 8) });
  const valueOf = (wanted: number) => entries.find(({ tag }) => tag === wanted)?.value ?? 0;
  const place = valueOf(DT_STRTAB);
  const holder = segments.find(
    ({ type, address, length }) => type === PT_LOAD && place >= address && place < address + length,
  );
  const size = Math.min(valueOf(DT_STRSZ), MAX_STRINGS);
  const strings = holder === undefined ? new Uint8Array(0) : await read(place - holder.address + holder.offset, size);
  const stringsOf = (wanted: number) =>
    entries
      .filter(({ tag }) => tag === wanted)
      .slice(0, MAX_NEEDED)
      .map(({ value }) => stringAt(strings, value));
  const interp = segments.find(({ type }) => type === PT_INTERP);
  const interpreter = interp && stringAt(await read(interp.offset, Math.min(interp.length, MAX_PATH)), 0);
  return {
    ...(interpreter !== undefined && interpreter !== '' && { interpreter }),
    needed: stringsOf(DT_NEEDED).filter((name) => name !== ''),
    runpath: (stringsOf(DT_RUNPATH)[0] ?? stringsOf(DT_RPATH)[0] ?? '')
      .split(':')
      .filter((path) => path !== '')
      .slice(0, MAX_RUNPATH),
    machine: header.getUint16(18, true),
    place: dynamic.offset,
    loaded: Math.max(0, ...segments.filter(({ type }) => type === PT_LOAD).map((one) => one.offset + one.length)),
  };
}

/**
 * What an ELF file seems to need, by its first bytes: the dynamic section lies near the end of a file, but the strings that it
 * refers to lie near the beginning, behind the symbols. What looks there like the name of a library is one that is needed, mostly.
 * Undefined for what is no ELF file, or none that is linked dynamically.
 */
export async function guessDynamic(beginning: Uint8Array): Promise<Dynamic | undefined> {
  const known = await readDynamic((offset, length) => Promise.resolve(beginning.subarray(offset, offset + length)));
  if (known === undefined || known.needed.length > 0) return known;
  const needed = stringsWith(beginning, '.so', (text) => LIBRARY.test(text)).slice(0, MAX_GUESSED);
  const runpath = stringsWith(beginning, 'ORIGIN', (text) => text.startsWith('$')).flatMap((text) => text.split(':'));
  return { ...known, needed, runpath: runpath.slice(0, MAX_RUNPATH) };
}

/** The NUL-terminated strings that hold a word and that are wanted, each once. */
function stringsWith(bytes: Uint8Array, word: string, wanted: (text: string) => boolean): string[] {
  const buffer = bufferOf(bytes);
  const found = new Set<string>();
  let looks = 0;
  for (let at = buffer.indexOf(word); at >= 0 && ++looks <= MAX_LOOKS; at = buffer.indexOf(word, at + 1)) {
    let start = at;
    while (start > 0 && at - start < MAX_NAME && buffer[start - 1] !== 0) start--;
    const length = buffer.subarray(at, start + MAX_NAME + 1).indexOf(0);
    if (length < 0) continue;
    const end = at + length;
    const text = buffer.toString('latin1', start, end);
    if (wanted(text)) found.add(text);
  }
  return [...found];
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A 64-bit word as a number; beyond what a file can have, it is inexact and lies outside of every file all the same. */
function wordAt(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

function stringAt(bytes: Uint8Array, at: number): string {
  if (at >= bytes.byteLength) return '';
  const end = bytes.indexOf(0, at);
  if (end < 0 || end - at > MAX_PATH) return '';
  return bufferOf(bytes, at, end - at).toString('latin1');
}
