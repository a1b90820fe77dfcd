import test from 'ava';
import { digestOf } from '../digest/digester.js';
import { treeFromTar } from '../tar/tree.js';
import { encodeTarHeader, TAR_END, tarPadding } from '../tar/writer.js';
import { tarFile } from '../testing/layer-fixture.js';
import { FixtureLayer, type FixtureEntry } from '../testing/fs-fixture.js';
import { erofsImage } from './image.js';

/*
 * Whether an image shows what its tree says, the kernel tells in native-tests/erofs.test.ts; here is what no image can show: none is made then, since
 * one that was wrong would be believed.
 */

const imageOf = (...entries: FixtureEntry[]) => {
  using layer = new FixtureLayer(entries);
  return erofsImage(layer.tree);
};

test('lengths of names of xattrs have 8 bits: a name cannot pose as xattrs of its own', (t) => {
  const named = (bytes: number) => {
    using layer = new FixtureLayer([{ name: 'f', xattrs: { 'user.': 'n'.repeat(600) } }]);
    const { xattr, xattrs } = layer.tree;
    // No builder takes such names, so this one is made of the value behind it.
    xattrs[xattr[1] + 2] += bytes;
    return erofsImage(layer.tree);
  };
  t.not(named(255), undefined);
  for (const bytes of [256, 257, 300, 512 + 4]) t.is(named(bytes), undefined, `${bytes}`);
});

test('namespaces are known, or there is no image', (t) => {
  const named = (name: string) => imageOf({ name: 'f', xattrs: { [name]: 'value' } });
  for (const name of ['user.a', 'trusted.a', 'security.capability', 'system.posix_acl_access'])
    t.not(named(name), undefined, name);
  for (const name of ['other.a', 'system.posix_acl_accessX', 'system.posix_acl', 'system.nfs4_acl', 'users.a'])
    t.is(named(name), undefined, name);
});

test('values of xattrs, and all of an inode, fit their 16 bits', (t) => {
  t.not(imageOf({ name: 'f', xattrs: { 'user.a': 'v'.repeat(0xffff) } }), undefined);
  t.is(imageOf({ name: 'f', xattrs: { 'user.a': 'v'.repeat(0x10000) } }), undefined);
  const many = (count: number) =>
    Object.fromEntries(Array.from({ length: count }, (_, i) => [`user.${i}`, 'v'.repeat(0xffff)]));
  t.not(imageOf({ name: 'f', xattrs: many(3) }), undefined);
  t.is(imageOf({ name: 'f', xattrs: many(4) }), undefined);
});

test('content that does not begin on a block, as in a tar, has no form', async (t) => {
  const tar = async function* () {
    for (const name of ['a', 'b'])
      yield Buffer.concat([encodeTarHeader(tarFile(name, 10)), Buffer.alloc(10), tarPadding(10)]);
    yield TAR_END;
  };
  t.is(erofsImage(await treeFromTar(tar(), { diffId: digestOf('tar') })), undefined);
});

test('an empty layer is one', (t) => {
  t.is(imageOf()!.byteLength, 4096);
});
