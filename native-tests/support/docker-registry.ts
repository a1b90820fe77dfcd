import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually, freePort, requirePrograms, startDaemon, type Cleanup } from './tools.js';

export interface DockerRegistry {
  readonly port: number;
  /** `127.0.0.1:PORT`, as references name it. */
  readonly host: string;
}

/**
 * Debian's docker-registry over plain HTTP on loopback, storing below `storage`.
 * `readOnly` refuses pushes, so that several tests may serve one storage.
 */
export async function startDockerRegistry(
  cleanup: Cleanup,
  storage: string,
  options: { readOnly?: boolean } = {},
): Promise<DockerRegistry> {
  requirePrograms('docker-registry');
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-registry-'));
  cleanup.teardown(() => rm(directory, { recursive: true, force: true }));
  const config = (port: number) => ({
    version: '0.1',
    log: { level: 'error', accesslog: { disabled: true } },
    storage: {
      filesystem: { rootdirectory: storage },
      maintenance: { uploadpurging: { enabled: false }, readonly: { enabled: options.readOnly === true } },
    },
    http: { addr: `127.0.0.1:${port}` },
  });
  for (;;) {
    const port = await freePort();
    // JSON is YAML.
    await writeFile(join(directory, 'config.yml'), JSON.stringify(config(port)));
    const daemon = startDaemon(cleanup, 'docker-registry', ['serve', join(directory, 'config.yml')]);
    const answers = await eventually('docker-registry answers', async () => {
      // Somebody took the port since it was found to be free.
      if (daemon.child.exitCode !== null && daemon.said().includes('address already in use')) return false;
      if (daemon.child.exitCode !== null) throw new Error(`docker-registry ended: ${daemon.said()}`);
      return (await fetch(`http://127.0.0.1:${port}/v2/`)).ok ? true : undefined;
    });
    if (answers) return { port, host: `127.0.0.1:${port}` };
  }
}
