import { create, type Message } from '@bufbuild/protobuf';
import { EmptySchema } from '@bufbuild/protobuf/wkt';
import {
  Server,
  ServerCredentials,
  status,
  type sendUnaryData,
  type ServerDuplexStream,
  type ServerUnaryCall,
} from '@grpc/grpc-js';
import type { ExecutionContext } from 'ava';
import { join } from 'node:path';
import { grpcDefinition } from '../containerd/grpc.js';
import * as content from '../containerd/proto/content_pb.js';
import * as diff from '../containerd/proto/diff_pb.js';
import * as images from '../containerd/proto/images_pb.js';
import * as leases from '../containerd/proto/leases_pb.js';
import * as snapshots from '../containerd/proto/snapshots_pb.js';
import { digestOf } from '../digest/digester.js';
import { temporaryDirectory } from './temporary.js';

const failure = (code: number, details: string) => Object.assign(new Error(details), { code, details });

type Labels = Record<string, string>;

/** As much of containerd as takes images, in memory, with every layer served lazily unless `unpacks` names its digest. */
export class FakeContainerd {
  readonly content = new Map<string, { bytes: Buffer; labels: Labels }>();
  readonly ingests = new Map<string, Buffer>();
  readonly images = new Map<string, string>();
  readonly leases = new Set<string>();
  readonly snapshots = new Map<string, Labels>();
  /** Messages of all writes: action and bytes. */
  readonly writes: string[] = [];
  /** Digests of layers that are to be unpacked. */
  readonly unpacks = new Set<string>();
  /** How often the next writes find their content locked. */
  locked = 0;
  /** Ends writes before this action is answered. */
  endsBefore: content.WriteAction | undefined;

  private constructor(readonly address: string) {}

  static async start(t: ExecutionContext): Promise<FakeContainerd> {
    const fake = new FakeContainerd(join(await temporaryDirectory(t, 'containerd'), 's.sock'));
    const server = new Server();
    fake.#serve(server);
    await new Promise<void>((resolve, reject) =>
      server.bindAsync(`unix:${fake.address}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      ),
    );
    t.teardown(() => server.forceShutdown());
    return fake;
  }

  #serve(server: Server): void {
    const unary =
      <I extends Message>(work: (request: I) => Message) =>
      (call: ServerUnaryCall<I, Message>, callback: sendUnaryData<Message>) => {
        try {
          callback(null, work(call.request));
        } catch (error) {
          callback(error as Error);
        }
      };
    const empty = () => create(EmptySchema);
    server.addService(grpcDefinition(leases.Leases), {
      create: unary(({ id }: leases.CreateRequest) => {
        this.leases.add(id);
        return create(leases.CreateResponseSchema);
      }),
      delete: unary(({ id }: leases.DeleteRequest) => {
        this.leases.delete(id);
        return empty();
      }),
    });
    server.addService(grpcDefinition(images.Images), {
      create: unary(({ image }: images.CreateImageRequest) => {
        if (this.images.has(image!.name)) throw failure(status.ALREADY_EXISTS, 'it exists');
        this.images.set(image!.name, image!.target!.digest);
        return create(images.CreateImageResponseSchema);
      }),
      update: unary(({ image }: images.UpdateImageRequest) => {
        this.images.set(image!.name, image!.target!.digest);
        return create(images.UpdateImageResponseSchema);
      }),
    });
    server.addService(grpcDefinition(snapshots.Snapshots), {
      prepare: unary(({ key, labels }: snapshots.PrepareSnapshotRequest) => {
        const name = labels['containerd.io/snapshot.ref'];
        if (this.snapshots.has(name)) throw failure(status.ALREADY_EXISTS, 'it exists');
        if (this.unpacks.has(labels['containerd.io/snapshot/cri.layer-digest'])) {
          this.snapshots.set(key, { ...labels, 'containerd.io/snapshot/lazylayer.reason': 'a test wants it' });
          return create(snapshots.PrepareSnapshotResponseSchema);
        }
        this.snapshots.set(name, { ...labels, 'containerd.io/snapshot/remote': 'remote snapshot' });
        throw failure(status.ALREADY_EXISTS, 'it is served');
      }),
      stat: unary(({ key }: snapshots.StatSnapshotRequest) => {
        const labels = this.snapshots.get(key);
        if (labels === undefined) throw failure(status.NOT_FOUND, `snapshot ${key}`);
        return create(snapshots.StatSnapshotResponseSchema, { info: { name: key, labels } });
      }),
      commit: unary(({ name, key, labels }: snapshots.CommitSnapshotRequest) => {
        this.snapshots.delete(key);
        this.snapshots.set(name, labels);
        return empty();
      }),
      remove: unary(({ key }: snapshots.RemoveSnapshotRequest) => {
        this.snapshots.delete(key);
        return empty();
      }),
    });
    server.addService(grpcDefinition(diff.Diff), {
      // What it is of a layer that is not compressed.
      apply: unary((request: diff.ApplyRequest) =>
        create(diff.ApplyResponseSchema, { applied: { digest: request.diff!.digest } }),
      ),
    });
    server.addService(grpcDefinition(content.Content), {
      update: unary(({ info }: content.UpdateRequest) => {
        const found = this.content.get(info!.digest);
        if (found === undefined) throw failure(status.NOT_FOUND, info!.digest);
        Object.assign(found.labels, info!.labels);
        return create(content.UpdateResponseSchema);
      }),
      abort: unary(({ ref }: content.AbortRequest) => {
        this.ingests.delete(ref);
        return empty();
      }),
      write: (stream: ServerDuplexStream<content.WriteContentRequest, content.WriteContentResponse>) =>
        this.#write(stream),
    });
  }

  #write(stream: ServerDuplexStream<content.WriteContentRequest, content.WriteContentResponse>): void {
    let ref = '';
    stream.on('error', () => {});
    stream.on('data', (request: content.WriteContentRequest) => {
      const { action, expected, data, labels, total } = request;
      this.writes.push(`${content.WriteAction[action]} ${data.byteLength}`);
      if (action === this.endsBefore) return void stream.end();
      if (this.locked > 0) {
        this.locked--;
        return void stream.emit('error', failure(status.UNAVAILABLE, `ref ${request.ref} locked`));
      }
      if (action === content.WriteAction.STAT) ref = request.ref;
      if (this.content.has(expected)) return void stream.emit('error', failure(status.ALREADY_EXISTS, expected));
      const bytes = Buffer.concat([this.ingests.get(ref) ?? Buffer.alloc(0), data]);
      this.ingests.set(ref, bytes);
      if (action === content.WriteAction.COMMIT) {
        if (digestOf(bytes) !== expected || bytes.byteLength !== Number(total))
          return void stream.emit('error', failure(status.FAILED_PRECONDITION, 'unexpected commit digest'));
        this.ingests.delete(ref);
        this.content.set(expected, { bytes, labels });
      }
      stream.write(create(content.WriteContentResponseSchema, { action, offset: BigInt(bytes.byteLength) }));
    });
    stream.on('end', () => stream.end());
  }
}
