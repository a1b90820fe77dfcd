import { constants } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { LookedUp } from '../ahead/looked-up.js';
import { Presence } from '../cache/presence.js';
import { codeOf, describeError } from '../errors.js';
import { nodeNumber, UPPER } from '../fs/nodes.js';
import { ServedTree } from '../fs/served-tree.js';
import { Tree } from '../toc/tree.js';
import { collectSoon } from '../util/collect.js';
import { systemError, write as writeNow } from '../util/syscalls.js';
import { ThreadNice } from '../util/thread-nice.js';
import {
  invalidateAttributes,
  invalidateEntry,
  isGone,
  Message,
  OUT_HEADER,
  putHeader,
  resendRequests,
} from './codec.js';
import { Alert, alertLoop } from './alert.js';
import { watchDevice } from './device.js';
import { EntryInvalidations } from './entry-invalidations.js';
import type { SharedLayer, ToMain, ToWorker, WorkerSetup } from './messages.js';
import { Newcomers } from './newcomers.js';
import { ReadRing } from './read-ring.js';
import { Session } from './session.js';
import { halts, WakeLatency } from './wake-latency.js';

/*
 * The thread that serves one connection. It answers what it can from shared memory, and says the rest to the main thread, which
 * may be busy: nothing here waits for it.
 */

const port = parentPort!;
/*
 * Programs wait for each of its answers, and none takes long. Among equals it would wait, in its turn, for a whole time slice of every thread
 * that inflates or digests: some milliseconds for an answer of microseconds.
 */
new ThreadNice().set(-10);
const setup = workerData as WorkerSetup;
/** Requests of a read-only filesystem fit in 8 KiB; the kernel refuses a smaller buffer. */
const request = new Message(16 * 1024);
let negotiated = setup.resume;

function say(message: ToMain): void {
  port.postMessage(message);
}

function write(bytes: Uint8Array, length: number): void {
  const written = writeNow(setup.fd, bytes, length);
  if (written >= 0) return;
  const error = systemError('write', written);
  if (!isGone(error)) throw error;
}

const invalidations = new EntryInvalidations({
  fd: setup.fd,
  locked: (directory) => session.locks(directory),
  onError: (error) => say({ type: 'error', message: `the kernel keeps a name that is gone: ${describeError(error)}` }),
});

const tree = new ServedTree({
  pool: setup.pool,
  resolves: setup.resolves,
  changed: (directory) => {
    if (!negotiated) return;
    const message = invalidateAttributes(nodeNumber(UPPER, directory));
    write(message, message.byteLength);
  },
  gone: (directory, name) => {
    if (negotiated) invalidations.add(directory, invalidateEntry(nodeNumber(UPPER, directory), name));
  },
});

const session = new Session(
  tree,
  {
    write,
    deferRead: (read) => say({ type: 'read', read }),
    deferLookup: (lookup) => say({ type: 'lookup', lookup }),
    deferUse: (use) => say({ type: 'use', use }),
    deferWake: (wake) => say({ type: 'wake', wake }),
    interrupt: (low, high) => say({ type: 'interrupt', low, high }),
    negotiated: (agreed) => {
      negotiated = true;
      say({ type: 'negotiated', negotiated: agreed });
    },
  },
  new Uint32Array(setup.counts),
  new Uint8Array(setup.touched),
);

if (setup.looks) session.lookedUp = new LookedUp((slot, wanted) => say({ type: 'looked-up', slot, wanted }));

if (setup.tellsOfNewcomers) {
  const newcomers = new Newcomers();
  session.lookedBy = (slot, pid) => {
    if (newcomers.isNew(pid)) say({ type: 'newcomer', slot, pid });
  };
}

function attach({ slot, tree: buffer, presence, fd }: SharedLayer): void {
  const view = { slot, tree: Tree.over(buffer), presence: new Presence(presence), fd };
  tree.attach(view);
  session.lookedUp?.attach(view);
}

/** EIO to a request that could not be answered: each must have a reply, and the next ones too. */
function unanswered(error: unknown, uniqueLow: number, uniqueHigh: number): void {
  say({ type: 'error', message: describeError(error) });
  const reply = new Message(OUT_HEADER);
  putHeader(reply.words, OUT_HEADER, -constants.errno.EIO, uniqueLow, uniqueHigh);
  try {
    write(reply.bytes, OUT_HEADER);
  } catch (failure) {
    say({ type: 'error', message: `a request has no reply: ${describeError(failure)}` });
  }
}

setup.layers.forEach(attach);
setup.asleep.forEach((layer) => tree.sleep(layer));
setup.references.forEach(({ reference, layers }) => tree.setReference(reference, layers));

const loop = setup.stayAwake ? alertLoop(() => device.take()) : undefined;
const latency = loop !== undefined && halts() ? WakeLatency.open() : undefined;
const alert = loop && new Alert(latency, loop);

const device = watchDevice(setup.fd, request.bytes, {
  message: (length) => {
    alert?.came();
    try {
      session.handle(request, length);
    } catch (error) {
      unanswered(error, request.words[2], request.words[3]);
    }
    alert?.answered();
  },
  end: (error) => say({ type: 'ended', error: isGone(error) ? undefined : error.message }),
});

if (setup.resume) {
  const message = resendRequests();
  try {
    write(message, message.byteLength);
  } catch (error) {
    say({ type: 'error', message: `the kernel does not send unanswered requests again: ${describeError(error)}` });
  }
}

port.on('message', (message: ToWorker) => {
  if (message.type === 'close') {
    session.close();
    alert?.close();
    latency?.[Symbol.dispose]();
    void invalidations.close().then(() => {
      device.close();
      port.close();
    });
    return;
  }
  if (message.type === 'look-again') {
    const { low, high, errno } = message;
    try {
      session.lookAgain(low, high, errno);
    } catch (error) {
      unanswered(error, low, high);
    }
    invalidations.next();
    return;
  }
  try {
    if (message.type === 'attach') attach(message.layer);
    else if (message.type === 'sleep') {
      tree.sleep(message.layer);
      session.lookedUp?.sleep(message.layer.slot);
      collectSoon();
    } else if (message.type === 'detach') {
      tree.detach(message.slot);
      session.lookedUp?.detach(message.slot);
    } else if (message.type === 'trace') session.ring = message.ring && new ReadRing(message.ring);
    else tree.setReference(message.reference, message.layers);
    say({ type: 'done', id: message.id });
  } catch (error) {
    say({ type: 'done', id: message.id, error: { code: codeOf(error), message: describeError(error) } });
  }
});
