import { FormatError } from '../errors.js';

/** Linux NAME_MAX: the bytes that a name in a directory may have. */
export const MAX_COMPONENT_BYTES = 255;
/** Linux PATH_MAX: no extractor could create a longer path, and it bounds the directories that one name can bring. */
export const MAX_NAME_BYTES = 4096;

const SLASH = 0x2f;
const DOT = 0x2e;

/**
 * A name of a tar or a TOC as a path below the layer's root: no leading, trailing or doubled slash, no `.`; the root itself is
 * the empty string. One character is one byte (latin1), so that any bytes survive and string order is byte order.
 * @throws FormatError where a component is `..`, longer than 255 bytes, or holds NUL, and where the whole is longer than 4096.
 */
export function normalizeName(name: Buffer, what = 'entry'): string {
  if (name.byteLength > MAX_NAME_BYTES)
    refuse(
      what,
      name.subarray(0, 64),
      `a name of at most ${MAX_NAME_BYTES} bytes`,
      `${name.byteLength} bytes, beginning`,
    );
  const text = name.toString('latin1');
  let clean = true;
  let start = 0;
  for (let i = 0; i <= text.length; i++) {
    const c = i === text.length ? SLASH : text.charCodeAt(i);
    if (c === 0) refuse(what, name, 'a name without NUL bytes');
    if (c !== SLASH) continue;
    const length = i - start;
    if (length === 0) clean = false;
    else if (length <= 2 && text.charCodeAt(start) === DOT) {
      if (length === 1) clean = false;
      else if (text.charCodeAt(start + 1) === DOT) refuse(what, name, 'a name without ".." in it');
    } else if (length > MAX_COMPONENT_BYTES)
      refuse(what, name, `name components of at most ${MAX_COMPONENT_BYTES} bytes`, `one of ${length} bytes in`);
    start = i + 1;
  }
  if (clean) return text;
  return text
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .join('/');
}

function refuse(what: string, name: Buffer, expected: string, found = ''): never {
  throw new FormatError(what, { expected, found: `${found} ${showName(name)}`.trimStart() });
}

/** A name for an error message: quoted, control characters escaped, bytes that are not UTF-8 replaced. */
export function showName(name: Buffer | string): string {
  const bytes = typeof name === 'string' ? Buffer.from(name, 'latin1') : name;
  return JSON.stringify(bytes.toString('utf8'));
}
