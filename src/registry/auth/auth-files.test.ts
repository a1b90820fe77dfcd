import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { writeProgram } from '../../testing/program.js';
import { temporaryDirectory } from '../../testing/temporary.js';
import { authFiles, fileCredentials } from './auth-files.js';

const b64 = (text: string) => Buffer.from(text).toString('base64');
const login = (username: string, password = 'pw') => ({ kind: 'password', username, password });

/** A home with these files, and the environment that points to it. Helpers are scripts in its `bin`. */
async function home(t: ExecutionContext, files: Record<string, unknown>, helpers: Record<string, string> = {}) {
  const root = await temporaryDirectory(t, 'auth');
  const write = async (name: string, text: string) => {
    await mkdir(dirname(join(root, name)), { recursive: true });
    await writeFile(join(root, name), text);
  };
  for (const [name, content] of Object.entries(files))
    await write(name, typeof content === 'string' ? content : JSON.stringify(content));
  await mkdir(join(root, 'bin'));
  for (const [name, script] of Object.entries(helpers))
    writeProgram(join(root, `bin/docker-credential-${name}`), script);
  return { root, env: { HOME: root, XDG_RUNTIME_DIR: join(root, 'run'), PATH: `${root}/bin:/usr/bin:/bin` } };
}

test('the files in their order', (t) => {
  t.deepEqual(authFiles({ HOME: '/h', XDG_RUNTIME_DIR: '/run/u' }), [
    '/h/.docker/config.json',
    '/run/u/containers/auth.json',
    '/h/.config/containers/auth.json',
  ]);
  t.deepEqual(authFiles({ HOME: '/h', DOCKER_CONFIG: '/d', REGISTRY_AUTH_FILE: '/r', XDG_CONFIG_HOME: '/c' }), [
    '/d/config.json',
    '/r',
    `/run/containers/${process.getuid!()}/auth.json`,
    '/c/containers/auth.json',
  ]);
});

test('the first file that knows the host wins; what is missing, empty or broken does not end the search', async (t) => {
  const { root, env } = await home(t, {
    '.docker/config.json': { auths: { 'a.io': { auth: b64('docker:p:w') } } },
    'file.json': 'broken {',
    'run/containers/auth.json': { auths: { 'a.io': { auth: b64('run:pw') }, 'b.io': { auth: b64('run:pw') } } },
    '.config/containers/auth.json': { auths: { 'b.io': { auth: b64('conf:pw') }, 'c.io': { auth: b64('conf:pw') } } },
  });
  const find = fileCredentials({ ...env, REGISTRY_AUTH_FILE: join(root, 'file.json') });
  t.deepEqual(await find('a.io', 'x'), { credential: login('docker', 'p:w'), problems: [] } as never);
  const b = await find('b.io', 'x');
  t.deepEqual(b.credential, login('run') as never);
  t.regex(b.problems[0], /file\.json: expected JSON/);
  t.deepEqual((await find('c.io', 'x')).credential, login('conf') as never);
  t.is((await find('d.io', 'x')).credential, undefined);
});

test('the longest path wins, and Docker writes its keys as URLs', async (t) => {
  const { env } = await home(t, {
    '.docker/config.json': {
      auths: {
        'a.io': { auth: b64('host:pw') },
        'a.io/team': { auth: b64('team:pw') },
        'a.io/team/app': { auth: b64('app:pw') },
        'https://index.docker.io/v1/': { auth: b64('hub:pw') },
        'https://b.io/v2/': { username: 'b', password: 'pw' },
        'c.io:5000': { identitytoken: 'idt', auth: b64('00000000:') },
        'd.io': { registrytoken: 'rt' },
        'e.io': { auth: '!!!' },
      },
    },
  });
  const find = fileCredentials(env);
  const who = async (host: string, repository: string) => (await find(host, repository)).credential as unknown;
  t.deepEqual(await who('a.io', 'team/app'), login('app'));
  t.deepEqual(await who('a.io', 'team/app/sub'), login('app'));
  t.deepEqual(await who('a.io', 'team/apple'), login('team'));
  t.deepEqual(await who('a.io', 'teams/app'), login('host'));
  t.deepEqual(await who('docker.io', 'library/x'), login('hub'));
  t.deepEqual(await who('b.io', 'v2/x'), login('b'));
  t.deepEqual(await who('c.io:5000', 'x'), { kind: 'identity', token: 'idt' });
  t.deepEqual(await who('d.io', 'x'), { kind: 'token', token: 'rt' });
  const broken = await find('e.io', 'x');
  t.is(broken.credential, undefined);
  t.regex(broken.problems[0], /expected "user:password" in base64 as auth of e\.io/);
});

