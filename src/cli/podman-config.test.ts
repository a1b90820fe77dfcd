import test from 'ava';
import { parse } from 'smol-toml';
import { defaultConfig } from '../config/config.js';
import { podmanConfig } from './podman-config.js';

const config = { ...defaultConfig(), store: { mount_point: '/var/lib/lazylayer "store"' } };

test('storage.conf: the driver, and where layers are looked for', (t) => {
  t.deepEqual(parse(podmanConfig(config, config.root)) as unknown, {
    storage: { driver: 'overlay', options: { additionallayerstores: ['/var/lib/lazylayer "store":ref'] } },
  });
});

test('the helper of another root has to be told of it', (t) => {
  t.notRegex(podmanConfig(config, config.root), /LAZYLAYER_ROOT/);
  t.regex(podmanConfig({ ...config, root: '/elsewhere' }, config.root), /^# .*LAZYLAYER_ROOT=\/elsewhere/m);
});

test('no mount point, no store', (t) => {
  t.throws(() => podmanConfig(defaultConfig(), config.root), {
    code: 'FAILED_PRECONDITION',
    message: /store\.mount_point/,
  });
});
