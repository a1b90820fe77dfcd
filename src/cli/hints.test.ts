import test from 'ava';
import { hintFor, hintForFiles } from './hints.js';
import { parseMountinfo } from '../util/mountinfo.js';

const denied = (message: string) =>
  Object.assign(new Error(`EACCES: permission denied, ${message}`), { code: 'EACCES' });

test('a root that may not be written is told from a file that may not be read', (t) => {
  t.regex(hintFor(denied("mkdir '/nonexistent/.local/share/lazylayer'")) ?? '', /--root DIR/);
  t.regex(hintFor(denied("open '/var/lib/lazylayer/lock'")) ?? '', /--root DIR/);
  t.is(hintFor(denied("open '/root/.docker/config.json'")), undefined);
});

test('who measures our files on a machine whose processors halt at once hears of it', (t) => {
  const mounts = parseMountinfo(
    [
      '1 0 254:0 / / rw - ext4 /dev/vda rw',
      '2 1 0:40 / /run/fuse ro - fuse.lazylayer lazylayer ro,user_id=0',
      '3 1 0:41 / /mnt ro - overlay lazylayer ro,lowerdir=l/2:l/1',
      '4 3 0:42 / /mnt/tmp rw - tmpfs tmpfs rw',
    ].join('\n'),
  );
  const hint = /echo 200000 >\/sys\/module\/haltpoll\/parameters\/guest_halt_poll_ns/;
  t.regex(hintForFiles(['/srv', '/mnt/usr'], mounts, 0) ?? '', hint);
  t.regex(hintForFiles(['/mnt'], mounts, 0) ?? '', hint);
  t.regex(hintForFiles(['/run/fuse/l/1'], mounts, 0) ?? '', hint);
  t.is(hintForFiles(['/srv', '/mnt/tmp/x', '/mntx', '/'], mounts, 0), undefined, 'none of ours');
  t.is(hintForFiles(['/mnt'], mounts, 200_000), undefined, 'they poll');
  t.is(hintForFiles(['/mnt'], mounts, undefined), undefined, 'nothing is known of it');
});
