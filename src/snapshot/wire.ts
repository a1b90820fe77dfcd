import { create, fromBinary, toBinary, type DescMethod, type DescService, type Message } from '@bufbuild/protobuf';
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt';
import type { MethodDefinition } from '@grpc/grpc-js';
import { InfoSchema, Kind as WireKind, type Info as WireInfo } from './proto/snapshots_pb.js';
import type { Info, Kind } from './snapshotter.js';

/** A generated service as gRPC takes it, for servers and clients. Keys are the methods' names in lower camel case. */
export function grpcDefinition(service: DescService): Record<string, MethodDefinition<Message, Message>> {
  return Object.fromEntries(
    service.methods.map((method) => [
      method.localName,
      methodDefinition(`/${service.typeName}/${method.name}`, method),
    ]),
  );
}

function methodDefinition(path: string, method: DescMethod): MethodDefinition<Message, Message> {
  const { input, output, methodKind } = method;
  return {
    path,
    requestStream: methodKind === 'client_streaming' || methodKind === 'bidi_streaming',
    responseStream: methodKind === 'server_streaming' || methodKind === 'bidi_streaming',
    requestSerialize: (message) => Buffer.from(toBinary(input, message)),
    requestDeserialize: (bytes) => fromBinary(input, bytes),
    responseSerialize: (message) => Buffer.from(toBinary(output, message)),
    responseDeserialize: (bytes) => fromBinary(output, bytes),
  };
}

const toWire: Readonly<Record<Kind, WireKind>> = {
  view: WireKind.VIEW,
  active: WireKind.ACTIVE,
  committed: WireKind.COMMITTED,
};

export function infoToWire({ name, parent, kind, labels, created, updated }: Info): WireInfo {
  return create(InfoSchema, {
    name,
    parent,
    kind: toWire[kind],
    labels,
    createdAt: timestampFromMs(created),
    updatedAt: timestampFromMs(updated),
  });
}

/** Undefined for a kind that no snapshot has. */
export function kindFromWire(kind: WireKind): Kind | undefined {
  return (Object.keys(toWire) as Kind[]).find((known) => toWire[known] === kind);
}

/** Milliseconds since 1970. */
export function timeFromWire(time: WireInfo['createdAt']): number {
  return time === undefined ? 0 : timestampMs(time);
}
