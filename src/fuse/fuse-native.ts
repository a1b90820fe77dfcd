import { createRequire } from 'node:module';
import { LazylayerError } from '../errors.js';

/** What a callback is given: 0 or a negated errno, then the results. */
type Signal = (status: number, ...results: unknown[]) => void;

/** fuse-native's class as far as it is used here. Its `_op_` methods take the place of its public operations. */
export interface NativeFuse {
  readonly mnt: string;
  readonly _thread: Buffer;
  open(done: (error: Error | null) => void): void;
  close(done: (error: Error | null) => void): void;
}

export interface NativeOptions {
  /** Rides in the option string as it is, so more options can follow a comma. The whole string has room for 1024 bytes. */
  readonly fsname: string;
  readonly subtype: string;
  readonly allowOther: boolean;
  readonly defaultPermissions: boolean;
  readonly kernelCache: boolean;
  readonly entryTimeout: number;
  readonly attrTimeout: number;
  /** Milliseconds after which an operation fails with ETIMEDOUT, or false for never. */
  readonly timeout: false;
}

/** stat(2) as 32-bit words: see `statWords`. */
export type StatWords = Uint32Array;

/** Operations of the extended class. Each signals exactly once, in a later turn or in this one. */
export interface NativeOperations {
  _op_getattr(signal: Signal, path: string): void;
  _op_readdir(signal: Signal, path: string): void;
  _op_readlink(signal: Signal, path: string): void;
  _op_statfs(signal: Signal, path: string): void;
  _op_getxattr(signal: Signal, path: string, name: string, value: Buffer): void;
  _op_listxattr(signal: Signal, path: string, list: Buffer): void;
  _op_read(signal: Signal, path: string, fd: number, into: Buffer, length: number, low: number, high: number): void;
}

interface Binding {
  fuse_native_unmount(mountpoint: string, thread: Buffer): void;
}

export interface NativeLibrary {
  readonly Fuse: new (mountpoint: string, operations: object, options: NativeOptions) => NativeFuse;
  readonly binding: Binding;
}

/**
 * Loads fuse-native and with it libfuse.so.2, on the main thread: it crashes in a worker.
 * @throws FAILED_PRECONDITION that names the package to install
 */
export function loadFuseNative(): NativeLibrary {
  try {
    const require = createRequire(import.meta.url);
    const main = require.resolve('fuse-native');
    const load = createRequire(main)('node-gyp-build') as (folder: string) => Binding;
    return { Fuse: require(main) as NativeLibrary['Fuse'], binding: load(main.slice(0, main.lastIndexOf('/'))) };
  } catch (error) {
    throw new LazylayerError(
      'FAILED_PRECONDITION',
      'the fuse-native backend needs the library libfuse.so.2 (Debian package libfuse2) on x64: install it, or choose the kernel backend',
      { cause: error },
    );
  }
}
