declare module 'fs-native-extensions' {
  /** An exclusive lock on an open file that lives as long as any duplicate of the descriptor; false where another has it. */
  export function tryLock(fd: number): boolean;
}
