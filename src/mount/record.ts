import { readFile } from 'node:fs/promises';
import { writeFileAtomic } from '../util/atomic-file.js';
import type { Image } from '../workspace/workspace.js';
import type { MountRequest } from './request.js';

/** What is kept on disk of a mount, as JSON: enough to serve it again without asking the registry. */
export interface MountRecord {
  readonly request: MountRequest;
  readonly reference: string;
  /** Base64, as are the config's: bytes whose digests must survive. */
  readonly manifestBytes: string;
  readonly configBytes: string;
  readonly mediaType: string;
  readonly upper?: string;
  readonly temporary: boolean;
  readonly since: string;
}

/** Of a mount that is made now. */
export function recordOf(request: MountRequest, image: Image, upper: string | undefined): MountRecord {
  return {
    request,
    reference: image.reference,
    manifestBytes: Buffer.from(image.manifestBytes).toString('base64'),
    configBytes: Buffer.from(image.configBytes).toString('base64'),
    mediaType: image.manifest.mediaType,
    upper,
    temporary: request.upper === undefined,
    since: new Date().toISOString(),
  };
}

/** @throws what the disk says, and of what is no JSON */
export async function readRecord(path: string): Promise<MountRecord> {
  return JSON.parse(await readFile(path, 'utf8')) as MountRecord;
}

/** For root alone: a request may name what others should not see. */
export async function writeRecord(path: string, record: MountRecord): Promise<void> {
  await writeFileAtomic(path, JSON.stringify(record), { mode: 0o600 });
}
