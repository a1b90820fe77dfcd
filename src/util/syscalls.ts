import { getSystemErrorMap } from 'node:util';
import koffi from 'koffi';

/*
 * System calls without what Node.js puts around them: a read that finds nothing is a number, no exception, and costs half a microsecond.
 * For loops of which each turn counts; for all else there is node:fs. Each gives what Linux gives: bytes, or a negated errno.
 */

type Call<Arguments extends unknown[]> = (...given: Arguments) => number;

const libc = koffi.load(null);

const calls = {
  read: libc.func('long read(int fd, void *into, size_t size)') as Call<[number, Uint8Array, number]>,
  pread: preadOfLibc() as Call<[number, Uint8Array, number, number]>,
  write: libc.func('long write(int fd, const void *from, size_t size)') as Call<[number, Uint8Array, number]>,
  mount: libc.func(
    'int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)',
  ) as Call<[string, string, string, number, string]>,
  getxattr: libc.func('long getxattr(const char *path, const char *name, void *value, size_t size)') as Call<
    [string, string, null, number]
  >,
};

/** glibc has it for files beyond 2 GiB by a name of its own, musl by the one. */
function preadOfLibc(): ReturnType<typeof libc.func> {
  const rest = '(int fd, void *into, size_t size, int64_t position)';
  try {
    return libc.func(`long pread64${rest}`);
  } catch {
    return libc.func(`long pread${rest}`);
  }
}

/** read(2) of at most as many bytes as `into` has room for. */
export function read(fd: number, into: Uint8Array): number {
  return result(calls.read(fd, into, into.byteLength));
}

/** pread(2) of at most `size` bytes to the beginning of `into`. @throws RangeError where it has less room */
export function pread(fd: number, into: Uint8Array, size: number, position: number): number {
  checkRoom(into, size);
  return result(calls.pread(fd, into, size, position));
}

/** write(2) of the first `size` bytes of `from`. @throws RangeError where there are less */
export function write(fd: number, from: Uint8Array, size: number): number {
  checkRoom(from, size);
  return result(calls.write(fd, from, size));
}

const MS_RDONLY = 1;
const MS_NOATIME = 1024;

/** mount(2), read-only and without access times. 0, or a negated errno. For what mount(8) does in another way. */
export function mountReadOnly(source: string, target: string, type: string, data: string): number {
  return result(calls.mount(source, target, type, MS_RDONLY | MS_NOATIME, data));
}

/** getxattr(2) that asks for the length of an extended attribute alone: bytes, or a negated errno. */
export function xattrLength(path: string, name: string): number {
  return result(calls.getxattr(path, name, null, 0));
}

/** libc would touch whatever lies behind them. */
function checkRoom({ byteLength }: Uint8Array, size: number): void {
  if (!(size >= 0 && size <= byteLength)) throw new RangeError(`${size} bytes of ${byteLength}`);
}

function result(given: number): number {
  return given < 0 ? -koffi.errno() : given;
}

/** The error that node:fs throws for this, of a call and its negated errno. */
export function systemError(call: string, errno: number): NodeJS.ErrnoException {
  const [code, meaning] = getSystemErrorMap().get(errno) ?? [`errno ${-errno}`, 'unknown error'];
  return Object.assign(new Error(`${code}: ${meaning}, ${call}`), { errno, code, syscall: call });
}
