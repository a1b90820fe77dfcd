import test from 'ava';
import { XattrTable } from './xattrs.js';

const xattr = (name: string, bytes: number) => ({ name: Buffer.from(name), value: Buffer.alloc(bytes, 0x61) });

const refuse = (expected: string, found: string): never => {
  throw new Error(`expected ${expected}, found ${found}`);
};

test('a file has what Linux lets it have, and no more', (t) => {
  const names = (count: number, bytes: number) =>
    Array.from({ length: count }, (_, i) => xattr(String(i).padStart(bytes - 1, 'n'), 0));
  const table = new XattrTable();
  t.is(table.intern([xattr('n'.repeat(255), 65_536)], refuse)?.records.length, 1);
  t.is(table.intern(names(256, 256), refuse)?.records.length, 256);
  for (const [given, message] of [
    [[xattr('n'.repeat(256), 1)], 'expected xattrs of at most 255 bytes of name and 65536 of value, found 256 and 1'],
    [[xattr('user.a', 65_537)], 'expected xattrs of at most 255 bytes of name and 65536 of value, found 6 and 65537'],
    [names(257, 256), 'expected names of xattrs of at most 65536 bytes in all, found 65792'],
  ] as const)
    t.throws(() => table.intern(given, refuse), { message });
});

test('equal sets are one, small or large; each is held once, and costs what it takes', (t) => {
  const table = new XattrTable();
  for (const bytes of [10, 60_000]) {
    const before = table.cost;
    const set = table.intern([xattr('user.a', bytes), xattr('user.b', 0)], refuse);
    const first = table.cost - before;
    t.is(table.intern([xattr('user.b', 0), xattr('user.a', bytes)], refuse), set);
    const again = table.cost - before - first;
    t.true(first > again && again > bytes + 12);
    t.not(table.intern([xattr('user.a', bytes + 1), xattr('user.b', 0)], refuse), set);
  }
});

test('a list that comes again and again is looked at once, and so is a set of many opaque directories', (t) => {
  const table = new XattrTable();
  let looks = 0;
  const list = [xattr('user.a', 1)];
  const given = new Proxy(list, {
    get: (array, key) => (looks++, Reflect.get(array, key) as unknown),
  });
  const set = table.intern(given, refuse)!;
  const [once, { cost }] = [looks, table];
  for (let i = 0; i < 100; i++) t.is(table.intern(given, refuse), set);
  t.deepEqual([looks, table.cost], [once, cost]);
  const { records } = set;
  looks = 0;
  Object.defineProperty(set, 'records', { get: () => (looks++, records) });
  for (let i = 0; i < 100; i++) t.is(table.withOpaque(set).records.length, 3);
  t.is(looks, 1);
});
