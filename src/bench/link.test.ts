import test from 'ava';
import fc from 'fast-check';
import { VirtualClock } from '../testing/virtual-clock.js';
import { Link } from './link.js';

interface Arrived {
  readonly at: number;
  readonly bytes: number;
}

/** A link, and lanes whose arrivals are written down. */
function linkOf(delayMs: number, bytesPerMs: number) {
  const clock = new VirtualClock();
  const link = new Link({ delayMs, bytesPerMs }, clock);
  const lane = (opensAt?: number) => {
    const arrived: Arrived[] = [];
    const state = { ended: undefined as number | undefined };
    const made = link.lane((bytes) => {
      if (bytes === undefined) state.ended = clock.now();
      else arrived.push({ at: clock.now(), bytes: bytes.length });
    }, opensAt);
    return { lane: made, arrived, state };
  };
  return { clock, lane };
}

const total = (arrived: readonly Arrived[]) => arrived.reduce((sum, { bytes }) => sum + bytes, 0);

test('bytes arrive after the delay and the time that they take to send', (t) => {
  const { clock, lane } = linkOf(20, 1000);
  const { lane: one, arrived, state } = lane();
  one.send(Buffer.alloc(10_000));
  one.end();
  clock.run();
  t.deepEqual(arrived, [{ at: 30, bytes: 10_000 }]);
  t.is(state.ended, 30);
});

test('nothing is sent before the handshake is over', (t) => {
  const { clock, lane } = linkOf(20, Infinity);
  const { lane: one, arrived } = lane(40);
  one.send(Buffer.alloc(1));
  clock.run();
  t.deepEqual(arrived, [{ at: 60, bytes: 1 }]);
});

test('lanes share the rate, and take turns: a short one does not wait for a long one', (t) => {
  const { clock, lane } = linkOf(0, 1000);
  const long = lane();
  const short = lane();
  long.lane.send(Buffer.alloc(1_000_000));
  short.lane.send(Buffer.alloc(10_000));
  clock.run(100);
  t.is(total(short.arrived), 10_000);
  t.true(short.arrived[0].at < 50, `${short.arrived[0].at}`);
  clock.run();
  t.is(total(long.arrived), 1_000_000);
  t.true(Math.abs(clock.now() - 1010) < 1, `${clock.now()}`);
});

test('late timers do not slow it down', (t) => {
  const { clock, lane } = linkOf(20, 1000);
  const { lane: one, arrived } = lane();
  one.send(Buffer.alloc(1_000_000));
  clock.run(Infinity, 3);
  t.is(total(arrived), 1_000_000);
  t.true(clock.now() >= 1020 && clock.now() < 1030, `${clock.now()}`);
});

test('an idle link saves nothing up', (t) => {
  const { clock, lane } = linkOf(0, 1000);
  const { lane: one, arrived } = lane();
  clock.run(500);
  one.send(Buffer.alloc(100_000));
  clock.run();
  t.is(total(arrived), 100_000);
  t.is(Math.round(clock.now()), 600);
});

test('what a closed lane has not delivered is dropped', (t) => {
  const { clock, lane } = linkOf(20, 1000);
  const one = lane();
  const other = lane();
  one.lane.send(Buffer.alloc(100_000));
  other.lane.send(Buffer.alloc(1000));
  clock.run(30);
  const before = total(one.arrived);
  one.lane.close();
  one.lane.send(Buffer.alloc(1));
  clock.run();
  t.is(total(one.arrived), before);
  t.is(total(other.arrived), 1000);
});

test('of any bytes on any lanes, all arrive in order, none before its time, never faster than the rate', (t) => {
  const sends = fc.array(fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 60_000 }), fc.nat(30)), { maxLength: 30 });
  fc.assert(
    fc.property(sends, fc.integer({ min: 0, max: 5 }), (all, late) => {
      const { clock, lane } = linkOf(10, 500);
      const lanes = [lane(), lane(), lane(), lane()];
      const sent = [0, 0, 0, 0];
      let time = 0;
      for (const [which, bytes, wait] of all) {
        clock.run((time += wait), late);
        lanes[which].lane.send(Buffer.alloc(bytes));
        sent[which] += bytes;
      }
      for (const { lane } of lanes) lane.end();
      clock.run(Infinity, late);
      const whole = sent.reduce((sum, bytes) => sum + bytes, 0);
      return (
        lanes.every(({ arrived, state }, i) => total(arrived) === sent[i] && state.ended !== undefined) &&
        (whole === 0 || clock.now() >= 10 + whole / 500 - 1)
      );
    }),
  );
  t.pass();
});
