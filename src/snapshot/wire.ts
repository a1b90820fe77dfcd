import { create } from '@bufbuild/protobuf';
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt';
import { InfoSchema, Kind as WireKind, type Info as WireInfo } from '../containerd/proto/snapshots_pb.js';
import type { Info, Kind } from './snapshotter.js';

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
