import test from 'ava';
import { apart, base, LIB } from '../testing/ahead-files.js';
import { AheadImage, missing } from '../testing/ahead-image.js';
import { manyModules, PYTHON, python, startModules } from '../testing/ahead-python.js';
import type { FileSpec } from '../testing/image-files.js';

test('a module that is read brings all that it leads to, by far fewer requests than files', async (t) => {
  await using image = await AheadImage.open([base, python]);
  image.programs.know(image.slots);
  await image.reads(`/${manyModules[0]}`);
  const present = await image.present();
  t.is(missing(present, manyModules), '');
  t.true(image.requests <= manyModules.length / 5, String(image.requests));
  t.false(present.some((path) => path.includes('unused') || path.includes('app')));
  const { requests } = image;
  for (const path of manyModules) await image.reads(`/${path}`);
  await image.present();
  t.is(image.requests, requests);
});

test('where a layer says what a start needs, a module brings nothing more', async (t) => {
  await using image = await AheadImage.open([python], { landmarkAfter: 1 });
  image.programs.know(image.slots);
  for (const path of ['app/app.py', 'usr/bin/manage', 'usr/bin/python3.11', manyModules[0]]) {
    await image.reads(`/${path}`);
    const present = await image.present();
    t.is(missing(present, [path]), '');
    t.is(missing(manyModules.slice(1), present), present.join()); // none of them
  }
});

test('a command that is given a module brings what that imports, and the interpreter what it starts with', async (t) => {
  await using image = await AheadImage.open([base, python]);
  await image.start({ Cmd: ['python3', 'app.py'], WorkingDir: '/app' });
  const present = await image.present();
  const zlib = [`${PYTHON}/lib-dynload/_z.cpython-311-x86_64-linux-gnu.so`, `${LIB}/libz.so.1.2`];
  const app = ['usr/bin/python3.11', 'app/app.py', 'app/helper.py'];
  t.is(missing(present, [...app, ...zlib, ...startModules, ...manyModules.slice(0, 11)]), '');
  t.false(present.some((path) => path.includes('unused') || path.includes('manage')));
});

test('a script whose first line names an interpreter of modules is one; another is not', async (t) => {
  await using image = await AheadImage.open([base, python]);
  image.programs.know(image.slots);
  await image.reads('/usr/bin/other');
  const present = await image.present();
  t.true(present.includes('usr/bin/other') && present.includes('bin/sh'));
  t.false(present.some((path) => path.includes('python')));
  await image.reads('/usr/bin/manage');
  t.is(
    missing(await image.present(), ['usr/bin/manage', 'usr/bin/python3.11', ...startModules, ...manyModules.slice(50)]),
    '',
  );
});

test('a module that is not what it should be hurts nobody, and is tried again', async (t) => {
  await using image = await AheadImage.open([base, python]);
  image.programs.know(image.slots);
  const sound = Buffer.from(image.blobs[1].bytes);
  const [, inode] = image.place('/app/helper.py');
  const { tree } = image.layers[1];
  const from = tree.chunkOffset[tree.first[inode]];
  image.blobs[1].bytes.fill(0, from, from + 20);
  await image.reads('/usr/bin/python3');
  const helper = () => image.reads('/app/helper.py');
  await image.reads('/app/app.py');
  const present = await image.present();
  t.is(missing(present, ['app/app.py', ...manyModules.slice(0, 11)]), '');
  t.false(present.includes('app/helper.py'));
  await helper();
  t.false((await image.present()).includes('app/helper.py'));
  image.blobs[1].bytes = sound;
  await helper();
  t.is(missing(await image.present(), ['app/helper.py', `${LIB}/libz.so.1.2`]), '');
});

test('a module that names another any number of times, and itself, brings each once', async (t) => {
  const specs: FileSpec[] = [
    apart('a'),
    { path: 'app/many.py', content: `import ${`${'p.'.repeat(40)}p,`.repeat(5_000)}many\n` },
    apart('b'),
    { path: 'app/start.py', content: 'import many' },
    apart('c'),
    { path: 'app/p/__init__.py', content: 'import many' },
    { path: 'app/p/p', target: '.' },
  ];
  await using image = await AheadImage.open([specs]);
  image.programs.know(image.slots);
  await image.reads('/app/start.py');
  t.deepEqual(await image.present(), ['app/many.py', 'app/p/__init__.py', 'app/start.py']);
  t.true(image.requests <= 3, String(image.requests));
});
