import { LazylayerError } from '../errors.js';
import type { Labels } from './snapshotter.js';

/** Label keys that containerd and snapshotters agree on, and two of our own. */
export const label = {
  /** The name under which the client is going to commit what it prepares. */
  ref: 'containerd.io/snapshot.ref',
  /** Marks a snapshot that is served lazily. */
  remote: 'containerd.io/snapshot/remote',
  uidMapping: 'containerd.io/snapshot/uidmapping',
  gidMapping: 'containerd.io/snapshot/gidmapping',
  /** Why a snapshot is not served lazily although it could have been. */
  reason: 'containerd.io/snapshot/lazylayer.reason',
  /** Why a snapshot cannot be used now. Told by `stat` and `walk`, never kept. */
  unavailable: 'containerd.io/snapshot/lazylayer.unavailable',
} as const;

/** containerd's limit for the key and the value of one label together, in bytes. */
const labelBytes = 4096;

/**
 * Labels as they are kept: those without a value are as good as not there, which is containerd's rule too.
 * @throws INVALID_ARGUMENT for a label beyond 4096 bytes
 */
export function keptLabels(labels: Labels = {}): Record<string, string> {
  // From entries, so that a key such as __proto__ is a key like any other.
  const kept = Object.entries(labels).filter(([, value]) => value !== '');
  for (const [key, value] of kept) {
    const bytes = Buffer.byteLength(key) + Buffer.byteLength(value);
    if (bytes > labelBytes)
      throw new LazylayerError(
        'INVALID_ARGUMENT',
        `label ${key.slice(0, 64)}: expected at most ${labelBytes} bytes of key and value, found ${bytes}`,
      );
  }
  return Object.fromEntries(kept);
}

/** A text of any length as a label's value: one short line. */
export function labelValue(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length <= 200 ? line : `${line.slice(0, 199)}…`;
}
