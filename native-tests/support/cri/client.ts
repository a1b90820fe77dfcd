import { GrpcClient } from '../../../src/containerd/grpc.js';
import type { Cleanup } from '../tools.js';
import { ImageService, NamespaceMode, RuntimeService } from './cri_pb.js';

/** What a kubelet asks of a container runtime, at a unix socket. Pods are on the host's network. */
export class Cri {
  readonly #client: GrpcClient;
  readonly #pods = new Set<string>();

  constructor(
    cleanup: Cleanup,
    socket: string,
    private readonly logs: string,
  ) {
    this.#client = new GrpcClient(socket);
    cleanup.teardown(async () => {
      for (const pod of this.#pods) await this.removePod(pod);
      this.#client[Symbol.dispose]();
    });
  }

  async pull(image: string): Promise<void> {
    await this.#client.call(ImageService.method.pullImage, { image: { image }, sandboxConfig: this.#pod('pulls') });
  }

  async removeImage(image: string): Promise<void> {
    await this.#client.call(ImageService.method.removeImage, { image: { image } });
  }

  /** Starts a pod that is gone after the test. Gives its id. */
  async runPod(name: string): Promise<string> {
    const { podSandboxId } = await this.#client.call(RuntimeService.method.runPodSandbox, { config: this.#pod(name) });
    this.#pods.add(podSandboxId);
    return podSandboxId;
  }

  /** With all its containers. */
  async removePod(podSandboxId: string): Promise<void> {
    this.#pods.delete(podSandboxId);
    await this.#client.call(RuntimeService.method.stopPodSandbox, { podSandboxId });
    await this.#client.call(RuntimeService.method.removePodSandbox, { podSandboxId });
  }

  /** Starts a container in a pod. Gives its id. */
  async run(podSandboxId: string, pod: string, image: string, command: string[]): Promise<string> {
    const { containerId } = await this.#client.call(RuntimeService.method.createContainer, {
      podSandboxId,
      config: {
        metadata: { name: 'main' },
        image: { image },
        command,
        logPath: 'main.log',
        linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } },
      },
      sandboxConfig: this.#pod(pod),
    });
    await this.#client.call(RuntimeService.method.startContainer, { containerId });
    return containerId;
  }

  /** Runs a program in a container to its end and gives what it printed. */
  async exec(containerId: string, cmd: string[]): Promise<string> {
    const answer = await this.#client.call(RuntimeService.method.execSync, { containerId, cmd, timeout: 30n });
    if (answer.exitCode !== 0)
      throw new Error(`${cmd.join(' ')} ended with ${answer.exitCode}: ${Buffer.from(answer.stderr).toString()}`);
    return Buffer.from(answer.stdout).toString();
  }

  #pod(name: string) {
    return {
      metadata: { name, uid: `uid-of-${name}`, namespace: 'default' },
      logDirectory: this.logs,
      linux: { securityContext: { namespaceOptions: { network: NamespaceMode.NODE } } },
    };
  }
}
