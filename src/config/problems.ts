import type * as v from 'valibot';
import { LazylayerError } from '../errors.js';
import { expectedOf } from '../image/json.js';
import type { KeyLines, KeyPath } from '../util/toml-lines.js';
import { nearest } from './nearest.js';
import { configSchema } from './schema.js';

/** One thing that is wrong with a configuration. */
export interface ConfigProblem {
  readonly line?: number;
  /** With dots, as the file could have it; the name of a flag or a variable where it came from there. */
  readonly key?: string;
  readonly message: string;
}

/** Everything that is wrong with one configuration file. */
export class ConfigError extends LazylayerError {
  constructor(
    readonly file: string,
    readonly problems: readonly ConfigProblem[],
    options?: ErrorOptions,
  ) {
    super('INVALID_ARGUMENT', problems.map((p) => describe(file, p)).join('\n'), options);
  }
}

function describe(file: string, { line, key, message }: ConfigProblem): string {
  return `${line === undefined ? file : `${file}:${line}`}: ${key === undefined ? '' : `${key}: `}${message}`;
}

/** What a validator found, in the words of the file. */
export function problemOf(issue: v.BaseIssue<unknown>, lines: KeyLines): ConfigProblem {
  const path = (issue.path ?? []).map((item) => item.key as string | number);
  const at = { line: lines.lineOf(path), key: formatPath(path) };
  if (issue.type !== 'strict_object' || issue.expected !== 'never')
    return { ...at, message: `expected ${expectedOf(issue)}, found ${show(issue.input)}` };
  const suggestion = suggest(path);
  return { ...at, message: `unknown key${suggestion === undefined ? '' : `; did you mean ${suggestion}?`}` };
}

/** A key with dots, quoted where TOML wants quotes. Indices stand in brackets. */
export function formatPath(path: KeyPath): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`;
    return `${text === '' ? '' : `${text}.`}${formatKey(key)}`;
  }, '');
}

export function formatKey(key: string): string {
  return /^[\w-]+$/.test(key) ? key : JSON.stringify(key);
}

function show(value: unknown): string {
  if (Array.isArray(value)) return 'an array';
  if (value instanceof Date) return value.toISOString();
  if (typeof value === 'object' && value !== null) return 'a table';
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}

/** The key of the same table that looks most like it, or a key of the same name in another table. */
function suggest(path: KeyPath): string | undefined {
  const name = String(path.at(-1));
  const around = path.slice(0, -1);
  const near = nearest(name, Object.keys(entriesAt(around) ?? {}));
  if (near !== undefined) return formatPath([...around, near]);
  const tables = entriesOf(configSchema) ?? {};
  for (const [tableName, inner] of Object.entries(tables)) {
    const found = nearest(name, Object.keys(entriesOf(inner) ?? {}));
    if (found !== undefined) return `${tableName}.${found}`;
  }
  return nearest(name, Object.keys(tables));
}

function entriesAt(path: KeyPath): Record<string, v.GenericSchema> | undefined {
  let schema: unknown = configSchema;
  for (const key of path) {
    const { entries, value } = unwrap(schema);
    schema = entries?.[key] ?? value;
  }
  return entriesOf(schema);
}

const entriesOf = (schema: unknown) => unwrap(schema).entries;

/** What valibot keeps in its schemas: `entries` in a table, `value` in a table of any keys, others in `wrapped` or `pipe`. */
interface Shape {
  readonly wrapped?: unknown;
  readonly pipe?: readonly unknown[];
  readonly entries?: Record<string, v.GenericSchema>;
  readonly value?: unknown;
}

function unwrap(schema: unknown): Shape {
  const shape = (schema ?? {}) as Shape;
  if (shape.wrapped !== undefined) return unwrap(shape.wrapped);
  return shape.pipe?.map(unwrap).find((part) => part.entries ?? part.value) ?? shape;
}
