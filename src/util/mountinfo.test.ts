import test from 'ava';
import { listMounts, parseMountinfo } from './mountinfo.js';

test('reads the fields around any number of optional ones, and unescapes names', (t) => {
  const text = [
    '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue',
    '37 35 0:45 / /a\\040b\\134c ro - fuse.lazylayer lazy\\040layer rw,user_id=0',
    '38 35 0:46 / /short ro - tmpfs none',
    '',
  ].join('\n');
  t.deepEqual(parseMountinfo(text), [
    { device: '98:0', target: '/mnt2', type: 'ext3', source: '/dev/root', superOptions: 'rw,errors=continue' },
    { device: '0:45', target: '/a b\\c', type: 'fuse.lazylayer', source: 'lazy layer', superOptions: 'rw,user_id=0' },
    { device: '0:46', target: '/short', type: 'tmpfs', source: 'none', superOptions: '' },
  ]);
});

test('this machine has a root mount', async (t) => {
  t.true((await listMounts()).some((m) => m.target === '/'));
});
