import test from 'ava';
import { parse } from 'smol-toml';
import { defaultConfig } from '../config/config.js';
import { podmanConfig, podmanPlaces } from './podman-config.js';

const config = { ...defaultConfig(), store: { mount_point: '/var/lib/lazylayer "store"' } };

const places = { defaultRoot: config.root, ...podmanPlaces(0, {}) };

test('storage.conf: the driver, and where layers are looked for', (t) => {
  t.deepEqual(parse(podmanConfig(config, places)) as unknown, {
    storage: {
      driver: 'overlay',
      graphroot: '/var/lib/containers/storage',
      runroot: '/run/containers/storage',
      options: { additionallayerstores: ['/var/lib/lazylayer "store":ref'] },
    },
  });
});

test('the helper of another root has to be told of it', (t) => {
  t.notRegex(podmanConfig(config, places), /LAZYLAYER_ROOT/);
  t.regex(podmanConfig({ ...config, root: '/elsewhere' }, places), /^# .*LAZYLAYER_ROOT=\/elsewhere/m);
});

test('no mount point, no store', (t) => {
  t.throws(() => podmanConfig(defaultConfig(), places), {
    code: 'FAILED_PRECONDITION',
    message: /store\.mount_point/,
  });
});

test('without root, everything is in the home of who runs it', (t) => {
  t.deepEqual(podmanPlaces(1000, { HOME: '/home/joe' }), {
    graphroot: '/home/joe/.local/share/containers/storage',
    runroot: '/run/user/1000/containers',
  });
  t.deepEqual(podmanPlaces(1000, { HOME: '/home/joe', XDG_DATA_HOME: '/data', XDG_RUNTIME_DIR: '/run/joe' }), {
    graphroot: '/data/containers/storage',
    runroot: '/run/joe/containers',
  });
});
