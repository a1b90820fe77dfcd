import test from 'ava';
import fc from 'fast-check';
import { PYTHON_VERSIONS, pycFile, told, type CodeContent, type Constant } from '../testing/pyc.js';
import { soon } from '../testing/soon.js';
import { compiledImports, isCompiled, libraryImports, sourceImports, type Import } from './python.js';

/** One of each form, and what must not be told. */
const SOURCE = `"""A sample."""
import a
import a.b as c, d.e
from . import x, y
from ..z import w as v
from q import *

LONG, REAL, NOTHING = 1 << 80, 1.5, (None, 2.5j, b"no")
try:
    import fast
except ImportError:
    import slow
if LONG:
    from a import (  # here too
        one,
        two,
    )
else:
    from ...up import three


def later(n=REAL):
    import inside


class Held:
    from held import nothing

    def method(self):
        import deeper


import last
`;
/** py_compile.compile of it by CPython 3.11.7 and 3.8.18, with PycInvalidationMode.UNCHECKED_HASH. */
const BY_3_11 = Buffer.from(
  'pw0NCgEAAADRINUwo/g/M+MAAAAAAAAAAAAAAAAEAAAAAAAAAPPOAAAAlwBkAFoAZAFkAmwBWgFkAWQCbAJtA1oEAQBkAWQCbAVaBmQDZARsB20IWghtCVoJAQBkBWQGbAptC1oMAQBkAWQHbA1UAGQIXAMAAFoOWg9aEAkAZAFkAmwRWhFuDyMAZRIkAHIHAQBkAWQCbBNaE1kAbgR3AHgDWQB3AWUOcglkAWQJbAFtFFoUbRVaFQEAbgZkCmQLbBZtF1oXAQBlD2YBZAyEAVoYAgBHAGQNhABkDqYCAACrAgAAAAAAAAAAWhlkAWQCbBpaGmQCUwApD3oJQSBzYW1wbGUu6QAAAABO6QEAAAApAtoBeNoBeekCAAAAKQHaAXcpAdoBKikDbAYAAAAAAAAAAAAAAAAAIABnAAAAAAAA+D8pA055AAAAAAAAAAAAAAAAAAAEQHMCAAAAbm8pAtoDb25l2gN0d2/pAwAAACkB2gV0aHJlZWMBAAAAAAAAAAAAAAACAAAAAwAAAPMOAAAAlwBkAWQAbAB9AWQAUwCpAk5yAgAAACkB2gZpbnNpZGUpAtoBbnIPAAAAcwIAAAAgIPoJc2FtcGxlLnB52gVsYXRlcnISAAAAFgAAAHMPAAAAgADYBBGATYBNgE2ATYBN8wAAAABjAAAAAAAAAAAAAAAAAgAAAAAAAADzIAAAAJcAZQBaAWQAWgJkAWQCbANtBFoEAQBkA4QAWgVkBFMAKQXaBEhlbGRyAgAAACkB2gdub3RoaW5nYwEAAAAAAAAAAAAAAAIAAAADAAAA8w4AAACXAGQBZABsAH0BZABTAHIOAAAAKQHaBmRlZXBlcikC2gRzZWxmchgAAABzAgAAACAgchEAAADaBm1ldGhvZHoLSGVsZC5tZXRob2QdAAAAcw8AAACAANgIFYgNiA2IDYgNiA1yEwAAAE4pBtoIX19uYW1lX1/aCl9fbW9kdWxlX1/aDF9fcXVhbG5hbWVfX9oEaGVsZHIWAAAAchoAAACpAHITAAAAchEAAAByFQAAAHIVAAAAGgAAAHM1AAAAgACAAIAAgACAANgEHNAEHNAEHNAEHNAEHNAEHPAEAQUW8AABBRbwAAEFFvAAAQUW8AABBRZyEwAAAHIVAAAAKRvaB19fZG9jX1/aAWHaA2EuYtoBYtoBY9oDZC5l2gFk2gByBAAAAHIFAAAA2gF6cgcAAADaAXbaAXHaBExPTkfaBFJFQUzaB05PVEhJTkfaBGZhc3TaC0ltcG9ydEVycm9y2gRzbG93cgkAAAByCgAAANoCdXByDAAAAHISAAAAchUAAADaBGxhc3RyHwAAAHITAAAAchEAAAD6CDxtb2R1bGU+cjMAAAABAAAAc0EBAADwAwEBAdgAD4AP2AAIgAiACIAI2AAU0AAU0AAU0AAU0AAU0AAU0AAU0AAU0AAU0AAU2AAS0AAS0AAS0AAS0AAS0AAS0AAS0AAS2AAW0AAW0AAW0AAW0AAW0AAW2AAPgA+AD4AP4BY30QATgASAZIhH8AIDARDYBA+AS4BLgEuAS/jYBxLwAAEBEPAAAQEQ8AABARDYBA+AS4BLgEuAS4BL8AMBARD4+PjgAwfwAAYBHPACAwUG8AADBQbwAAMFBvAAAwUG8AADBQbwAAMFBvAAAwUG8AADBQbwAAMFBvAKAAUc0AQb0AQb0AQb0AQb0AQb8AYADRHwAAEBEvAAAQES8AABARLwAAEBEvAIBAEW8AAEARbwAAQBFvAABAEW8AAEARbxAAQBFvQABAEW8AAEARbwDgABDIALgAuAC4ALgAtzDAAAAKoELwCvCTsDugE7Aw==',
  'base64',
);
const BY_3_8 = Buffer.from(
  'VQ0NCgEAAACD98tdzayEgeMAAAAAAAAAAAAAAAAAAAAACAAAAEAAAABzwAAAAGQAWgBkAWQCbAFaAWQBZAJsAm0DWgQBAGQBZAJsBVoGZANkBGwHbQhaCG0JWgkBAGQFZAZsCm0LWgwBAGQBZAdsDVQAZAhcA1oOWg9aEHoMZAFkAmwRWhFXAG4cBABlEmsKcnYBAAEAAQBkAWQCbBNaE1kAbgJYAGUOco5kAWQJbAFtFFoUbRVaFQEAbgxkCmQLbBZtF1oXAQBlD2YBZAxkDYQBWhhHAGQOZA+EAGQPgwJaGWQBZAJsGloaZAJTACkQeglBIHNhbXBsZS7pAAAAAE7pAQAAACkC2gF42gF56QIAAAApAdoBdykB2gEqKQNsBgAAAAAAAAAAAAAAAAAgAGcAAAAAAAD4PykDTnkAAAAAAAAAAAAAAAAAAARAcwIAAABubykC2gNvbmXaA3R3b+kDAAAAKQHaBXRocmVlYwEAAAAAAAAAAAAAAAIAAAACAAAAQwAAAHMMAAAAZAFkAGwAfQFkAFMAqQJOcgEAAAApAdoGaW5zaWRlKQLaAW5yDQAAAKkAcg8AAAD6CXNhbXBsZS5wedoFbGF0ZXIWAAAAcwIAAAAAAXIRAAAAYwAAAAAAAAAAAAAAAAAAAAACAAAAQAAAAHMgAAAAZQBaAWQAWgJkAWQCbANtBFoEAQBkA2QEhABaBWQFUwApBtoESGVsZHIBAAAAKQHaB25vdGhpbmdjAQAAAAAAAAAAAAAAAgAAAAIAAABDAAAAcwwAAABkAWQAbAB9AWQAUwByDAAAACkB2gZkZWVwZXIpAtoEc2VsZnIUAAAAcg8AAAByDwAAAHIQAAAA2gZtZXRob2QdAAAAcwIAAAAAAXoLSGVsZC5tZXRob2ROKQbaCF9fbmFtZV9f2gpfX21vZHVsZV9f2gxfX3F1YWxuYW1lX19aBGhlbGRyEwAAAHIWAAAAcg8AAAByDwAAAHIPAAAAchAAAAByEgAAABoAAABzBAAAAAgBDAJyEgAAACkb2gdfX2RvY19f2gFhWgNhLmLaAWLaAWNaA2QuZdoBZNoAcgMAAAByBAAAANoBenIGAAAA2gF22gFxWgRMT05HWgRSRUFMWgdOT1RISU5HWgRmYXN02gtJbXBvcnRFcnJvcloEc2xvd3IIAAAAcgkAAABaAnVwcgsAAAByEQAAAHISAAAAWgRsYXN0cg8AAAByDwAAAHIPAAAAchAAAADaCDxtb2R1bGU+AQAAAHMgAAAABAEIARQBEAEMAQgCCgECAQwBDgEOAQQBEgUMAwwEDgc=',
  'base64',
);

