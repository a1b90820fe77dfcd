import { humanBytes, percent, shortDigest } from './text.js';

/** A layer that is being downloaded whole, and why. Bytes are of its blob. */
export interface Download {
  readonly layer: string;
  readonly reason: string;
  readonly bytes: number;
  readonly total: number;
}

/** Where progress is shown: `Terminal` has it. */
export interface ProgressOutput {
  readonly interactive: boolean;
  readonly err: { write(text: string): unknown; readonly columns?: number };
}

/** Milliseconds between two drawings. */
const drawMs = 100;
const barWidth = 24;

/**
 * Tells of downloads: on a terminal a bar each, drawn over in place; elsewhere a line when one begins and one when it ends.
 */
export class ProgressView implements Disposable {
  readonly #downloads = new Map<string, Download>();
  readonly #done = new Set<string>();
  #drawn = 0;
  #drawnAt = -Infinity;

  constructor(
    private readonly output: ProgressOutput,
    private readonly now: () => number = () => performance.now(),
  ) {}

  update(download: Download): void {
    const { layer, reason, bytes, total } = download;
    const known = this.#downloads.has(layer);
    this.#downloads.set(layer, download);
    if (!known)
      this.#line(
        `layer ${shortDigest(layer)} is downloaded whole (${humanBytes(total)}) before it can be read: ${reason}`,
      );
    const ended = bytes >= total && !this.#done.has(layer);
    if (ended) {
      this.#done.add(layer);
      if (!this.output.interactive) this.#line(`layer ${shortDigest(layer)} is here`);
    }
    if (this.output.interactive && (ended || !known || this.now() - this.#drawnAt >= drawMs)) this.#draw();
  }

  /** Takes the bars away. */
  [Symbol.dispose](): void {
    this.#erase();
  }

  /** A line that stays, above the bars. */
  #line(text: string): void {
    this.#erase();
    this.output.err.write(`${text}\n`);
  }

  #erase(): void {
    if (this.#drawn > 0) this.output.err.write(`\x1b[${this.#drawn}A\x1b[J`);
    this.#drawn = 0;
  }

  #draw(): void {
    const width = Math.max(40, this.output.err.columns ?? 80) - 1;
    const lines = [...this.#downloads.values()].map(({ layer, bytes, total }) => {
      const filled = total === 0 ? barWidth : Math.min(barWidth, Math.floor((bytes / total) * barWidth));
      const bar = '#'.repeat(filled).padEnd(barWidth, '.');
      return `${shortDigest(layer)} [${bar}] ${percent(bytes, total).padStart(4)} ${humanBytes(bytes)}`.slice(0, width);
    });
    this.#erase();
    this.output.err.write(`${lines.join('\n')}\n`);
    this.#drawn = lines.length;
    this.#drawnAt = this.now();
  }
}
