import { spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { once } from 'node:events';
import { EstargzWriter, type EstargzResult } from '../../src/estargz/writer.js';
import { TarReader, type TarEntry } from '../../src/tar/reader.js';

/** An eStargz blob on disk, with what a manifest and a config say of it. */
export interface ConvertedLayer {
  readonly path: string;
  readonly result: EstargzResult;
}

/**
 * Turns the tar that a command writes into eStargz blobs, as it streams by. `layerOf` sorts the entries into the layers; a hardlink goes
 * where its target went.
 */
export async function convertTar(
  [program, ...args]: readonly string[],
  paths: readonly string[],
  options: { level: number; layerOf?: (name: string) => number },
): Promise<ConvertedLayer[]> {
  const tar = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(tar, 'close') as Promise<[number | null]>;
  const layers = paths.map((path) => new LayerFile(path, options.level));
  const reader = new TarReader(tar.stdout);
  for await (const entry of reader) {
    const layer = layers[options.layerOf?.(layerNameOf(entry)) ?? 0];
    await layer.writer.add(entry, entry.type === 'reg' ? reader.payload() : undefined);
  }
  const [status] = await ended;
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${status}`);
  return Promise.all(layers.map((layer) => layer.finish()));
}

function layerNameOf(entry: TarEntry): string {
  return (entry.type === 'hardlink' ? entry.linkName : entry.name).toString().replace(/^\.?\//, '');
}

class LayerFile {
  readonly writer: EstargzWriter;
  readonly #file;

  constructor(
    private readonly path: string,
    level: number,
  ) {
    this.#file = createWriteStream(path);
    this.writer = new EstargzWriter((bytes) => this.#write(bytes), { level });
  }

  // The writer reuses none of the buffers that it hands out, so the stream may keep them.
  async #write(bytes: Uint8Array): Promise<void> {
    if (!this.#file.write(bytes)) await once(this.#file, 'drain');
  }

  async finish(): Promise<ConvertedLayer> {
    const result = await this.writer.finish();
    await new Promise<void>((resolve, reject) => {
      this.#file.once('error', reject);
      this.#file.end(resolve);
    });
    return { path: this.path, result };
  }
}
