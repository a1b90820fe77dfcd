import test from 'ava';
import type { ReadEvent, Trace } from '../../daemon/trace-events.js';
import { elementsOf } from '../../testing/xml.js';
import { formatTrace } from '../../cli/trace-table.js';
import { parseDuration } from '../duration.js';
import { describeMachine } from '../report.js';
import { tracePage } from './page.js';
import { traceReport, unionMs } from './report.js';

const begin = 1_700_000_000_000;
const moments = { begin, pull: begin + 600, create: begin + 610, run: begin + 650, ready: begin + 1000 };
const read = (inode: number, start: number, end: number, source: ReadEvent['source'], length = 4096): ReadEvent => ({
  slot: inode < 90 ? 1 : 7,
  inode,
  offset: 0,
  length,
  start: begin + start,
  end: begin + end,
  source,
});
const request = (start: number, firstByte: number, end: number, bytes: number) => ({
  url: 'http://localhost/v2/a/blobs/b?<"&\'>',
  start: begin + start,
  firstByte: begin + firstByte,
  end: begin + end,
  bytes,
});

const trace: Trace = {
  begin: begin - 50,
  end: begin + 1000,
  layers: [{ slot: 1, digest: `sha256:${'a'.repeat(64)}`, bytes: 100_000, readBytes: 6000 }],
  files: [
    { slot: 1, inode: 2, path: '/bin/<script>alert("&")</script>\u001b[2J', bytes: 9000 },
    { slot: 1, inode: 3, path: '/lib/b', bytes: 4096 },
  ],
  reads: [
    read(2, 700, 740, 'network'),
    read(2, 720, 760, 'shared'),
    read(3, 800, 819, 'prefetch'),
    read(2, 900, 900.1, 'cache', 808),
    { ...read(90, 910, 950, 'network'), failed: true },
    { ...read(3, 950, 1000, 'network'), underWay: true },
  ],
  requests: [
    { ...request(10, 20, 30, 500), status: 200 },
    { ...request(100, 120, 140, 2000), reason: 'toc', range: 'bytes=0-1999', status: 206, blob: 'sha256:b' },
    { ...request(701, 720, 739, 9000), reason: 'demand', status: 206 },
    { ...request(702, 730, 735, 0), reason: 'prefetch', firstByte: undefined },
    { ...request(720, 760, 1000, 500), reason: 'prefetch', status: 206, underWay: true },
  ],
  dropped: 3,
};
const facts = {
  image: 'localhost/<app>',
  command: ['sh', '-c', 'echo ]]>'],
  network: undefined,
  engine: 'mount',
  date: '2024-01-31T00:00:00Z',
  machine: describeMachine(),
  notes: ['<a note>'],
};
const report = traceReport(trace, moments, 20, facts);

test('a report adds up: totals, files by time waited, stalls, times from the beginning', (t) => {
  const { totals, files, stalls, reads, requests, layers } = report;
  t.deepEqual(report.phases, { pull: 600, create: 10, run: 40, ready: 350 });
  t.is(report.totalMs, 1000);
  t.is(reads.length, 6);
  t.is(requests.length, 5);
  t.is(totals.requestsUnderWay, 1);
  t.is(totals.readBytes, 4 * 4096 + 808, 'without what failed');
  t.is(totals.fetchedBytes, 12_000);
  t.is(totals.neededBytes, 6000);
  t.is(totals.ratio, 2);
  t.is(Math.round(totals.waitedMs), 60 + 19 + 90);
  t.deepEqual(totals.bySource.network, { reads: 3, bytes: 8192 });
  t.deepEqual(totals.byReason.other, { requests: 1, bytes: 500 });
  t.deepEqual(totals.byReason.background, { requests: 0, bytes: 0 });
  t.deepEqual(
    files.map(({ path, layer, reads, stalls, waitedMs }) => [path, layer, reads, stalls, Math.round(waitedMs)]),
    [
      ['/lib/b', 0, 2, 1, 69],
      [trace.files[0].path, 0, 3, 2, 60],
      ['inode 90', 1, 1, 1, 40],
    ],
  );
  t.deepEqual(
    stalls.map(({ file, startMs, endMs, failed, underWay }) => [
      file,
      Math.round(startMs),
      Math.round(endMs),
      failed ?? underWay,
    ]),
    [
      [0, 950, 1000, true],
      [1, 700, 740, undefined],
      [1, 720, 760, undefined],
      [2, 910, 950, true],
    ],
  );
  t.deepEqual(
    layers.map(({ bytes }) => bytes),
    [100_000, undefined],
  );
});

