import * as v from 'valibot';
import { FormatError } from '../errors.js';

/** Largest manifest or index that is read, in bytes: the limit that registries themselves hold. */
export const maxManifestSize = 4 * 1024 * 1024;

/**
 * Decodes a JSON document and holds it against a shape.
 * @throws FormatError that names `what`, the place in the document, and what was expected there.
 */
export function parseDocument<S extends v.GenericSchema>(
  what: string,
  bytes: Uint8Array,
  schema: S,
  maxSize: number,
): v.InferOutput<S> {
  if (bytes.byteLength > maxSize)
    throw new FormatError(what, { expected: `at most ${maxSize} bytes`, found: `${bytes.byteLength}` });
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new FormatError(what, { expected: 'JSON', found: (error as Error).message });
  }
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const issue = result.issues[0];
  const place = v.getDotPath(issue);
  throw new FormatError(place === null ? what : `${what}, ${place}`, {
    expected: expectedOf(issue),
    found: issue.received,
  });
}

/** What should have been there: the schema's own words where it has any, else valibot's name of the type. */
export function expectedOf(issue: v.BaseIssue<unknown>): string {
  const generic = issue.message.startsWith('Invalid ');
  return generic ? (issue.expected ?? issue.message) : issue.message;
}

/** Drops members whose value is undefined or null, as `omitempty` writers leave them. */
export const optional = <S extends v.GenericSchema>(schema: S) =>
  v.optional(
    v.pipe(
      v.nullable(schema),
      v.transform((value) => value ?? undefined),
    ),
  );
