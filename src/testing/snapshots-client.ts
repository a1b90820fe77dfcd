import { create, type DescMessage, type DescMethod, type Message, type MessageInitShape } from '@bufbuild/protobuf';
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import { LazylayerError, type ErrorCode } from '../errors.js';
import * as wire from '../snapshot/proto/snapshots_pb.js';
import { snapshotsDefinition } from '../snapshot/service.js';
import type { Info, Mount, Snapshotter } from '../snapshot/snapshotter.js';
import { infoToWire, kindFromWire, timeFromWire } from '../snapshot/wire.js';

const codes: Readonly<Record<number, ErrorCode>> = {
  1: 'ABORTED',
  3: 'INVALID_ARGUMENT',
  4: 'TIMEOUT',
  5: 'NOT_FOUND',
  6: 'ALREADY_EXISTS',
  7: 'PERMISSION_DENIED',
  8: 'RESOURCE_EXHAUSTED',
  9: 'FAILED_PRECONDITION',
  12: 'UNSUPPORTED',
  14: 'UNAVAILABLE',
  15: 'DATA_LOSS',
  16: 'UNAUTHENTICATED',
};

export interface ClientOptions {
  /** For containerd's own service: which of its snapshotters, and in which namespace. */
  readonly snapshotter?: string;
  readonly namespace?: string;
}

/** A snapshotter behind containerd's snapshots service at a unix socket. */
export function connectSnapshots(address: string, options: ClientOptions = {}): Snapshotter {
  // What any client sends, told apart from the socket's path, which some servers refuse as an authority.
  const client = new Client(`unix:${address}`, credentials.createInsecure(), { 'grpc.default_authority': 'localhost' });
  const metadata = new Metadata();
  if (options.namespace !== undefined) metadata.set('containerd-namespace', options.namespace);
  const snapshotter = options.snapshotter ?? '';

  const call = <I extends DescMessage>(
    method: DescMethod & { input: I },
    init: MessageInitShape<I>,
    signal?: AbortSignal,
  ): Promise<Message> => {
    const { path, requestSerialize, responseDeserialize } = snapshotsDefinition[method.localName];
    const request: Message = create(method.input, init);
    return new Promise((resolve, reject) => {
      const running = client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        metadata,
        (error, answer) => (error === null ? resolve(answer!) : reject(errorOf(error))),
      );
      signal?.addEventListener('abort', () => running.cancel(), { once: true });
    });
  };
  const { prepare, view, mounts, commit, remove, stat, update, usage, cleanup } = wire.Snapshots.method;

  async function* walk(filters: readonly string[] = []): AsyncIterable<Info> {
    const { path, requestSerialize, responseDeserialize } = snapshotsDefinition['list'];
    const request = create(wire.ListSnapshotsRequestSchema, { snapshotter, filters: [...filters] });
    const stream = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, metadata);
    try {
      for await (const message of stream) yield* (message as wire.ListSnapshotsResponse).info.map(infoOf);
    } catch (error) {
      throw errorOf(error as ServiceError);
    } finally {
      stream.cancel();
    }
  }
  const close = async () => client.close();
  return {
    prepare: async (key, parent, { labels = {}, signal } = {}) =>
      mountsOf(await call(prepare, { snapshotter, key, parent, labels }, signal)),
    view: async (key, parent, { labels = {}, signal } = {}) =>
      mountsOf(await call(view, { snapshotter, key, parent, labels }, signal)),
    mounts: async (key, { signal } = {}) => mountsOf(await call(mounts, { snapshotter, key }, signal)),
    commit: async (name, key, { labels = {}, parent = '' } = {}) => {
      await call(commit, { snapshotter, name, key, labels, parent });
    },
    remove: async (key) => {
      await call(remove, { snapshotter, key });
    },
    stat: async (key) => infoOf(((await call(stat, { snapshotter, key })) as wire.StatSnapshotResponse).info!),
    update: async ({ name, labels }, fields) => {
      const info = infoToWire({ name, labels, parent: '', kind: 'active', created: 0, updated: 0 });
      const answer = await call(update, { snapshotter, info, updateMask: { paths: [...fields] } });
      return infoOf((answer as wire.UpdateSnapshotResponse).info!);
    },
    usage: async (key) => {
      const { size, inodes } = (await call(usage, { snapshotter, key })) as wire.UsageResponse;
      return { size: Number(size), inodes: Number(inodes) };
    },
    cleanup: async () => {
      await call(cleanup, { snapshotter });
    },
    walk,
    close,
    [Symbol.asyncDispose]: close,
  };
}

function mountsOf(message: Message): Mount[] {
  return (message as wire.MountsResponse).mounts.map(({ type, source, target, options }) => ({
    type,
    source,
    target,
    options,
  }));
}

function infoOf({ name, parent, kind, labels, createdAt, updatedAt }: wire.Info): Info {
  const known = kindFromWire(kind);
  if (known === undefined) throw new Error(`snapshot ${name}: the kind ${kind} is unknown`);
  return { name, parent, kind: known, labels, created: timeFromWire(createdAt), updated: timeFromWire(updatedAt) };
}

function errorOf(error: ServiceError): LazylayerError {
  return new LazylayerError(codes[error.code] ?? 'INTERNAL', error.details, { cause: error });
}
