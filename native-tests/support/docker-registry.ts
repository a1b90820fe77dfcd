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
  const port = await freePort();
  const config = {
    version: '0.1',
    log: { level: 'error', accesslog: { disabled: true } },
    storage: {
      filesystem: { rootdirectory: storage },
      maintenance: { uploadpurging: { enabled: false }, readonly: { enabled: options.readOnly === true } },
    },
    http: { addr: `127.0.0.1:${port}` },
  };
  // JSON is YAML.
  await writeFile(join(directory, 'config.yml'), JSON.stringify(config));
  const daemon = startDaemon(cleanup, 'docker-registry', ['serve', join(directory, 'config.yml')]);
  await eventually('docker-registry answers', async () => {
    if (daemon.child.exitCode !== null) throw new Error(`docker-registry ended: ${daemon.said()}`);
    return (await fetch(`http://127.0.0.1:${port}/v2/`)).ok ? true : undefined;
  });
  return { port, host: `127.0.0.1:${port}` };
}
