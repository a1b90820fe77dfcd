import { formatMachine } from '../report.js';
import { commandMarkup, escapeXml } from '../svg.js';
import { phaseColours, seconds, startChart } from './chart.js';
import { phases } from './engine.js';
import { megabytes, middleRun, startHeads, startRows, type StartReport } from './report.js';
import type { CandidateRuns, RunRequest } from './start.js';

const style = `
body{font:15px/1.5 system-ui,sans-serif;color:#24292f;background:#f6f8fa;margin:0;padding:2rem}
main{max-width:1060px;margin:auto}
section{background:#fff;border:1px solid #d8dee4;border-radius:8px;padding:1.2rem 1.5rem;margin:1rem 0;overflow-x:auto}
h1{font-size:1.5rem;margin:0 0 .3rem}h2{font-size:1.1rem;margin:.2rem 0 .6rem}
p{margin:.2rem 0;color:#57606a}code{background:#eff1f3;border-radius:4px;padding:.1em .35em}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.3rem .6rem;border-bottom:1px solid #eaeef2;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:#57606a;font-weight:600;font-size:.85rem}
svg{max-width:100%;height:auto;display:block}
.fall text{font:10px ui-monospace,monospace;fill:#57606a}.fall line{stroke:#d8dee4}
`;

/** A page for people, complete in itself: chart, figures, and what was asked of the registry when. */
export function startPage(report: StartReport): string {
  const { title, command, network, engine, date, machine, columns } = report;
  return [
    '<!doctype html>',
    `<html lang="en"><head><meta charset="utf-8"><title>${escapeXml(title)}</title><style>${style}</style></head><body><main>`,
    `<h1>${escapeXml(title)}</h1>`,
    `<p>${commandMarkup(command)} through ${escapeXml(engine)}, ${escapeXml(network ?? 'loopback as it is')}, ${escapeXml(date)}</p>`,
    `<p>${escapeXml(formatMachine(machine))}</p>`,
    `<section>${startChart(report)}</section>`,
    `<section><h2>Medians of ${columns[0].runs.length}</h2>${figures(columns)}</section>`,
    ...columns.map((column) => requestsOf(column)),
    '</main></body></html>',
    '',
  ].join('\n');
}

function figures(columns: readonly CandidateRuns[]): string {
  const rows = startRows(columns, seconds, megabytes);
  const row = (cells: readonly string[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeXml(cell)}</${tag}>`).join('')}</tr>`;
  return `<table>${row(['', ...startHeads], 'th')}${rows.map((cells) => row(cells, 'td')).join('')}</table>`;
}

const lineHeight = 14;
const plotLeft = 330;
const plotWidth = 620;
const shownRequests = 400;

/** A waterfall of the requests of the run in the middle. */
function requestsOf({ name, runs }: CandidateRuns): string {
  const run = middleRun(runs);
  const shown = run.requests.slice(0, shownRequests);
  const x = (ms: number) => plotLeft + (Math.max(0, ms) / run.totalMs) * plotWidth;
  const lines = shown.map((request, i) => {
    const y = 20 + i * lineHeight;
    const end = request.endMs ?? run.totalMs;
    const first = request.firstByteMs ?? end;
    const bar = (from: number, to: number, colour: string) =>
      `<rect x="${x(from).toFixed(1)}" y="${y + 2}" width="${Math.max(1, x(to) - x(from)).toFixed(1)}" height="10" fill="${colour}"/>`;
    return (
      `<g><title>${escapeXml(describe(request))}</title><text x="0" y="${y + 10}">${escapeXml(shortName(request))}</text>` +
      `${bar(request.startMs, first, '#afb8c1')}${bar(first, end, phaseColours.pull)}</g>`
    );
  });
  const height = 24 + shown.length * lineHeight;
  let at = 0;
  const ends = phases.map((phase) => {
    at += run.phases[phase];
    const line = `<line x1="${x(at).toFixed(1)}" x2="${x(at).toFixed(1)}" y1="14" y2="${height}"/>`;
    return `${line}<text x="${x(at).toFixed(1)}" y="10" text-anchor="end">${phase} ${seconds(at)}</text>`;
  });
  const notes = run.notes.map((note) => `<p>${escapeXml(note)}</p>`).join('');
  const more = run.requests.length > shown.length ? `<p>and ${run.requests.length - shown.length} more</p>` : '';
  return (
    `<section><h2>${escapeXml(name)}: ${run.requests.length} requests</h2>` +
    '<p>Grey: asked and waiting. Blue: the answer arrives. Lines: where a phase ends.</p>' +
    `${notes}<svg class="fall" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 ${height}" width="960" height="${height}">` +
    `${ends.join('')}${lines.join('')}</svg>${more}</section>`
  );
}

function shortName({ method, path, range, agent }: RunRequest): string {
  const what = /\/(manifests|blobs)\/(?:sha256:)?([^/?]{1,8})/.exec(path);
  const who = (agent ?? '').split('/')[0].slice(0, 10);
  return `${who} ${method} ${what === null ? path.slice(0, 20) : `${what[1]} ${what[2]}`} ${range?.replace('bytes=', '') ?? ''}`;
}

function describe({
  method,
  path,
  range,
  agent,
  status,
  bytes,
  startMs,
  firstByteMs,
  endMs,
  connection,
}: RunRequest): string {
  const ms = (value: number | undefined) => (value === undefined ? '-' : `${Math.round(value)} ms`);
  return `${method} ${path} ${range ?? ''}\n${agent ?? ''}, connection ${connection}\n${status}, ${bytes} bytes: asked ${ms(startMs)}, first byte ${ms(firstByteMs)}, end ${ms(endMs)}`;
}
