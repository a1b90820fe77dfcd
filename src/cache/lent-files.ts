import { closeSync, openSync } from 'node:fs';

const MAX_OPEN = 16;

/** Cache files of layers that nobody has open, read for chunks that others share with them. Few stay open; the one opened first goes first. */
export class LentFiles {
  readonly #open = new Map<string, number>();

  /** The descriptor of a layer's file, by the layer's name; good until the next call. @throws what opening it throws */
  open(name: string, path: string): number {
    const known = this.#open.get(name);
    if (known !== undefined) return known;
    const fd = openSync(path, 'r');
    if (this.#open.size >= MAX_OPEN) this.close(this.#open.keys().next().value!);
    this.#open.set(name, fd);
    return fd;
  }

  close(name: string): void {
    const fd = this.#open.get(name);
    if (fd === undefined) return;
    this.#open.delete(name);
    closeSync(fd);
  }

  closeAll(): void {
    for (const name of [...this.#open.keys()]) this.close(name);
  }
}
