/** What goes wrong. Byte positions count within the answer's body unless it says "blob". */
export type FaultAction =
  | { readonly kind: 'status'; readonly status: number; readonly retryAfter?: string; readonly body?: string }
  /** Bytes [offset, offset + length) of the blob come inverted. */
  | { readonly kind: 'corrupt'; readonly offset: number; readonly length: number }
  /** The connection ends in good order after so many bytes, whatever Content-Length said. */
  | { readonly kind: 'truncate'; readonly after: number }
  /** The connection is reset after so many bytes. */
  | { readonly kind: 'reset'; readonly after: number }
  /** So many bytes come, then nothing, and the connection stays. */
  | { readonly kind: 'stall'; readonly after: number }
  /** 200 and the whole blob for a range. */
  | { readonly kind: 'ignore-range' }
  | { readonly kind: 'content-range'; readonly value: string }
  /** No Content-Length. With `truncate`, the body ends early in good order. */
  | { readonly kind: 'chunked' }
  | { readonly kind: 'gzip' }
  /** A body longer than it should be. */
  | { readonly kind: 'excess'; readonly bytes: number }
  /** The end of the body comes this long after its last byte. Seen by the client only together with `chunked`. */
  | { readonly kind: 'late-end'; readonly ms: number }
  /** No answer at all. */
  | { readonly kind: 'hang' }
  | { readonly kind: 'latency'; readonly ms: number }
  | { readonly kind: 'slow'; readonly bytesPerMs: number }
  | { readonly kind: 'header'; readonly name: string; readonly value: string }
  | { readonly kind: 'redirect'; readonly to: string; readonly status?: number };

export interface Fault {
  readonly action: FaultAction;
  /** Part of the path, such as a digest or `/manifests/`. Default: every path. */
  readonly path?: string | RegExp;
  /** Which of the registry's listeners. Default: any. */
  readonly server?: 'registry' | 'storage';
  /** The first matching request that is struck, from 1. Default: 1. */
  readonly nth?: number;
  /** How many matching requests are struck. Default: all from the first. */
  readonly times?: number;
}

/** The faults that are switched on, and how often each has matched. */
export class Faults {
  readonly #matches = new Map<Fault, number>();

  /** Switches a fault on. The function returned switches it off. */
  add(fault: Fault): () => void {
    this.#matches.set(fault, 0);
    return () => this.#matches.delete(fault);
  }

  clear(): void {
    this.#matches.clear();
  }

  /** The actions that strike this request. Counts it as a match. */
  strike(server: 'registry' | 'storage', path: string): FaultAction[] {
    const struck: FaultAction[] = [];
    for (const [fault, matches] of this.#matches) {
      if (fault.server !== undefined && fault.server !== server) continue;
      if (typeof fault.path === 'string' ? !path.includes(fault.path) : fault.path && !fault.path.test(path)) continue;
      this.#matches.set(fault, matches + 1);
      const turn = matches + 1 - (fault.nth ?? 1);
      if (turn >= 0 && turn < (fault.times ?? Infinity)) struck.push(fault.action);
    }
    return struck;
  }
}

export function find<K extends FaultAction['kind']>(
  actions: readonly FaultAction[],
  kind: K,
): Extract<FaultAction, { kind: K }> | undefined {
  return actions.find((a): a is Extract<FaultAction, { kind: K }> => a.kind === kind);
}
