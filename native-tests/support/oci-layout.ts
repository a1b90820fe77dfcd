import { createHash } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

export interface OciDescriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: { readonly architecture: string; readonly os: string };
}

export interface OciManifest {
  readonly mediaType?: string;
  readonly config: OciDescriptor;
  readonly layers: readonly OciDescriptor[];
}

/** A layer as an image is put together from: its descriptor and the digest of its uncompressed tar. */
export interface LayerOfImage {
  readonly descriptor: OciDescriptor;
  readonly diffId: string;
}

interface OciConfig {
  rootfs: { diff_ids: string[] };
  [key: string]: unknown;
}

/** An OCI image layout directory (image-spec, image-layout.md) that real tools wrote, and into which images are put together. */
export class OciLayout {
  constructor(readonly directory: string) {}

  blobPath(digest: string): string {
    return join(this.directory, 'blobs', ...digest.split(':'));
  }

  async manifest(tag: string): Promise<OciManifest> {
    const index = await this.#index();
    const found = index.manifests.find((m) => m.annotations?.['org.opencontainers.image.ref.name'] === tag);
    if (found === undefined) throw new Error(`${this.directory}: no image ${tag}`);
    return this.#json<OciManifest>(found.digest);
  }

  async layers(tag: string): Promise<LayerOfImage[]> {
    const { config, layers } = await this.manifest(tag);
    const { rootfs } = await this.#json<OciConfig>(config.digest);
    return layers.map((descriptor, i) => ({ descriptor, diffId: rootfs.diff_ids[i] }));
  }

  async addBlob(mediaType: string, bytes: Buffer): Promise<OciDescriptor> {
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
    await writeFile(this.blobPath(digest), bytes);
    return { mediaType, digest, size: bytes.length };
  }

  /** Writes config and manifest of an image of these layers, whose blobs are in the layout already. */
  async addImage(layers: readonly LayerOfImage[], architecture = 'amd64'): Promise<OciDescriptor> {
    const config: OciConfig = {
      architecture,
      os: 'linux',
      config: { Cmd: ['/bin/sh'] },
      rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.diffId) } as OciConfig['rootfs'],
    };
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    const manifest = {
      schemaVersion: 2,
      mediaType,
      config: await this.addBlob('application/vnd.oci.image.config.v1+json', Buffer.from(JSON.stringify(config))),
      layers: layers.map((layer) => layer.descriptor),
    };
    return this.addBlob(mediaType, Buffer.from(JSON.stringify(manifest)));
  }

  async addIndex(manifests: readonly OciDescriptor[]): Promise<OciDescriptor> {
    const mediaType = 'application/vnd.oci.image.index.v1+json';
    return this.addBlob(mediaType, Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, manifests })));
  }

  async tag(tag: string, descriptor: OciDescriptor): Promise<void> {
    const index = await this.#index();
    index.manifests.push({ ...descriptor, annotations: { 'org.opencontainers.image.ref.name': tag } });
    await writeFile(join(this.directory, 'index.json'), JSON.stringify(index));
  }

  /** A file as a blob of the layout: what `cp` or a compressor wrote to `blobPath` under its right name. */
  async describe(mediaType: string, digest: string): Promise<OciDescriptor> {
    return { mediaType, digest, size: (await stat(this.blobPath(digest))).size };
  }

  async #index(): Promise<{ schemaVersion: number; manifests: OciDescriptor[] }> {
    return JSON.parse(await readFile(join(this.directory, 'index.json'), 'utf8')) as never;
  }

  async #json<T>(digest: string): Promise<T> {
    return JSON.parse(await readFile(this.blobPath(digest), 'utf8')) as T;
  }
}
