import { once } from 'node:events';
import { request as sendRequest, type ClientRequest, type IncomingMessage } from 'node:http';
import { LazylayerError } from '../errors.js';
import { fromWire } from './control.js';
import type { ReadEvent, RequestEvent, Trace, TracedFile, TracedLayer, TraceEnd, TraceLine } from './trace-events.js';

/** A trace that a daemon keeps for us: it ends when this is disposed, or with our process. */
export class Recording implements AsyncDisposable {
  private constructor(
    private readonly request: ClientRequest,
    private readonly lines: AsyncGenerator<string, void, undefined>,
    private readonly begin: number,
  ) {}

  /** @throws BUSY where somebody else traces; what connecting to the socket throws */
  static async begin(socketPath: string): Promise<Recording> {
    const request = sendRequest({ socketPath, method: 'POST', path: '/trace', agent: false });
    request.flushHeaders();
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    request.on('error', () => {}); // whoever reads the answer sees that it broke off
    const lines = linesOf(response);
    const { value } = await lines.next();
    const first = value === undefined ? undefined : (JSON.parse(value) as TraceLine);
    if (first !== undefined && 'begun' in first) return new Recording(request, lines, first.begun);
    request.destroy();
    throw first !== undefined && 'error' in first ? fromWire(first.error) : lost();
  }

  /** Ends it: a trace of what was before `until`, or before now. @throws UNAVAILABLE where the daemon ended meanwhile */
  async finish(until?: number): Promise<Trace> {
    this.request.end(JSON.stringify({ until } satisfies TraceEnd));
    const layers: TracedLayer[] = [];
    const files: TracedFile[] = [];
    const reads: ReadEvent[] = [];
    const requests: RequestEvent[] = [];
    for await (const text of this.lines) {
      const line = JSON.parse(text) as TraceLine;
      if ('layer' in line) layers.push(line.layer);
      else if ('file' in line) files.push(line.file);
      else if ('read' in line) reads.push(line.read);
      else if ('request' in line) requests.push(line.request);
      else if ('error' in line) throw fromWire(line.error);
      else if ('ended' in line) {
        const { time: end, dropped } = line.ended;
        return { begin: this.begin, end, layers, files, reads, requests, dropped };
      }
    }
    throw lost();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.request.destroy();
  }
}

const lost = () => new LazylayerError('UNAVAILABLE', 'the daemon ended while it was being traced; see its log');

/** Whole lines, up to where the body ends or breaks off. */
export async function* linesOf(body: IncomingMessage): AsyncGenerator<string, void, undefined> {
  let rest = '';
  try {
    for await (const piece of body.setEncoding('utf8') as AsyncIterable<string>) {
      const lines = (rest + piece).split('\n');
      rest = lines.pop()!;
      yield* lines;
    }
  } catch {
    // Whoever waits for a certain line sees that it did not come.
  }
}
