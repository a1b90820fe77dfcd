import test from 'ava';
import { codeOf } from '../errors.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { idmapRefusal, servedIdmapRefusal } from './idmap.js';
import { checkOverlayPath, kernelAtLeast, overlayMounts } from './overlay.js';

const parts = { own: '/s/3/fs', idmap: [] };
const defaults = ['index=off'];

test('mounts by kind and number of parents', (t) => {
  const work = '/s/3/work';
  const bind = (source: string, access: string) => [{ type: 'bind', source, target: '', options: [access, 'rbind'] }];
  const overlay = (...options: string[]) => [{ type: 'overlay', source: 'overlay', target: '', options }];
  t.deepEqual(overlayMounts({ ...parts, work, lower: [] }, defaults), bind('/s/3/fs', 'rw'));
  t.deepEqual(overlayMounts({ ...parts, lower: [] }, defaults), bind('/s/3/fs', 'ro'));
  t.deepEqual(overlayMounts({ ...parts, lower: ['/s/1/fs'] }, defaults), bind('/s/1/fs', 'ro'));
  t.deepEqual(
    overlayMounts({ ...parts, lower: ['/s/2/fs', '/s/1/fs'] }, defaults),
    overlay('lowerdir=/s/2/fs:/s/1/fs', 'index=off'),
  );
  t.deepEqual(
    overlayMounts({ ...parts, work, lower: ['/s/1/fs'], idmap: ['uidmap=0:1:1', 'gidmap=0:1:1'] }, defaults),
    overlay('uidmap=0:1:1', 'gidmap=0:1:1', 'workdir=/s/3/work', 'upperdir=/s/3/fs', 'lowerdir=/s/1/fs', 'index=off'),
  );
});

test('a root that overlay options cannot carry is refused', (t) => {
  for (const path of ['relative', '/a,b', '/a:b', '/a\\b', '/a"b'])
    t.is(codeOf(t.throws(() => checkOverlayPath(path))), 'INVALID_ARGUMENT', path);
  t.is(checkOverlayPath('/var/lib/lazy layer'), '/var/lib/lazy layer');
});

test('a kernel is known by its release', (t) => {
  t.true(kernelAtLeast('5.19.0-amd64', 5, 19));
  t.true(kernelAtLeast('6.1.0', 5, 19));
  t.false(kernelAtLeast('5.9.1', 5, 19));
  t.false(kernelAtLeast('unheard of', 5, 19));
});

test('what the kernel cannot id-map is told', async (t) => {
  const directory = await temporaryDirectory(t, 'idmap');
  t.regex((await idmapRefusal(directory, '5.10.0'))!, /kernel 5\.10\.0 has no id-mapped overlays/);
  t.regex((await idmapRefusal('/proc', '6.12.0'))!, /filesystem of \/proc/);
});

test('lazy layers can be id-mapped where kernel and server agreed on it', (t) => {
  const agreed = { minor: 45, flags: 0x43e6_2001 };
  t.is(servedIdmapRefusal({ ...agreed, flags2: 0x100 }), undefined);
  t.regex(servedIdmapRefusal({ ...agreed, flags2: 0 }, '6.6.0')!, /kernel 6\.6\.0 .* 6\.12/);
  t.regex(servedIdmapRefusal(undefined)!, /fuse-native/);
});
