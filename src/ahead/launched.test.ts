import test from 'ava';
import type { ImageConfig } from '../image/config.js';
import { apart, base, dynamic, program, upper } from '../testing/ahead-files.js';
import { AheadImage, lookups, missing } from '../testing/ahead-image.js';
import { manyModules, python, startModules } from '../testing/ahead-python.js';
import type { FileSpec } from '../testing/image-files.js';
import { inodeAt } from '../testing/image-tree.js';
import { invocationOf } from './arguments.js';

test('a process that waits for anything brings what its command line names, once', async (t) => {
  await using image = await AheadImage.open([base, python]);
  await image.runs(['python3', 'app.py'], '/app');
  t.is(image.requests, 0, 'of no image that is known');
  image.programs.know(image.slots);
  await image.runs(['python3', 'app.py'], '/app', 3, true);
  t.is(image.requests, 0, 'of whoever runs outside');
  await image.runs(['python3', 'app.py'], '/app', 2);
  const present = await image.present();
  t.is(
    missing(present, [
      'usr/bin/python3.11',
      'app/app.py',
      'app/helper.py',
      ...startModules,
      ...manyModules.slice(0, 11),
    ]),
    '',
  );
  t.false(present.some((path) => path.includes('unused') || path.includes('manage')));
  const { requests } = image;
  await image.runs(['python3', 'app.py'], '/app', 2);
  t.is(image.requests, requests);
});

test('what a container is going to run is brought while it is made, and then nothing for what its config says', async (t) => {
  await using image = await AheadImage.open([base, python, upper]);
  let answer!: (config: ImageConfig['config']) => void;
  const config = new Promise<ImageConfig['config']>((resolve) => (answer = resolve));
  await image.programs.expect(image.slots, () => config);
  const starting = image.programs.starts(image.slots[0]);
  const started = image.programs.starts(image.slots[2]);
  image.launched.set(7, invocationOf([['python3', 'app.py']], ['PATH=/usr/bin'], '/app'));
  for (const pid of [6, 7]) await image.programs.looks(image.slots[1], pid);
  answer({ Cmd: ['/usr/bin/tool'] });
  await Promise.all([starting, started]);
  const present = await image.present();
  t.is(missing(present, ['usr/bin/python3.11', 'app/app.py', 'app/helper.py', ...dynamic]), '');
  t.false(present.includes('usr/bin/tool'));
  // Of a later container it counts again.
  await image.start({ Cmd: ['/usr/bin/tool'] });
  t.true((await image.present()).includes('usr/bin/tool'));
});

test('programs and modules in the text of a shell; a module by its name; a program by a relative path', async (t) => {
  await using image = await AheadImage.open([base, python, upper]);
  image.programs.know(image.slots);
  await image.runs(['sh', '-c', 'tool && exec nothing.py'], '/app');
  t.is(missing(await image.present(), ['bin/sh', 'usr/bin/tool', 'usr/own/libown.so']), '');
  t.false((await image.present()).some((path) => path.includes('python')));
  await image.runs(['env', 'A=b', 'python3', '-m', 'm50'], '/');
  t.is(missing(await image.present(), ['usr/bin/python3.11', ...manyModules.slice(50)]), '');
  t.false((await image.present()).includes('usr/bin/manage'));
  await image.runs(['python3', '../bin/manage', 'app'], '/usr/lib');
  t.is(missing(await image.present(), ['usr/bin/manage']), '');
});

test('a command line is tried again by another process, and where its image is met later', async (t) => {
  await using image = await AheadImage.open([base, upper]);
  image.programs.know(image.slots);
  for (const blob of image.blobs)
    blob.beforePiece = () => {
      throw new Error('nothing');
    };
  await image.runs(['sh']);
  t.deepEqual(await image.present(), []);
  for (const blob of image.blobs) blob.beforePiece = () => {};
  await image.runs(['sh']);
  t.deepEqual(await image.present(), []);
  await image.runs(['sh'], '/', 2);
  t.true((await image.present()).includes('bin/sh'));
});

test('of images that share a layer, a command line is of one that has what it names, the one that started last first', async (t) => {
  const app = (name: string, content: string): FileSpec[] => [
    apart('z'),
    program('usr/bin/app', content),
    apart('y'),
    program(`usr/bin/${name}`, name),
  ];
  await using image = await AheadImage.open([base, app('one', 'first'), app('two', 'second')]);
  const [shared, one, two] = image.slots;
  image.programs.know([shared, one]);
  image.programs.know([shared, two]);
  const has = (index: number, path: string) => {
    const { tree, view } = image.layers[index];
    return view.presence.has(tree.first[inodeAt(tree, path)]);
  };
  await image.runs(['one']);
  t.true(has(1, '/usr/bin/one'));
  await image.programs.starts(one);
  await image.runs(['app']);
  await image.present();
  t.deepEqual([has(1, '/usr/bin/app'), has(2, '/usr/bin/app')], [true, false]);
});

test('where a layer says what a start needs, a command line brings nothing', async (t) => {
  await using image = await AheadImage.open([base], { landmarkAfter: 3 });
  image.programs.know(image.slots);
  await image.runs(['sh']);
  t.is(image.requests, 0);
});

test('a command line that names more than may be looked up holds nobody up', async (t) => {
  await using image = await AheadImage.open([base]);
  image.programs.know(image.slots);
  const looked = lookups(image.layers[0].tree);
  await image.runs(['sh', '-c', 'a;/b;c.py '.repeat(400)]);
  t.true(looked() > 10 && looked() < 2000, String(looked()));
});

test('whoever has any number of command lines is followed in 32 of them a second', async (t) => {
  await using image = await AheadImage.open([base]);
  image.programs.know(image.slots);
  const looked = lookups(image.layers[0].tree);
  const second = () => Math.floor(performance.now() / 1000);
  const began = second();
  let followed = 0;
  for (let i = 0; i < 200; i++) {
    const before = looked();
    await image.runs([`nothing-${i}`]);
    if (looked() > before) followed++;
  }
  const seconds = second() - began + 1;
  t.true(followed >= 32 && followed <= 32 * seconds && followed < 200, `${followed} in ${seconds} s`);
});