const TOLD = [
  told(0, 'a'),
  told(0, 'a.b'),
  told(0, 'd.e'),
  told(1, '', 'x', 'y'),
  told(2, 'z', 'w'),
  told(0, 'q', '*'),
  told(0, 'fast'),
  told(0, 'slow'),
  told(0, 'a', 'one', 'two'),
  told(3, 'up', 'three'),
  told(0, 'last'),
];

test('a module that CPython compiled tells what its source does, and nothing of its functions and classes', (t) => {
  t.deepEqual(compiledImports(BY_3_11), TOLD);
  t.deepEqual(compiledImports(BY_3_8), TOLD);
  t.deepEqual(sourceImports(SOURCE), TOLD);
  // It lies somewhere in a larger buffer.
  t.deepEqual(compiledImports(Buffer.concat([Buffer.alloc(100, 'c'), BY_3_11]).subarray(100)), TOLD);
});

const word = fc.oneof(fc.stringMatching(/^[a-z_]\w{0,8}$/), fc.constantFrom('a', 'b', 'ä', 'модуль'));
const anImport: fc.Arbitrary<Import> = fc.record({
  level: fc.oneof(fc.constant(0), fc.nat(5)),
  name: fc.oneof(
    fc.array(word, { minLength: 1, maxLength: 4 }).map((words) => words.join('.')),
    fc.constant(''),
  ),
  from: fc.oneof(fc.array(word, { maxLength: 6 }), fc.array(word, { minLength: 256, maxLength: 300 })),
});
const imports = fc.array(anImport, { maxLength: 12 });
const { constant } = fc.letrec<{ constant: Constant; code: CodeContent }>((tie) => ({
  constant: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom<Constant>(null, true, false, '', 'x'.repeat(300)),
    fc.maxSafeInteger().map((n) => n | 0),
    fc.bigInt(),
    fc.double({ noNaN: true }).map((n) => n + 0.5),
    fc.string({ unit: 'binary' }),
    word,
    fc.uint8Array({ maxLength: 20 }),
    fc.array(tie('constant'), { maxLength: 5 }),
    tie('code'),
  ),
  code: fc.record({ imports, constants: fc.array(tie('constant'), { maxLength: 3 }) }),
}));
/** The others only fill up the first 256, or more. */
const many = <T>(one: fc.Arbitrary<T>, filling: T): fc.Arbitrary<T[]> =>
  fc
    .tuple(fc.array(one, { maxLength: 8 }), fc.constantFrom(0, 0, 250, 300, 70_000))
    .map(([some, more]) => [...some, ...Array<T>(more).fill(filling)]);

