import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { outcomeOf, requirePrograms, type Outcome } from './tools.js';

/** Runs a script as a container of its own user namespace, by runc and without containerd. `host` is the id outside of its id 0. */
export async function runInUserNamespace(
  directory: string,
  container: { id: string; rootfs: string; host: { uid: number; gid: number }; script: string },
): Promise<Outcome> {
  requirePrograms('runc');
  const { id, rootfs, host, script } = container;
  const capabilities = ['CAP_CHOWN', 'CAP_DAC_OVERRIDE', 'CAP_FOWNER', 'CAP_FSETID', 'CAP_SETGID', 'CAP_SETUID'];
  const config = {
    ociVersion: '1.0.2',
    process: {
      user: { uid: 0, gid: 0 },
      cwd: '/',
      env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin'],
      args: ['sh', '-c', script],
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    },
    root: { path: rootfs },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755'] },
    ],
    linux: {
      namespaces: ['user', 'mount', 'pid', 'ipc'].map((type) => ({ type })),
      uidMappings: [{ containerID: 0, hostID: host.uid, size: 65536 }],
      gidMappings: [{ containerID: 0, hostID: host.gid, size: 65536 }],
    },
  };
  const bundle = join(directory, id);
  await mkdir(bundle);
  await writeFile(join(bundle, 'config.json'), JSON.stringify(config));
  return outcomeOf('runc', ['--root', join(directory, 'runc'), 'run', '--bundle', bundle, id]);
}
