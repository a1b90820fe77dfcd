import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { program } from './support/scene.js';
import { stageFor, type Stage } from './support/stage.js';
import { manifestOf } from './support/docker-registry.js';
import { outcomeOf } from './support/tools.js';

const stage = stageFor(test);

/** Runs a script as the root of a user namespace alone, who finds /dev/fuse with this owner and mode. */
async function inNamespace({ scene }: Stage, device: { owner: number; mode: string }, script: string) {
  const file = (name: string) => join(scene.directory, name);
  await writeFile(file('script'), script);
  const outer = [
    `mknod ${file('fuse')} c 10 229; chown ${device.owner} ${file('fuse')}; chmod ${device.mode} ${file('fuse')}`,
    `mount --bind ${file('fuse')} /dev/fuse`,
    `exec unshare --user --map-root-user --mount sh ${file('script')}`,
  ];
  return outcomeOf('unshare', ['--mount', 'sh', '-ec', outer.join('\n')], { timeout: 150_000 });
}

const store = ({ scene, target }: Stage) =>
  `${process.execPath} ${program} store --root ${scene.root} --config ${scene.config} ${target}`;

test.serial('in a user namespace the store serves, where the device lets it', async (t) => {
  const staged = await stage(t, 'background = false\n');
  const { layers } = await manifestOf(staged.proxy.host, 'lazy');
  const reference = Buffer.from(staged.image('lazy')).toString('base64');
  const layer = join(staged.target, reference, layers[0].digest);
  const { stdout, stderr, status } = await inNamespace(
    staged,
    { owner: 0, mode: '0666' },
    `${store(staged)} >${staged.scene.directory}/log 2>&1 &
for i in $(seq 600); do grep -q '"msg":"serving"' ${staged.scene.directory}/log && break; kill -0 $! || break; sleep 0.1; done
cat ${layer}/diff/etc/debian_version
touch ${layer}/use
kill $!; wait $! || exit 3
grep -c ${staged.target} /proc/self/mounts
cat ${staged.scene.directory}/log`,
  );
  t.regex(stdout.toString(), /^12\.\d+\n0\n\{/, stderr);
  t.regex(stderr, /touch: .*use.*No such file or directory/, 'that is how a use is taken');
  t.is(status, 0);
});

test.serial('where the device does not, it is said what has to change', async (t) => {
  const staged = await stage(t);
  const { stderr, status } = await inNamespace(staged, { owner: 1, mode: '0600' }, `exec ${store(staged)}`);
  t.regex(stderr, /cannot open \/dev\/fuse: expected to be root, or mode 0666, found mode 0600; root can `chmod 0666/);
  t.is(status, 1);
  const nobody = ['--reuid', '65534', '--regid', '65534', '--clear-groups', process.execPath, program, 'store', '/mnt'];
  const refused = await outcomeOf('setpriv', nobody, { env: { ...process.env, LAZYLAYER_CONFIG: '/dev/null' } });
  if (/cannot find module|EACCES|MODULE_NOT_FOUND/i.test(refused.stderr))
    return t.log('the checkout is not readable for others: nothing to be seen of an ordinary user');
  t.regex(refused.stderr, /only root can serve.*podman unshare lazylayer store/s);
});
