import { cp, mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startDockerRegistry, type DockerRegistry } from '../../native-tests/support/docker-registry.js';
import { OciLayout } from '../../native-tests/support/oci-layout.js';
import { run, type Teardown } from '../../native-tests/support/tools.js';
import type { ConvertedLayer } from './convert.js';
import type { Measurements } from './measure.js';
import { describeImage, manifestType, configType } from './publish.js';

export interface BenchPart {
  readonly cleanup: Teardown;
  /** An empty directory for this part. */
  readonly directory: string;
  readonly runs: number;
  readonly measurements: Measurements;
  readonly say: (text: string) => void;
}

/** Serves an image of these layers from docker-registry, a process of its own, as `bench:1`. Takes the layers' files. */
export async function serveImage(part: BenchPart, layers: readonly ConvertedLayer[]): Promise<DockerRegistry> {
  const layout = new OciLayout(join(part.directory, 'oci'));
  await mkdir(join(layout.directory, 'blobs', 'sha256'), { recursive: true });
  await writeFile(join(layout.directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  await writeFile(join(layout.directory, 'index.json'), '{"schemaVersion":2,"manifests":[]}');
  for (const layer of layers)
    await rename(layer.path, layout.blobPath(layer.result.digest)).catch(() =>
      cp(layer.path, layout.blobPath(layer.result.digest)),
    );
  const { config, descriptors } = describeImage(layers);
  const manifest = {
    schemaVersion: 2,
    mediaType: manifestType,
    config: await layout.addBlob(configType, Buffer.from(JSON.stringify(config))),
    layers: descriptors,
  };
  await layout.tag('bench', await layout.addBlob(manifestType, Buffer.from(JSON.stringify(manifest))));
  const storage = join(part.directory, 'registry');
  await mkdir(storage);
  const registry = await startDockerRegistry(part.cleanup, storage);
  const destination = `docker://${registry.host}/bench:1`;
  await run('skopeo', ['copy', '-q', '--dest-tls-verify=false', `oci:${layout.directory}:bench`, destination]);
  return registry;
}
