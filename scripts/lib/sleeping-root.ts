import { join } from 'node:path';
import { ChunkCache } from '../../src/cache/chunk-cache.js';
import type { Digest } from '../../src/digest/digest.js';
import { digestOf } from '../../src/digest/digester.js';
import { TOC_DIGEST_ANNOTATION } from '../../src/estargz/annotations.js';
import { Metastore } from '../../src/snapshot/metastore.js';
import { TreeBuilder } from '../../src/toc/builder.js';
import type { Tree } from '../../src/toc/tree.js';

export interface RootSpec {
  readonly images: number;
  readonly layersPerImage: number;
  readonly entriesPerLayer: number;
}

/** Files of a directory; the rest of a layer's entries are their directories. */
const filesPerDirectory = 50;
const fileBytes = 4096;

/** A layer of small files, each with its chunk, as a system's packages have them. */
function treeOf(number: number, entries: number, source: Digest): Tree {
  const builder = new TreeBuilder();
  const files = Math.floor((entries * filesPerDirectory) / (filesPerDirectory + 1));
  const digest = Buffer.from(digestOf(`content of layer ${number}`).slice('sha256:'.length), 'hex');
  for (let i = 0; i < files; i++)
    builder.add({
      name: Buffer.from(`usr/share/layer-${number}/directory-${Math.floor(i / filesPerDirectory)}/some-file-${i}`),
      type: 'reg',
      size: fileBytes,
      mode: 0o644,
      uid: 0,
      gid: 0,
      mtime: 1_700_000_000,
      mtimeNsec: 0,
      linkName: Buffer.alloc(0),
      devMajor: 0,
      devMinor: 0,
      xattrs: [],
      chunks: [{ offset: i * 1000, innerOffset: 0, size: fileBytes, digest }],
    });
  return builder.build({ source, contentEnd: files * 1000 });
}

/**
 * Makes the root of a daemon that has prepared many images lazily and fetched all of their layers, as its files: trees, full
 * bitmaps, holes for content, and the snapshots that are made of the layers.
 */
export async function makeSleepingRoot(root: string, spec: RootSpec): Promise<void> {
  await using cache = await ChunkCache.open(root);
  await using snapshots = new Metastore(join(root, 'snapshotter', 'metadata'));
  for (let image = 0; image < spec.images; image++) {
    let parent = '';
    for (let layer = 0; layer < spec.layersPerImage; layer++) {
      const number = image * spec.layersPerImage + layer;
      const source = digestOf(`TOC ${number}`);
      const digest = digestOf(`blob ${number}`);
      const tree = treeOf(number, spec.entriesPerLayer, source);
      const opened = await cache.create({ digest, source }, tree);
      for (let chunk = 0; chunk < tree.counts.chunks; chunk++) opened.presence.set(chunk);
      opened.noteWritten();
      await cache.release(opened);
      const annotations = { [TOC_DIGEST_ANNOTATION]: source };
      const record = {
        reference: `registry.invalid/image-${image}:1`,
        descriptor: {
          mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
          digest,
          size: tree.facts.contentEnd,
          annotations,
        },
        diffId: digestOf(`tar ${number}`),
      };
      const name = `chain-${number}`;
      await snapshots.create({
        id: snapshots.takeId(),
        name,
        kind: 'committed',
        parent,
        labels: { 'containerd.io/snapshot.ref': name, 'containerd.io/snapshot/remote': 'remote snapshot' },
        remote: { record },
      });
      parent = name;
    }
  }
}
