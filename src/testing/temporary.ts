import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Gone at the end of the test, after what is torn down in it: teardowns run last to first. */
export async function temporaryDirectory(
  t: { teardown: (work: () => Promise<void>) => void },
  name: string,
): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), `lazylayer-${name}-`));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return directory;
}
