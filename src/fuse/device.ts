import { createServer, Socket } from 'node:net';
import { read } from '../util/syscalls.js';

/** What net.Socket wants of a handle, as far as this file touches it. */
interface PipeHandle {
  open(fd: number): number;
  close(done?: () => void): void;
}

export interface DeviceEvents {
  /** One request: bytes `[0, length)` of the buffer, which is used again for the next one. */
  readonly message: (length: number) => void;
  /**
   * Nothing more will come: the filesystem was unmounted (ENODEV), or reading failed. The descriptor is still open: say `close`
   * once nobody writes to it any more.
   */
  readonly end: (error: Error) => void;
}

export interface Device {
  /** Gives `message` the next request, where one is there: at once, for whoever does not wait until the loop has seen it. */
  take(): void;
  /** Stops watching and closes the descriptor. */
  close(): void;
}

/**
 * Watches `/dev/fuse` with the event loop. Node.js has no way to watch a character device, but its pipe handle asks nothing of
 * the descriptor that it opens except read(2) and epoll, and /dev/fuse has both. The handle's class is not public; an idle
 * server on a unix socket has one. A blocked thread would be no way round: it can be neither ended nor thrown out of.
 *
 * Takes the descriptor over, and makes it non-blocking.
 */
export function watchDevice(fd: number, buffer: Uint8Array, events: DeviceEvents): Device {
  const handle = openPipe(fd);
  const close = handle.close.bind(handle);
  let ended = false;
  // net.Socket closes its handle as soon as a read fails. A descriptor's number is free from then on, and another thread may
  // still write to it: so the owner says when.
  handle.close = (done) => done?.();
  const socket = new Socket({
    handle,
    writable: false,
    onread: {
      buffer,
      callback: (length: number) => {
        events.message(length);
        return true;
      },
    },
  } as ConstructorParameters<typeof Socket>[0]);
  const end = (error: Error) => {
    if (ended) return;
    ended = true;
    events.end(error);
  };
  socket.on('error', end);
  socket.on('end', () => end(new Error('end of file')));
  socket.resume();
  return {
    take() {
      // What is wrong with the descriptor, the loop hears too.
      const length = ended ? 0 : read(fd, buffer);
      if (length > 0) events.message(length);
    },
    close() {
      ended = true;
      socket.destroy();
      close();
    },
  };
}

function openPipe(fd: number): PipeHandle {
  const handle = new (pipeClass())(0);
  const status = handle.open(fd);
  if (status !== 0) throw new Error(`pipe handle on descriptor ${fd}: error ${status}`);
  return handle;
}

function pipeClass(): new (type: number) => PipeHandle {
  // An abstract name leaves nothing on disk; the server is closed before anybody can know it.
  const server = createServer().listen(`\0lazylayer-${process.pid}-${process.hrtime.bigint()}`);
  const { _handle: handle } = server as unknown as { _handle: PipeHandle };
  server.close();
  return handle.constructor as new (type: number) => PipeHandle;
}
