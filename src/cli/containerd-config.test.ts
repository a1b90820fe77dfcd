import test from 'ava';
import { parse } from 'smol-toml';
import { defaultConfig } from '../config/config.js';
import { containerdConfig } from './containerd-config.js';

const config = defaultConfig({ uid: 0, env: {} });
const address = '/run/lazylayer/snapshotter.sock';

test('containerd 1: the plugin, and CRI with annotations', (t) => {
  t.deepEqual(parse(containerdConfig(config, '1')) as unknown, {
    version: 2,
    proxy_plugins: { lazylayer: { type: 'snapshot', address } },
    plugins: {
      'io.containerd.grpc.v1.cri': { containerd: { snapshotter: 'lazylayer', disable_snapshot_annotations: false } },
    },
  });
});

test('containerd 2: also what it asks of the plugin', (t) => {
  const remapping = { ...config, snapshotter: { ...config.snapshotter, remap_ids: true } };
  const exports = { root: '/var/lib/lazylayer', enable_remote_snapshot_annotations: 'true' };
  t.deepEqual(parse(containerdConfig(remapping, '2')) as unknown, {
    version: 3,
    proxy_plugins: { lazylayer: { type: 'snapshot', address, capabilities: ['remap-ids'], exports } },
    plugins: {
      'io.containerd.cri.v1.images': { snapshotter: 'lazylayer', disable_snapshot_annotations: false },
      'io.containerd.transfer.v1.local': {
        unpack_config: ['overlayfs', 'lazylayer'].map((snapshotter) => ({ platform: 'linux', snapshotter })),
      },
    },
  });
  t.notRegex(containerdConfig(config, '2'), /capabilities/);
});

test('no socket, no plugin', (t) => {
  const off = { ...config, snapshotter: { ...config.snapshotter, address: '' } };
  t.throws(() => containerdConfig(off, '2'), { message: /snapshotter\.address/ });
});