test('helpers: by host before the store, asked as Docker asks, identity tokens, and failures that end nothing', async (t) => {
  const { root, env } = await home(
    t,
    {
      '.docker/config.json': {
        credHelpers: {
          'h.io': 'good',
          'f.io': 'fails',
          'm.io': 'missing',
          'n.io': 'none',
          'p.io': '../../evil',
          'j.io': 'noise',
        },
        credsStore: 'store',
        auths: { 'docker.io': {} },
      },
      'run/containers/auth.json': { auths: { 'f.io': { auth: b64('next:pw') } } },
    },
    {
      good: 'read server; echo "$1 $server" >> "$HOME/asked"; echo \'{"Username":"good","Secret":"pw"}\'',
      fails: 'echo "my SECRET"; exit 3',
      none: 'echo "credentials not found in native keychain"; exit 1',
      noise: 'echo "SECRET is no JSON"',
      store:
        'read server; echo "$1 $server" >> "$HOME/asked"; case "$server" in *docker*) echo \'{"Username":"<token>","Secret":"idt"}\';; *) echo "credentials not found in native keychain"; exit 1;; esac',
    },
  );
  const find = fileCredentials(env);
  t.deepEqual(await find('h.io', 'x'), { credential: login('good'), problems: [] } as never);
  t.deepEqual((await find('docker.io', 'x')).credential, { kind: 'identity', token: 'idt' });
  t.is(await readFile(join(root, 'asked'), 'utf8'), 'get h.io\nget https://index.docker.io/v1/\n');
  const failed = await find('f.io', 'x');
  t.deepEqual(failed.credential, login('next') as never);
  t.deepEqual(failed.problems, ['docker-credential-fails: exit status 3']);
  t.deepEqual((await find('m.io', 'x')).problems, ['docker-credential-missing: could not be run, ENOENT']);
  t.deepEqual(await find('n.io', 'x'), { problems: [] });
  t.regex((await find('p.io', 'x')).problems[0], /expected a name of letters/);
  t.deepEqual((await find('j.io', 'x')).problems, ['docker-credential-noise: expected JSON, found another text']);
});

test('a helper that hangs ends with the signal', async (t) => {
  const { env } = await home(t, { '.docker/config.json': { credsStore: 'hangs' } }, { hangs: 'exec sleep 60' });
  const controller = new AbortController();
  const asked = fileCredentials(env)('a.io', 'x', controller.signal);
  setTimeout(() => controller.abort(new Error('enough')), 20);
  await t.throwsAsync(asked, { message: 'enough' });
});

test('any auth file is read or skipped', async (t) => {
  const { root, env } = await home(t, {});
  await mkdir(join(root, '.docker'));
  const key = fc.constantFrom('auths', 'credHelpers', 'a.io', 'auth', 'identitytoken', 'https://');
  await fc.assert(
    fc.asyncProperty(
      fc.dictionary(key, fc.oneof(fc.jsonValue(), fc.dictionary(key, fc.jsonValue()))),
      async (value) => {
        await writeFile(join(root, '.docker/config.json'), JSON.stringify(value));
        t.true(Array.isArray((await fileCredentials(env)('a.io', 'x')).problems));
      },
    ),
    { numRuns: 100 },
  );
});
