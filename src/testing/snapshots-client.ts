import { create } from '@bufbuild/protobuf';
import { errorOf, GrpcClient } from '../containerd/grpc.js';
import * as wire from '../containerd/proto/snapshots_pb.js';
import type { Info, Mount, Snapshotter } from '../snapshot/snapshotter.js';
import { infoToWire, kindFromWire, timeFromWire } from '../snapshot/wire.js';

export interface ClientOptions {
  /** For containerd's own service: which of its snapshotters, and in which namespace. */
  readonly snapshotter?: string;
  readonly namespace?: string;
}

/** A snapshotter behind containerd's snapshots service at a unix socket. */
export function connectSnapshots(address: string, options: ClientOptions = {}): Snapshotter {
  const { snapshotter = '', namespace } = options;
  const client = new GrpcClient(address, namespace === undefined ? {} : { 'containerd-namespace': namespace });
  const { prepare, view, mounts, commit, remove, stat, update, usage, list, cleanup } = wire.Snapshots.method;
  const close = async () => client[Symbol.dispose]();
  return {
    prepare: async (key, parent, { labels = {}, signal } = {}) =>
      mountsOf(await client.call(prepare, { snapshotter, key, parent, labels }, signal)),
    view: async (key, parent, { labels = {}, signal } = {}) =>
      mountsOf(await client.call(view, { snapshotter, key, parent, labels }, signal)),
    mounts: async (key, { signal } = {}) => mountsOf(await client.call(mounts, { snapshotter, key }, signal)),
    commit: async (name, key, { labels = {}, parent = '' } = {}) => {
      await client.call(commit, { snapshotter, name, key, labels, parent });
    },
    remove: async (key) => {
      await client.call(remove, { snapshotter, key });
    },
    stat: async (key) => infoOf((await client.call(stat, { snapshotter, key })).info!),
    update: async ({ name, labels }, fields) => {
      const info = infoToWire({ name, labels, parent: '', kind: 'active', created: 0, updated: 0 });
      const answer = await client.call(update, { snapshotter, info, updateMask: { paths: [...fields] } });
      return infoOf(answer.info!);
    },
    usage: async (key) => {
      const { size, inodes } = await client.call(usage, { snapshotter, key });
      return { size: Number(size), inodes: Number(inodes) };
    },
    cleanup: async () => {
      await client.call(cleanup, { snapshotter });
    },
    walk: async function* (filters: readonly string[] = []) {
      const stream = client.stream(list);
      stream.end(create(wire.ListSnapshotsRequestSchema, { snapshotter, filters: [...filters] }));
      try {
        for await (const { info } of stream as AsyncIterable<wire.ListSnapshotsResponse>) yield* info.map(infoOf);
      } catch (error) {
        throw errorOf(error);
      } finally {
        stream.cancel();
      }
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

function mountsOf({ mounts }: Pick<wire.MountsResponse, 'mounts'>): Mount[] {
  return mounts.map(({ type, source, target, options }) => ({ type, source, target, options }));
}

function infoOf({ name, parent, kind, labels, createdAt, updatedAt }: wire.Info): Info {
  const known = kindFromWire(kind);
  if (known === undefined) throw new Error(`snapshot ${name}: the kind ${kind} is unknown`);
  return { name, parent, kind: known, labels, created: timeFromWire(createdAt), updated: timeFromWire(updatedAt) };
}
