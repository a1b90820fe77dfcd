import test from 'ava';
import { LazylayerError } from '../errors.js';
import { apart, base, dynamic, LIB, library, loader, program, randomBytes, upper } from '../testing/ahead-files.js';
import { AheadImage, lookups } from '../testing/ahead-image.js';
import { elfFile } from '../testing/elf.js';
import { gate } from '../testing/layer-fixture.js';
import { until } from '../testing/until.js';
import { ProgramsAhead } from './programs.js';

test('an image that starts: its command, the loader, the libraries, and what every start reads', async (t) => {
  await using image = await AheadImage.open([base, upper]);
  await image.start({ Cmd: ['sh', '-c', 'true'] });
  t.deepEqual(await image.present(), ['bin/sh', ...dynamic].sort());
  // Each lies apart: passwd, sh, loader, libc; ld.so.cache.
  t.is(image.requests, 5);
});

test('entrypoint and command, through a script, symlinks, $ORIGIN and layers; what a whiteout hides is not brought', async (t) => {
  await using image = await AheadImage.open([base, upper]);
  await image.start({
    Entrypoint: ['/usr/bin/script'],
    Cmd: ['sh'],
    Env: ['PATH=/nowhere:/bin'],
  });
  t.deepEqual(
    await image.present(),
    ['bin/sh', 'usr/bin/script', 'usr/bin/tool', 'usr/own/libown.so', `${LIB}/libz.so.1.2`, ...dynamic].sort(),
  );
});

test('a program whose beginning is read brings what it names, once', async (t) => {
  await using image = await AheadImage.open([base, upper]);
  await image.reads('/usr/bin/tool');
  t.is(image.requests, 0); // of no image that is known
  image.programs.know(image.slots);
  await image.reads('/usr/bin/tool');
  const brought = [
    'usr/bin/tool',
    'usr/own/libown.so',
    'etc/ld.so.cache',
    `${LIB}/ld-2.so`,
    `${LIB}/libc.so.6`,
    `${LIB}/libz.so.1.2`,
  ];
  t.deepEqual(await image.present(), brought.sort());
  const { requests } = image;
  await image.reads('/usr/bin/tool');
  t.is(image.requests, requests);
});

test('where a layer says what a start needs, nothing is guessed but what the runtime reads', async (t) => {
  await using image = await AheadImage.open([base], { landmarkAfter: 3 });
  await image.start({ Cmd: ['sh'] });
  t.deepEqual(await image.present(), ['etc/passwd']);
  t.is(image.requests, 1);
});

test('an image that is only known brings nothing of its command, and one that started brings it once', async (t) => {
  await using image = await AheadImage.open([base, upper]);
  image.programs.know(image.slots);
  await image.reads('/etc/passwd');
  t.is(image.requests, 1);
  await image.start({ Cmd: ['sh'] });
  await image.present();
  const { requests } = image;
  t.is(requests, 5);
  await image.start({ Cmd: ['sh'] });
  await image.reads('/bin/sh');
  t.is(image.requests, requests);
});

test('a layer that is gone, and a registry that gives nothing, are nobody else’s trouble', async (t) => {
  await using image = await AheadImage.open([base, upper]);
  for (const blob of image.blobs)
    blob.beforePiece = () => {
      throw new Error('nothing');
    };
  await image.start({ Cmd: ['sh'] });
  const gone = new ProgramsAhead({ using: () => Promise.reject(new Error('not served')) });
  await gone.expect(image.slots, () => ({ Cmd: ['sh'] }));
  await gone.starts(image.slots.at(-1)!);
  await gone.read(...image.place('/bin/sh'));
  t.deepEqual(await image.present(), []);
});

test('no command, none that is there, and programs that need each other come to an end', async (t) => {
  const circle = [
    apart('a'),
    program('bin/a', elfFile({ needed: ['libb.so'] })),
    library('usr/lib/libb.so', ['libc.so', 'libb.so']),
    library('usr/lib/libc.so', ['libb.so']),
  ];
  await using image = await AheadImage.open([circle]);
  for (const config of [undefined, {}, { Cmd: [''] }, { Entrypoint: ['/none'], Cmd: ['bin'] }])
    await image.start(config);
  t.deepEqual(await image.present(), []);
  await image.start({ Cmd: ['a'] });
  t.deepEqual(await image.present(), ['bin/a', 'usr/lib/libb.so', 'usr/lib/libc.so']);
});

test('an image whose layers are gone makes room for another that shares one', async (t) => {
  await using image = await AheadImage.open([base, upper]);
  const gone = 1_000_000;
  const programs = new ProgramsAhead({
    using: async (slot, work) => {
      const layer = image.layers.find((one) => one.slot === slot);
      if (layer === undefined) throw new LazylayerError('NOT_FOUND', `slot ${slot}`);
      return work(layer);
    },
  });
  programs.know(image.slots);
  await programs.expect([image.slots[0], gone], () => ({ Cmd: ['sh'] }));
  await programs.read(...image.place('/bin/sh'));
  t.true((await image.present()).includes(`${LIB}/libc.so.6`));
});

