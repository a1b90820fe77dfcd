import { readFile } from 'node:fs/promises';
import type { FileSpec } from '../../src/testing/image-files.js';
import { run } from './tools.js';

/** Programs of this machine and what they are linked with: files of an image that can be run. */
export async function hostPrograms(...programs: string[]): Promise<FileSpec[]> {
  const linked = await Promise.all(programs.map((program) => run('ldd', [program])));
  const libraries = linked.flatMap((text) => [...text.matchAll(/(\/\S+) \(0x/g)].map(([, path]) => path));
  return Promise.all(
    [...new Set([...programs, ...libraries])].map(async (path) => ({
      path: path.slice(1),
      content: await readFile(path),
      mode: 0o755,
    })),
  );
}
