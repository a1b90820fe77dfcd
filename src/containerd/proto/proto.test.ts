import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { format, resolveConfig } from 'prettier';
import test from 'ava';
import { temporaryDirectory } from '../../testing/temporary.js';
import { runCommand } from '../../util/command.js';

const project = join(import.meta.dirname, '..', '..', '..', '..');
const sources = join(project, 'src', 'containerd', 'proto');

test('the generated code is what `npm run generate` makes of the .proto files', async (t) => {
  const out = await temporaryDirectory(t, 'proto');
  const bin = join(project, 'node_modules', '.bin');
  const buf = ['generate', '--template', 'buf.gen.yaml', '-o', out];
  await runCommand('sh', ['-c', 'PATH="$0:$PATH" exec buf "$@"', bin, ...buf], { cwd: sources });
  const generated = (await readdir(sources)).filter((name) => name.endsWith('_pb.ts'));
  t.deepEqual(generated.sort(), (await readdir(out)).sort());
  for (const name of generated) {
    const committed = join(sources, name);
    // The linter takes away the switch that turns it off.
    const made = (await readFile(join(out, name), 'utf8')).replace('/* eslint-disable */\n', '');
    const options = await resolveConfig(committed);
    t.is(await format(made, { ...options, parser: 'typescript' }), await readFile(committed, 'utf8'), name);
  }
});
