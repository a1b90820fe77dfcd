import test from 'ava';
import { elementsOf } from '../../testing/xml.js';
import { describeMachine } from '../report.js';
import { axisStep, escapeXml, fit } from '../svg.js';
import { startChart } from './chart.js';
import { parseEvents } from './containerd-events.js';
import { startPage } from './html.js';
import { middleRun, type StartReport } from './report.js';
import type { StartRun } from './start.js';

const run = (factor: number, requests = 3): StartRun => ({
  phases: { pull: 600 * factor, create: 30 * factor, run: 70 * factor, ready: 300 * factor },
  totalMs: 1000 * factor,
  connections: 2,
  bytes: 1_500_000,
  requests: Array.from({ length: requests }, (_, i) => ({
    connection: 1,
    method: 'GET',
    path: `/v2/a/blobs/sha256:${'0'.repeat(64)}?<"&'>`,
    range: 'bytes=0-9',
    agent: 'test/1',
    status: 206,
    bytes: 10,
    startMs: i * 10,
    firstByteMs: i % 2 === 0 ? i * 10 + 5 : undefined,
    endMs: undefined,
  })),
  memory: undefined,
  output: 'hello\n',
  notes: ['<a note>'],
});

const report: StartReport = {
  title: 'localhost/<app> & "more"',
  command: ['sh', '-c', 'echo \u0000 \ud800 ]]>'],
  network: '40ms,200mbit',
  engine: 'containerd',
  date: '2024-01-31T00:00:00Z',
  machine: describeMachine(),
  columns: [
    { name: 'full <pull>', image: 'a', runs: [run(10), run(12), run(8)] },
    { name: 'lazy', image: 'a', runs: [run(1, 500), run(0), run(1.5)] },
  ],
};

test('the chart is well formed, with a bar for each phase of each column, whatever the names are', (t) => {
  const chart = startChart(report);
  const elements = elementsOf(chart);
  // Background, a box of the legend for each phase, and the bars.
  t.is(elements.filter((name) => name === 'rect').length, 1 + 4 + 2 * 4);
  t.true(chart.includes('full &lt;pull&gt;'));
  t.true(chart.includes('10.0 s (1.000)') && chart.includes('1.00 s (0.100)'));
  t.regex(chart, /viewBox="0 0 860 \d+"/);
});

test('the page is whole in itself: no script, nothing from elsewhere, every request of the middle run', (t) => {
  const page = startPage(report);
  const body = page.slice(page.indexOf('<body>'));
  t.notThrows(() => elementsOf(body.slice(0, body.indexOf('</html>'))));
  t.notRegex(page, /<script|src=|href=|url\(/);
  t.true(page.includes('lazy: 500 requests') && page.includes('and 100 more'));
  t.true(page.includes('&lt;a note&gt;'));
});

test('the middle run is the median, and of an even number the quicker one', (t) => {
  t.is(middleRun([run(3), run(1), run(2)]).totalMs, 2000);
  t.is(middleRun([run(4), run(1), run(2), run(3)]).totalMs, 2000);
});

test('an axis has few steps, of round numbers', (t) => {
  t.deepEqual([1, 6, 7, 950, 12_000, 0.02].map(axisStep), [0.2, 1, 2, 200, 2000, 0.005]);
});

test('what is too long for its place loses its middle, and says so', (t) => {
  const title = `registry.example/a@sha256:${'0'.repeat(60)}abcd: from nothing to ready`;
  t.is(fit(title, 820, 17).length, 83);
  t.regex(fit(title, 820, 17), /^registry\.example\/a@sha256:0+…0+abcd: from nothing to ready$/);
  t.is(fit('lazylayer, optimized', 170, 13), 'lazylayer, optimized');
  const chart = startChart({
    ...report,
    title,
    columns: [{ name: 'a-snapshotter-of-a-very-long-name', runs: [run(1)] }],
  });
  t.true(chart.includes('a-snapsho') && chart.includes('…') && chart.includes(`<title>${title}`));
});

test('what XML cannot hold is replaced', (t) => {
  t.is(escapeXml('a\u0000\ud800<&>"\'é😀'), 'a??&lt;&amp;&gt;&quot;&#39;é😀');
});

test('events of containerd', (t) => {
  const text = [
    '2024-01-31 12:00:00.25 +0000 UTC default /containers/create {"id":"bench","image":"a"}',
    '2024-01-31 12:00:01 +0000 UTC default /tasks/start {"container_id":"bench","pid":7}',
    'ctr: something else',
    '2024-01-31 12:00:02.123456789 +0000 UTC default /tasks/exit {"container',
  ].join('\n');
  const start = Date.parse('2024-01-31T12:00:00Z');
  t.deepEqual(parseEvents(text), [
    { time: start + 250, topic: '/containers/create', container: 'bench' },
    { time: start + 1000, topic: '/tasks/start', container: 'bench' },
  ]);
});