test('of a start that read nothing there is no ratio, and a page all the same', (t) => {
  const nothing = traceReport({ ...trace, reads: [], requests: [], layers: [], files: [], dropped: 0 }, moments, 20, {
    ...facts,
    command: [],
  });
  t.is(nothing.totals.ratio, undefined);
  t.is(nothing.totals.waitedMs, 0);
  t.notThrows(() => elementsOf(bodyOf(tracePage(nothing))));
  t.true(tracePage(nothing).includes("<p>the image's command through mount"));
  t.regex(formatTrace(nothing), /^ready after 1000 ms/);
});

const bodyOf = (page: string) => page.slice(page.indexOf('<body>'), page.indexOf('</html>'));

test('the page is whole in itself and well formed, whatever files are called; a mark for each read and request', (t) => {
  const page = tracePage(report);
  const elements = elementsOf(bodyOf(page));
  t.notRegex(page, /<script|src=|href=|url\(|@import/);
  t.true(page.includes('/bin/&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;?[2J'));
  // Of phases, requests and reads.
  t.is(elements.filter((name) => name === 'g').length, 4 + 5 + 6);
  t.is(page.split('class="stall"').length - 1, 4);
  t.is(page.split('still under way after').length - 1, 2);
  t.true(page.includes('<p><code>sh -c &#39;echo ]]&gt;&#39;</code> through mount'));
  t.true(page.includes('3 oldest reads and requests') && page.includes('&lt;a note&gt;'));
});

test('thousands of cached reads are few marks, and many files few lanes', (t) => {
  const reads = Array.from({ length: 20_000 }, (_, i) => read(i % 80, i / 50, i / 50 + 0.01, 'cache'));
  const page = tracePage(traceReport({ ...trace, reads }, moments, 20, facts));
  t.true(page.length < 3e6, `${page.length}`);
  const files = Array.from({ length: 2000 }, (_, i) => ({ ...read(2, i / 4, i / 4 + 0.1, 'network'), inode: i }));
  const wide = tracePage(traceReport({ ...trace, reads: files }, moments, 20, facts));
  t.true(wide.includes('other files'));
  t.true(elementsOf(bodyOf(wide)).filter((name) => name === 'text').length < 400);
});

test('the table names the longest stalls, and nothing that moves the cursor', (t) => {
  const text = formatTrace(report);
  t.regex(text, /^ *STALLED +AT +FROM +OFFSET +BYTES +FILE\n +50 ms +950 ms +network, under way +0 +4096 +\/lib\/b\n/);
  t.true(text.includes('?[2J') && !text.includes('\u001b'));
  t.regex(
    text,
    /fetched: 11.7 KiB by 5 requests, 1 still under way; what was read is 5.9 KiB compressed \(2.00 times\)/,
  );
});

test('time that spans share is counted once', (t) => {
  const spans = [
    [5, 6],
    [0, 10],
    [8, 12],
    [20, 21],
    [20, 20],
  ];
  t.is(unionMs(spans.map(([start, end]) => ({ start, end }))), 13);
});

test('durations', (t) => {
  t.deepEqual(['20ms', '0.5s', '500us', '20', 'ms', '-1ms', '1e3ms', ' 1ms', ''].map(parseDuration), [
    20,
    500,
    0.5,
    undefined,
    undefined,
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
});
