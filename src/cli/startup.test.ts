import { readFileSync } from 'node:fs';
import test from 'ava';
import ts from 'typescript';

const dist = new URL('../', import.meta.url);

/** Where a compiled module takes what it needs from: at once, and when it comes to that. */
function importsOf(file: string): { now: string[]; later: string[] } {
  const source = ts.createSourceFile(file, readFileSync(new URL(file, dist), 'utf8'), ts.ScriptTarget.Latest);
  const now: string[] = [];
  const later: string[] = [];
  const visit = (node: ts.Node): void => {
    const statement = ts.isImportDeclaration(node) || ts.isExportDeclaration(node);
    if (statement && node.moduleSpecifier !== undefined) now.push((node.moduleSpecifier as ts.StringLiteral).text);
    if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword)
      later.push((node.arguments[0] as ts.StringLiteral).text);
    ts.forEachChild(node, visit);
  };
  visit(source);
  return { now, later };
}

/** What is loaded with a module, and with what the modules of `running` import once they run. */
function loaded(entry: string, running: readonly string[] = []): { modules: string[]; packages: string[] } {
  const modules = new Set<string>();
  const packages = new Set<string>();
  const load = (file: string): void => {
    if (modules.has(file)) return;
    modules.add(file);
    const { now, later } = importsOf(file);
    for (const name of running.includes(file) ? [...now, ...later] : now) {
      if (name.startsWith('.')) load(new URL(name, new URL(file, dist)).href.slice(dist.href.length));
      else if (!name.startsWith('node:')) packages.add(name);
    }
  };
  load(entry);
  return { modules: [...modules].sort(), packages: [...packages].sort() };
}

/** Beside what all verbs load. */
const withConfig = ['smol-toml', 'valibot'];

for (const [what, entry, running, packages] of [
  ['help and version', 'cli/main.js', [], ['commander']],
  ['help of all', 'cli/main.js', ['cli/program.js'], ['commander']],
  ['config', 'cli/config.js', ['cli/context.js', 'cli/config.js'], ['commander', ...withConfig]],
  ['ps', 'cli/ps.js', ['cli/context.js', 'cli/ps.js'], withConfig],
  ['umount', 'cli/umount.js', ['cli/context.js', 'cli/umount.js'], withConfig],
  ['mount', 'cli/mount.js', ['cli/context.js', 'cli/mount.js'], withConfig],
  ['pull', 'cli/pull.js', ['cli/context.js', 'cli/pull.js'], ['commander', ...withConfig]],
  ['serve', 'cli/serve.js', ['cli/context.js', 'cli/serve.js'], ['fs-native-extensions', 'pino', ...withConfig]],
  ['the process that holds the mount', 'daemon/detached.js', [], ['fs-native-extensions', 'pino']],
  ['the worker that serves the kernel', 'fuse/worker.js', [], ['koffi']],
  ['the worker that inflates', 'layer/inflate-worker.js', [], []],
] as const)
  test(`${what} loads only what it needs`, (t) => {
    t.deepEqual(loaded(entry, running).packages, packages);
  });

test('no verb brings the registry client, the cache or the serving side along before it runs', (t) => {
  const { modules } = loaded('cli/main.js', [
    'cli/program.js',
    'cli/context.js',
    'cli/mount.js',
    'cli/ps.js',
    'cli/pull.js',
    'cli/umount.js',
  ]);
  const heavy = /^(cache|estargz|fs|fuse|layer|pool|snapshot|tar|toc|workspace)\//;
  t.deepEqual(
    modules.filter((module) => heavy.test(module)),
    [],
  );
  t.true(modules.includes('daemon/client.js') && modules.includes('config/schema.js'), 'imports are seen at all');
});

test('the serving process loads no snapshotter, no metrics and no libfuse unless they are wanted', (t) => {
  const { modules, packages } = loaded('daemon/serve.js');
  t.deepEqual(
    modules.filter((module) => /^(cli|metrics|snapshot)\/|fuse-native|native-server/.test(module)),
    [],
  );
  t.deepEqual(
    packages.filter((name) => /grpc|protobuf|prom-client|commander|fs-native-extensions|koffi/.test(name)),
    [],
  );
});

test('verbs that open images do load the library, so it would be seen', (t) => {
  const { modules, packages } = loaded('cli/cat.js', ['cli/cat.js']);
  t.true(modules.includes('registry/client.js') && modules.includes('cache/chunk-cache.js'));
  t.true(packages.includes('undici') && packages.includes('lmdb'));
});