test('any imports, compiled by any version, are read back', (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom(...PYTHON_VERSIONS),
      imports,
      many(constant, null),
      many(word, 'n').map((names) => names.slice(0, 10_000)),
      (version, list, constants, names) => {
        const compiled = pycFile(version, { imports: list, constants, names });
        t.true(isCompiled(compiled));
        t.deepEqual(compiledImports(compiled), list, version);
      },
    ),
    { numRuns: 300 },
  );
});

test('of other numbers, and of what is no compiled module, nothing is told', (t) => {
  for (const magic of [0, 62211, 3394, 3399, 3650, 3700, 65535]) {
    const other = Buffer.from(BY_3_11);
    other.writeUInt16LE(magic);
    t.false(isCompiled(other));
    t.deepEqual(compiledImports(other), [], String(magic));
  }
  for (const at of [2, 3]) {
    const damaged = Buffer.from(BY_3_11);
    damaged[at] = 0x20;
    t.false(isCompiled(damaged));
    t.deepEqual(compiledImports(damaged), []);
  }
  for (const bytes of ['', '\xa7', '\xa7\r\r\n', 'import a\n', SOURCE])
    t.deepEqual(compiledImports(Buffer.from(bytes, 'latin1')), []);
  // A header, and an object that is no code.
  t.deepEqual(compiledImports(Buffer.concat([BY_3_11.subarray(0, 16), Buffer.from('N')])), []);
});

test('no beginning of a module, and none with a byte changed, makes it fail or hang', (t) => {
  for (const sound of [BY_3_11, BY_3_8]) {
    for (let length = 0; length < sound.byteLength; length++)
      t.true(Array.isArray(soon(() => compiledImports(sound.subarray(0, length)))));
    for (let at = 0; at < sound.byteLength; at++)
      for (const mask of [0xff, 0x80, 0x01, 0x20]) {
        const bytes = Buffer.from(sound);
        bytes[at] ^= mask;
        for (const { level, from } of soon(() => compiledImports(bytes))) t.true(level >= 0 && from.length < 2000);
      }
  }
});

test('no bytes behind a sound header make it fail or hang', (t) => {
  const letters = [...'NFTS.0irIgystuaAzZ([<>)cl{:'].map((letter) => letter.charCodeAt(0));
  const likely = fc.oneof(
    fc.constantFrom(...letters),
    fc.constantFrom(...letters.map((letter) => letter | 0x80)),
    fc.constantFrom(0, 0, 0, 1, 255),
    fc.nat(255),
  );
  fc.assert(
    fc.property(fc.constantFrom(...PYTHON_VERSIONS), fc.array(likely, { maxLength: 200 }), (version, bytes) => {
      const header = pycFile(version, { imports: [] }).subarray(0, 16 + 1);
      t.true(Array.isArray(soon(() => compiledImports(Buffer.concat([header, Buffer.from(bytes)])))));
      soon(() => libraryImports(Buffer.from(bytes)));
    }),
    { numRuns: 2000 },
  );
});

