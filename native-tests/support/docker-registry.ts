import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { OciManifest } from './oci-layout.js';
import { eventually, freePort, requirePrograms, run, startDaemon, type Cleanup } from './tools.js';

export interface DockerRegistry {
  readonly port: number;
  /** `127.0.0.1:PORT`, as references name it. */
  readonly host: string;
}

/**
 * Debian's docker-registry over plain HTTP on loopback, storing below `storage`.
 * `readOnly` refuses pushes, so that several tests may serve one storage; `login` refuses whoever does not give it; with `nice` its threads
 * come before others, or behind them.
 */
export async function startDockerRegistry(
  cleanup: Cleanup,
  storage: string,
  options: { readOnly?: boolean; login?: { user: string; password: string }; nice?: number } = {},
): Promise<DockerRegistry> {
  requirePrograms('docker-registry');
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-registry-'));
  cleanup.teardown(() => rm(directory, { recursive: true, force: true }));
  const { login } = options;
  const htpasswd = join(directory, 'htpasswd');
  if (login !== undefined) {
    // bcrypt, at its lowest cost; the salt is 22 characters.
    const crypt = 'print crypt($ARGV[0], q($2b$05$lazylayerlazylayer.....))';
    await writeFile(htpasswd, `${login.user}:${await run('perl', ['-e', crypt, login.password])}\n`);
  }
  const config = (port: number) => ({
    version: '0.1',
    log: { level: 'error', accesslog: { disabled: true } },
    storage: {
      filesystem: { rootdirectory: storage },
      maintenance: { uploadpurging: { enabled: false }, readonly: { enabled: options.readOnly === true } },
    },
    http: { addr: `127.0.0.1:${port}` },
    ...(login !== undefined && { auth: { htpasswd: { realm: 'tests', path: htpasswd } } }),
  });
  for (;;) {
    const port = await freePort();
    // JSON is YAML.
    await writeFile(join(directory, 'config.yml'), JSON.stringify(config(port)));
    const command = ['docker-registry', 'serve', join(directory, 'config.yml')];
    const daemon = startDaemon(cleanup, 'nice', ['-n', String(options.nice ?? 0), ...command]);
    const answers = await eventually('docker-registry answers', async () => {
      // Somebody took the port since it was found to be free.
      if (daemon.child.exitCode !== null && daemon.said().includes('address already in use')) return false;
      if (daemon.child.exitCode !== null) throw new Error(`docker-registry ended: ${daemon.said()}`);
      const { status } = await fetch(`http://127.0.0.1:${port}/v2/`);
      return status === (login === undefined ? 200 : 401) ? true : undefined;
    });
    if (answers) return { port, host: `127.0.0.1:${port}` };
  }
}

/** What a registry without a login has under a name and the tag `1`. */
export async function manifestOf(host: string, name: string): Promise<OciManifest> {
  const accept = 'application/vnd.oci.image.manifest.v1+json';
  const answer = await fetch(`http://${host}/v2/${name}/manifests/1`, { headers: { accept } });
  return (await answer.json()) as OciManifest;
}
