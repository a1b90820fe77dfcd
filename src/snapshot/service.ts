import { create, type Message, type MessageInitShape } from '@bufbuild/protobuf';
import { EmptySchema } from '@bufbuild/protobuf/wkt';
import type {
  sendUnaryData,
  ServerErrorResponse,
  ServerUnaryCall,
  ServerWritableStream,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { describeError, grpcStatusOf, LazylayerError } from '../errors.js';
import { grpcDefinition } from '../containerd/grpc.js';
import * as wire from '../containerd/proto/snapshots_pb.js';
import { firstOf } from '../util/events.js';
import type { Info, Snapshotter } from './snapshotter.js';
import { infoToWire } from './wire.js';

/** containerd.services.snapshots.v1.Snapshots, for a server. */
export const snapshotsDefinition = grpcDefinition(wire.Snapshots);

/** Snapshots in one message of List: a full one stays far below gRPC's 4 MiB. */
const listBatch = 100;

/** The methods of containerd's snapshots service, over a snapshotter. */
export function snapshotsService(snapshotter: Snapshotter): UntypedServiceImplementation {
  return {
    prepare: unary(async ({ key, parent, labels }: wire.PrepareSnapshotRequest, signal) => {
      const mounts = await snapshotter.prepare(key, parent, { labels, signal });
      return create(wire.PrepareSnapshotResponseSchema, { mounts: mounts.map(mountToWire) });
    }),
    view: unary(async ({ key, parent, labels }: wire.ViewSnapshotRequest, signal) => {
      const mounts = await snapshotter.view(key, parent, { labels, signal });
      return create(wire.ViewSnapshotResponseSchema, { mounts: mounts.map(mountToWire) });
    }),
    mounts: unary(async ({ key }: wire.MountsRequest, signal) => {
      const mounts = await snapshotter.mounts(key, { signal });
      return create(wire.MountsResponseSchema, { mounts: mounts.map(mountToWire) });
    }),
    commit: unary(async ({ name, key, labels, parent }: wire.CommitSnapshotRequest) => {
      await snapshotter.commit(name, key, { labels, parent });
      return create(EmptySchema);
    }),
    remove: unary(async ({ key }: wire.RemoveSnapshotRequest) => {
      await snapshotter.remove(key);
      return create(EmptySchema);
    }),
    stat: unary(async ({ key }: wire.StatSnapshotRequest) => {
      return create(wire.StatSnapshotResponseSchema, { info: infoToWire(await snapshotter.stat(key)) });
    }),
    update: unary(async ({ info, updateMask }: wire.UpdateSnapshotRequest) => {
      if (info === undefined) throw new LazylayerError('INVALID_ARGUMENT', 'update: expected an info, found none');
      const updated = await snapshotter.update({ name: info.name, labels: info.labels }, updateMask?.paths ?? []);
      return create(wire.UpdateSnapshotResponseSchema, { info: infoToWire(updated) });
    }),
    usage: unary(async ({ key }: wire.UsageRequest) => {
      const { size, inodes } = await snapshotter.usage(key);
      return create(wire.UsageResponseSchema, { size: BigInt(size), inodes: BigInt(inodes) });
    }),
    cleanup: unary(async (_: wire.CleanupRequest) => {
      await snapshotter.cleanup();
      return create(EmptySchema);
    }),
    list: (call: ServerWritableStream<wire.ListSnapshotsRequest, wire.ListSnapshotsResponse>) => {
      list(snapshotter, call).then(
        () => call.end(),
        (error: unknown) => call.emit('error', failure(error)),
      );
    },
  };
}

async function list(
  snapshotter: Snapshotter,
  call: ServerWritableStream<wire.ListSnapshotsRequest, wire.ListSnapshotsResponse>,
): Promise<void> {
  let infos: Info[] = [];
  const send = async () => {
    const message = create(wire.ListSnapshotsResponseSchema, { info: infos.map(infoToWire) });
    infos = [];
    if (!call.write(message)) await firstOf(call, 'drain', 'cancelled');
  };
  for await (const info of snapshotter.walk(call.request.filters)) {
    if (call.cancelled) return;
    if (infos.push(info) === listBatch) await send();
  }
  if (infos.length > 0) await send();
}

function unary<I extends Message, O extends Message>(work: (request: I, signal: AbortSignal) => Promise<O>) {
  return (call: ServerUnaryCall<I, O>, callback: sendUnaryData<O>): void => {
    const controller = new AbortController();
    call.once('cancelled', () => controller.abort(new LazylayerError('ABORTED', 'the client gave the call up')));
    work(call.request, controller.signal).then(
      (answer) => callback(null, answer),
      (error: unknown) => callback(failure(error)),
    );
  };
}

function failure(error: unknown): Error & ServerErrorResponse {
  const details = describeError(error);
  return Object.assign(new Error(details), { code: grpcStatusOf(error), details });
}

function mountToWire(mount: {
  type: string;
  source: string;
  target: string;
  options: readonly string[];
}): NonNullable<MessageInitShape<typeof wire.MountsResponseSchema>['mounts']>[number] {
  return { ...mount, options: [...mount.options] };
}
