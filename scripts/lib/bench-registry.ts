import { manifestOf, type DockerRegistry } from '../../native-tests/support/docker-registry.js';
import type { Candidate, Engine, Place } from '../../src/bench/start/engine.js';
import { parseReference } from '../../src/image/reference.js';

/**
 * An engine that starts containers beside the registry that their images come from. The registry stands for another machine: the page cache that
 * each run begins without is not its own. So it is asked for all of the image once more before a run, past the proxy, by whose network it is
 * elsewhere.
 */
export class BesideRegistry implements Engine {
  constructor(
    private readonly engine: Engine,
    private readonly registry: DockerRegistry,
  ) {}

  check(candidates: readonly Candidate[]): void {
    this.engine.check(candidates);
  }

  async open(candidate: Candidate, directory: string, signal: AbortSignal): Promise<Place> {
    const { host } = this.registry;
    const { repository } = parseReference(candidate.image);
    const { config, layers } = await manifestOf(host, repository);
    for (const { digest } of [config, ...layers]) {
      const answer = await fetch(`http://${host}/v2/${repository}/blobs/${digest}`, { signal });
      if (!answer.ok) throw new Error(`${repository}, ${digest}: expected the blob, found status ${answer.status}`);
      for await (const _ of answer.body!); // the bytes are of no use here
    }
    return this.engine.open(candidate, directory, signal);
  }
}