const header = BY_3_11.subarray(0, 16);
const sized = (type: string, size: number, bytes: Uint8Array = Buffer.alloc(0)) => {
  const head = Buffer.alloc(5, type);
  head.writeUInt32LE(size, 1);
  return Buffer.concat([head, bytes]);
};
const words = Buffer.alloc(5 * 4);
/** A module of 3.11 of these objects: instructions, constants and names. */
const moduleOf = (...objects: Uint8Array[]) =>
  Buffer.concat([header, Buffer.from('c'), words, ...objects, sized(')', 0), Buffer.alloc(64)]);

test('no count makes it hang or take memory', (t) => {
  const before = process.memoryUsage().rss;
  for (const count of [0x7fffffff, 0x80000000, 0xffffffff])
    for (const type of 'stuaA([<>lr') {
      const huge = sized(type, count);
      t.deepEqual(
        soon(() => compiledImports(Buffer.concat([header, huge]))),
        [],
      );
      t.deepEqual(
        soon(() => compiledImports(moduleOf(huge))),
        [],
      );
      t.deepEqual(
        soon(() => compiledImports(moduleOf(sized('s', 0), huge))),
        [],
      );
      t.deepEqual(
        soon(() => compiledImports(moduleOf(sized('s', 0), sized('(', 0), huge))),
        [],
      );
    }
  const deep = Buffer.from(')\x01'.repeat(400_000), 'latin1');
  t.deepEqual(
    soon(() => compiledImports(moduleOf(deep))),
    [],
  );
  t.deepEqual(
    soon(() => compiledImports(moduleOf(Buffer.alloc(900_000, '{')))),
    [],
  );
  t.true(process.memoryUsage().rss - before < 300 * 1024 * 1024);
});

test('constants and names that are the same large object many times are looked at once', (t) => {
  const refer = (to: number) => sized('r', to);
  const times = (count: number, bytes: Uint8Array) => Buffer.concat(Array<Uint8Array>(count).fill(bytes));
  // LOAD_CONST 0, LOAD_CONST 1, IMPORT_NAME 0
  const statements = times(40_000, Buffer.from([100, 0, 100, 1, 108, 0]));
  const int = sized('i', 0);
  const small = Buffer.from([...Buffer.from('z'), 1, 0x61]);
  // Numbered 0: a tuple; the constants are the level and the tuple.
  const tuple = (items: Uint8Array, count: number) => {
    const made = sized('(', count, items);
    made[0] |= 0x80;
    return made;
  };
  const names = sized('(', 1, small);
  const many = moduleOf(
    sized('s', statements.byteLength, statements),
    sized('(', 2, Buffer.concat([int, tuple(times(100_000, small), 100_000)])),
    names,
  );
  const found = soon(() => compiledImports(many));
  t.true(found.reduce((sum, { from }) => sum + from.length, 0) <= 2 * 16_384);
  // A tuple that is none of strings after all, as its end tells.
  const mixed = tuple(Buffer.concat([times(16_000, small), Buffer.from('N')]), 16_001);
  const none = moduleOf(
    sized('s', statements.byteLength, statements),
    sized('(', 2, Buffer.concat([int, mixed])),
    names,
  );
  t.deepEqual(
    soon(() => compiledImports(none)),
    Array<Import>(1024).fill(told(0, 'a')),
  );
  // The names of one statement are all the same string of 300 kB.
  const long = sized('a', 300_000, Buffer.alloc(300_000, 'x'));
  long[0] |= 0x80;
  const far = moduleOf(
    sized('s', 6, statements.subarray(0, 6)),
    sized('(', 3, Buffer.concat([int, sized('(', 50_000, times(50_000, refer(0))), long])),
    names,
  );
  t.true(soon(() => compiledImports(far)).every(({ from }) => from.every((name) => name.length <= 128)));
  // Constants that nothing imports with.
  const loads = moduleOf(
    sized('s', 400_000, times(200_000, Buffer.from([100, 0]))),
    sized('(', 1, tuple(times(100_000, small), 100_000)),
    names,
  );
  t.deepEqual(
    soon(() => compiledImports(loads)),
    [],
  );
});

test('a level that no package is deep enough for is no import', (t) => {
  for (const version of PYTHON_VERSIONS)
    for (const level of [-1, 129, 0x7fffffff, -0x80000000]) {
      const sound = told(1, 'b');
      t.deepEqual(compiledImports(pycFile(version, { imports: [told(level, 'a'), sound] })), [sound]);
    }
  t.deepEqual(sourceImports(`from ${'.'.repeat(200_000)} import a\nimport b`), [told(0, 'b')]);
});
