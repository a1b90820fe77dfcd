import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hash } from 'node:crypto';
import { hexOf } from '../digest/digest.js';
import { writeFileAtomic } from '../util/atomic-file.js';
import type { ImageLayer } from '../workspace/image.js';

/** Layers in use, one file each: what opens them after a restart without the registry, wherever their tag points by then. */
export class StoreRecords {
  constructor(private readonly directory: string) {}

  /** Everything that can be read; the rest is removed. */
  async all(): Promise<ImageLayer[]> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    const found: ImageLayer[] = [];
    for (const name of await readdir(this.directory)) {
      const path = join(this.directory, name);
      try {
        const layer = JSON.parse(await readFile(path, 'utf8')) as ImageLayer;
        if (this.#path(layer) !== path) throw new Error('not the name of this record');
        found.push(layer);
      } catch {
        await rm(path, { recursive: true, force: true });
      }
    }
    return found;
  }

  async put(layer: ImageLayer): Promise<void> {
    await writeFileAtomic(this.#path(layer), JSON.stringify(layer));
  }

  async remove(layer: ImageLayer): Promise<void> {
    await rm(this.#path(layer), { force: true });
  }

  #path({ reference, descriptor }: ImageLayer): string {
    return join(this.directory, `${hash('sha256', reference, 'hex')}-${hexOf(descriptor.digest)}`);
  }
}
