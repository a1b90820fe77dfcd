import { gzipSync } from 'node:zlib';
import { compress } from '@cloudpss/zstd';
import type { Digest } from '../digest/digest.js';
import { digestOf } from '../digest/digester.js';
import { EstargzWriter, type EstargzWriterOptions } from '../estargz/writer.js';
import { encodeTarHeader, TAR_END, tarPadding } from '../tar/writer.js';
import { fileOf, type FileSpec } from './image-files.js';

export type LayerFormat = 'estargz' | 'gzip' | 'zstd' | 'tar';

export interface LayerSpec {
  readonly files: readonly FileSpec[];
  /** By default the image's. */
  readonly format?: LayerFormat;
  /** For eStargz: files before this many are prefetched; 0 writes the landmark that says none, undefined writes no landmark. */
  readonly prefetch?: number;
  readonly writer?: EstargzWriterOptions;
  /** Leave the annotations out of the descriptor. */
  readonly withoutAnnotations?: boolean;
}

export interface ImageSpec {
  readonly layers: readonly (LayerSpec | readonly FileSpec[])[];
  readonly format?: LayerFormat;
  readonly os?: string;
  readonly architecture?: string;
  /** Members of the config's `config` object. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** What the config says of the layers, true or not. */
  readonly diffIds?: readonly Digest[];
}

export interface BuiltDescriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: { readonly os: string; readonly architecture: string };
}

export interface BuiltBlob {
  readonly bytes: Buffer;
  readonly descriptor: BuiltDescriptor;
}

export interface BuiltLayer extends BuiltBlob {
  readonly diffId: Digest;
  /** The TOC's own blob, for a layer written with an external TOC. */
  readonly tocBlob: Buffer | undefined;
}

export interface BuiltImage {
  readonly layers: readonly BuiltLayer[];
  readonly config: BuiltBlob;
  readonly manifest: BuiltBlob;
  readonly index: BuiltBlob;
  /** All of the above (a registry's content) by digest. */
  readonly blobs: ReadonlyMap<Digest, BuiltBlob>;
}

const mediaTypes: Readonly<Record<LayerFormat, string>> = {
  estargz: 'application/vnd.oci.image.layer.v1.tar+gzip',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
  tar: 'application/vnd.oci.image.layer.v1.tar',
};

/** An OCI image in memory: the same bytes for the same specification. */
export async function buildImage(spec: ImageSpec): Promise<BuiltImage> {
  const layers: BuiltLayer[] = [];
  for (const layer of spec.layers) {
    const full = 'files' in layer ? layer : { files: layer };
    layers.push(await buildLayer({ ...full, format: full.format ?? spec.format }));
  }
  const platform = { os: spec.os ?? 'linux', architecture: spec.architecture ?? 'amd64' };
  const config = jsonBlob('application/vnd.oci.image.config.v1+json', {
    ...platform,
    config: spec.config ?? {},
    rootfs: { type: 'layers', diff_ids: spec.diffIds ?? layers.map((layer) => layer.diffId) },
  });
  const manifestType = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = jsonBlob(manifestType, {
    schemaVersion: 2,
    mediaType: manifestType,
    config: config.descriptor,
    layers: layers.map((layer) => layer.descriptor),
  });
  const indexType = 'application/vnd.oci.image.index.v1+json';
  const index = jsonBlob(indexType, {
    schemaVersion: 2,
    mediaType: indexType,
    manifests: [{ ...manifest.descriptor, platform }],
  });
  const all = [...layers, config, manifest, index];
  return { layers, config, manifest, index, blobs: new Map(all.map((blob) => [blob.descriptor.digest, blob])) };
}

/** One layer's blob and descriptor. */
export async function buildLayer(spec: LayerSpec): Promise<BuiltLayer> {
  const format = spec.format ?? 'estargz';
  if (format === 'estargz') return buildEstargz(spec);
  const tar = buildTar(spec.files);
  const bytes = format === 'gzip' ? gzipSync(tar) : format === 'zstd' ? Buffer.from(compress(tar)) : tar;
  return {
    bytes,
    descriptor: { mediaType: mediaTypes[format], digest: digestOf(bytes), size: bytes.byteLength },
    diffId: digestOf(tar),
    tocBlob: undefined,
  };
}

/** The uncompressed tar of these files. */
export function buildTar(files: readonly FileSpec[]): Buffer {
  const parts = files.flatMap((spec) => {
    const { entry, content } = fileOf(spec);
    return [encodeTarHeader(entry), ...(entry.size > 0 ? [content, tarPadding(entry.size)] : [])];
  });
  return Buffer.concat([...parts, TAR_END]);
}

async function buildEstargz(spec: LayerSpec): Promise<BuiltLayer> {
  const parts: Buffer[] = [];
  const writer = new EstargzWriter((bytes) => void parts.push(Buffer.from(bytes)), spec.writer);
  if (spec.prefetch === 0) await writer.addLandmark('none');
  for (const [i, file] of spec.files.entries()) {
    if (i > 0 && i === spec.prefetch) await writer.addLandmark('prefetch');
    const { entry, content } = fileOf(file);
    await writer.add(entry, entry.type === 'reg' ? [content] : []);
  }
  const { digest, size, diffId, annotations, tocBlob } = await writer.finish();
  return {
    bytes: Buffer.concat(parts),
    descriptor: {
      mediaType: mediaTypes.estargz,
      digest,
      size,
      ...(spec.withoutAnnotations === true ? {} : { annotations }),
    },
    diffId,
    tocBlob,
  };
}

function jsonBlob(mediaType: string, value: unknown): BuiltBlob {
  const bytes = Buffer.from(JSON.stringify(value));
  return { bytes, descriptor: { mediaType, digest: digestOf(bytes), size: bytes.byteLength } };
}
