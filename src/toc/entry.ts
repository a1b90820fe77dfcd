import type { Digest } from '../digest/digest.js';

/** What an entry is. Tars cannot hold sockets; chunks of a file are no entries of their own here. */
export type EntryType = 'dir' | 'reg' | 'symlink' | 'hardlink' | 'char' | 'block' | 'fifo';

/** A piece of a regular file: the unit that is fetched, decompressed and verified. */
export interface TocChunk {
  /** Byte in the blob where the chunk's compressed member begins; in a plain tar, where the bytes themselves lie. */
  readonly offset: number;
  /** Where the chunk's bytes begin in its decompressed member. */
  readonly innerOffset: number;
  /** Uncompressed bytes, at least 1. */
  readonly size: number;
  /** SHA-256 of the uncompressed bytes, raw; all zero where the format claims none (see `NO_DIGEST`). */
  readonly digest: Uint8Array;
}

export interface Xattr {
  readonly name: Uint8Array;
  readonly value: Uint8Array;
}

/**
 * One file of a layer, whatever format told of it. Names and targets are bytes, as the archive has them: not yet normalised, in
 * no particular encoding.
 */
export interface TocEntry {
  readonly name: Buffer;
  readonly type: EntryType;
  /** Bytes of a regular file; 0 for every other type. */
  readonly size: number;
  /** Permission, setuid, setgid and sticky bits (07777): no file type. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Whole seconds since 1970, rounded down, so that `mtimeNsec` is never negative. */
  readonly mtime: number;
  readonly mtimeNsec: number;
  /** Target of a symlink (as written) or a hardlink (a name in the same archive); empty otherwise. */
  readonly linkName: Buffer;
  readonly devMajor: number;
  readonly devMinor: number;
  readonly xattrs: readonly Xattr[];
  /** SHA-256 of a whole regular file, raw, where the format tells it. Reading goes by the chunks' digests. */
  readonly digest?: Uint8Array;
  /** The regular file's chunks in file order, without gaps. */
  readonly chunks: readonly TocChunk[];
}

/** Stands where a TOC claims no digest for a chunk: such bytes cannot be verified. */
export const NO_DIGEST: Uint8Array = new Uint8Array(32);

export const NO_BYTES: Buffer = Buffer.alloc(0);

/** Largest chunk in bytes. A chunk is decompressed in one piece, so it must fit in memory; writers use 4 MiB unless told otherwise. */
export const MAX_CHUNK_BYTES = 256 * 1024 * 1024;

/**
 * Where a chunk may begin in its member, in bytes: whoever wants it inflates what lies before it, and asks for as many compressed bytes.
 * stargz-snapshotter goes on to the next member once one has `min-chunk-size` compressed bytes. Its documentation has 50,000, of which
 * deflate, which packs 1032:1 at best, makes 52 MB.
 */
export const MAX_INNER_OFFSET = 128 * 1024 * 1024;

/** Chunks of a member at most. Of the smallest files 50,000 compressed bytes hold less than 10,000. */
export const MAX_MEMBER_CHUNKS = 2 ** 17;

/** Facts of a layer that its builder must be told; the rest it finds in the entries. */
export interface LayerFacts {
  /** Digest of the TOC; for a layer without one, its diffID. */
  readonly source: Digest;
  /** Byte in the blob where content ends: where the TOC begins. Every chunk begins before it. */
  readonly contentEnd: number;
}
