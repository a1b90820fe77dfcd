import { parse } from 'smol-toml';

type Path = readonly string[];

/**
 * The line, from 1, that sets the key at `path` in a TOML text, or undefined where none is found: smol-toml's values do not know
 * where they come from, and an error that names a line is worth a second look at the text. Where the key itself is not there, the
 * line of the closest table above it counts.
 */
export function lineOfKey(text: string, path: Path): number | undefined {
  let best: number | undefined;
  let bestLength = 0;
  const seen = (found: Path, line: number) => {
    if (found.length > bestLength && found.every((name, i) => name === path[i])) {
      best = line;
      bestLength = found.length;
    }
  };
  let table: Path = [];
  for (const [i, line] of text.split('\n').entries()) {
    if (/^\s*\[/.test(line)) {
      const header = keysOf(line);
      if (header !== undefined) seen((table = header), i + 1);
    } else if (line.includes('=')) {
      const key = keysOf(`${keyPart(line)} = 0`);
      if (key !== undefined) seen([...table, ...key].slice(0, path.length), i + 1);
    }
  }
  return best;
}

/** What stands before the first "=" that is not within quotes. */
function keyPart(line: string): string {
  return /^(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^='"])*/.exec(line)![0];
}

/** The path of the only key of a one-line document, or undefined when it is no such document. */
function keysOf(line: string): string[] | undefined {
  let value: unknown;
  try {
    value = parse(line);
  } catch {
    return undefined;
  }
  const path: string[] = [];
  for (;;) {
    if (Array.isArray(value)) value = value[0] as unknown;
    if (typeof value !== 'object' || value === null) break;
    const keys = Object.keys(value);
    if (keys.length !== 1) break;
    path.push(keys[0]);
    value = (value as Record<string, unknown>)[keys[0]];
  }
  return path.length > 0 ? path : undefined;
}