test('a file that names nothing needs no other layer than its own', async (t) => {
  await using image = await AheadImage.open([base, upper]);
  const used = new Set<number>();
  const programs = new ProgramsAhead({
    using: async (slot, work) => {
      used.add(slot);
      return work(image.layers.find((one) => one.slot === slot)!);
    },
  });
  programs.know(image.slots);
  await programs.read(...image.place('/etc/passwd'));
  t.deepEqual([...used], [image.slots[0]]);
  await programs.read(...image.place('/bin/sh'));
  t.is(used.size, 2);
});

test('a file that names more than a walk may look up holds nobody up', async (t) => {
  const many = Array.from({ length: 3000 }, (_, i) => `lib${i}.so`);
  const runpath = Array.from({ length: 400 }, () => '$ORIGIN/x').join(':');
  const hostile = elfFile({ interpreter: loader, needed: many, runpath });
  await using image = await AheadImage.open([[apart('a'), program('bin/hostile', hostile)]]);
  const looked = lookups(image.layers[0].tree);
  image.programs.know(image.slots);
  await image.reads('/bin/hostile');
  // Without the bound it would be 18,000.
  t.true(looked() > 1000 && looked() < 16_500, String(looked()));
});

const large = (needed: readonly string[], interpreter?: string, runpath?: string) =>
  elfFile({ interpreter, needed, runpath, code: randomBytes(3_000_000) });

test('the libraries of a large program are asked for before the program has come', async (t) => {
  const program0 = [apart('a'), program('bin/big', large(['libz.so.1', 'libown.so'], loader, '$ORIGIN/../own'))];
  const own = [library('own/libown.so', ['libc.so.6'])];
  await using image = await AheadImage.open([base, program0, own]);
  const [, inode] = image.place('/bin/big');
  const { tree } = image.layers[1];
  const open = gate(image.blobs[1], tree.chunkOffset[tree.first[inode]] + 200 * 1024);
  image.programs.know(image.slots);
  const reading = image.layers[1].read(inode, 0, 4);
  const following = image.reads('/bin/big');
  const libraries = [loader, `/${LIB}/libz.so.1`, '/own/libown.so', `/${LIB}/libc.so.6`];
  await until(() => libraries.every((path) => image.has(path)));
  t.false(image.has('/bin/big'));
  t.is(image.blobs[1].asked.length, 1);
  open();
  t.is((await reading).byteLength, 4);
  await following;
  const { requests } = image;
  await image.reads('/bin/big');
  await image.present();
  t.is(image.requests, requests);
});

test('a large program that is not what it should be: what it seemed to name is brought, nothing of it is served', async (t) => {
  await using image = await AheadImage.open([base, [apart('a'), program('bin/big', large(['libz.so.1'], loader))]]);
  const [, inode] = image.place('/bin/big');
  const { tree } = image.layers[1];
  // The beginning is sound, and further on it is not.
  const from = tree.chunkOffset[tree.first[inode]] + 600 * 1024;
  image.blobs[1].bytes.fill(0, from, from + 1000);
  image.programs.know(image.slots);
  const reading = image.layers[1].read(inode, 0, 4);
  const following = image.reads('/bin/big');
  await t.throwsAsync(reading, { code: 'DATA_LOSS' });
  await following;
  const present = await image.present();
  t.true(present.includes(`${LIB}/libz.so.1.2`));
  t.false(present.includes('bin/big'));
  // A beginning that is no gzip names nothing.
  const start = tree.chunkOffset[tree.first[inode]];
  image.blobs[1].bytes.fill(0xff, start, start + 1000);
  await image.reads('/bin/big');
  t.false((await image.present()).includes('bin/big'));
});

test('the loader and the C library come with the first requests, before any program has named them', async (t) => {
  await using image = await AheadImage.open([base, upper]);
  const open = image.blobs.map((blob) => gate(blob));
  const starting = image.start({ Cmd: ['sh'] });
  await until(() => image.requests === 5);
  open.forEach((one) => one());
  await starting;
  t.is(image.requests, 5);
  t.deepEqual(await image.present(), ['bin/sh', ...dynamic].sort());
});

test('an image without a loader, or of which nothing is known, brings no C library', async (t) => {
  const without = base.filter(({ path }) => !path.includes('ld-linux'));
  for (const [specs, brought] of [
    [[without], ['etc/passwd']],
    [[base, upper], dynamic],
  ] as const) {
    await using image = await AheadImage.open(specs);
    await image.start({});
    t.deepEqual(await image.present(), [...brought].sort());
  }
});

test('a pull alone asks for what every container needs, by three requests; all else comes with a container', async (t) => {
  await using image = await AheadImage.open([base, upper]);
  let asked = 0;
  await image.programs.expect(image.slots, () => (asked++, { Cmd: ['sh'] }));
  t.deepEqual(await image.present(), ['etc/passwd', `${LIB}/libc.so.6`]);
  t.is(image.requests, 2);
  // Of another image that shares the lower layer.
  await image.programs.starts(image.slots[0]);
  t.is(image.requests, 2);
  t.is(asked, 0);
  await image.programs.starts(image.slots[1]);
  t.deepEqual(await image.present(), ['bin/sh', ...dynamic].sort());
  t.is(image.requests, 5);
  await image.programs.starts(image.slots[1]);
  t.is(image.requests, 5);
  t.is(asked, 1);
});
