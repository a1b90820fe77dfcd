import type { ReadSource } from '../../layer/chunk-fetcher.js';
import { phaseColours, seconds } from '../start/chart.js';
import { phases } from '../start/engine.js';
import { axisStep, escapeXml } from '../svg.js';
import type { ReportedRead, ReportedRequest, Span, TraceReport } from './report.js';

export const sourceColours: Readonly<Record<ReadSource, string>> = {
  network: '#0969da',
  shared: '#54aeff',
  prefetch: '#8250df',
  cache: '#1a7f37',
};

export const reasonColours: Readonly<Record<ReportedRequest['reason'], string>> = {
  toc: '#bf8700',
  demand: '#0969da',
  prefetch: '#8250df',
  background: '#8c959f',
  whole: '#bc4c00',
  other: '#57606a',
};

const rowHeight = 14;
const namesWidth = 360;
const nameLength = 56;
/** Files with a lane of their own: those that were waited for longest. */
const shownFiles = 300;
/** Parts of the width within which reads from the cache are drawn as one. */
const grains = 2000;

/** One line of the picture. */
interface Lane {
  readonly name: string;
  readonly about: string;
  readonly head: boolean;
  readonly marks: string;
}

/** Lanes one below the other over one axis of time: phases, requests, and for each layer its files, by when they were first read. */
export function timeline(report: TraceReport): string {
  const lanes = [axisLane(report), phaseLane(report), ...requestLanes(report), ...fileLanes(report)];
  const height = lanes.length * rowHeight;
  const rows = lanes.map(({ head }, i) => {
    const fill = head ? 'd8dee4' : i % 2 === 1 ? 'f6f8fa' : 'ffffff';
    return `<rect x="0" y="${i * rowHeight}" width="100%" height="${rowHeight}" fill="#${fill}"/>`;
  });
  const names = lanes.map(
    ({ name, about, head }, i) =>
      `<text x="2" y="${i * rowHeight + 10}"${head ? ' class="head"' : ''}>${escapeXml(shorten(name))}<title>${escapeXml(about)}</title></text>`,
  );
  const marks = lanes.map(({ marks }, i) => `<svg y="${i * rowHeight}" height="${rowHeight}">${marks}</svg>`);
  return (
    `<div class="lanes"><div class="names"><svg xmlns="http://www.w3.org/2000/svg" width="${namesWidth}" height="${height}">` +
    `${rows.join('')}${names.join('')}</svg></div><div class="plot">` +
    `<svg xmlns="http://www.w3.org/2000/svg" height="${height}" role="img">${rows.join('')}${phaseEnds(report)}${marks.join('')}</svg></div></div>`
  );
}

/** The end of a path tells more than its beginning. */
const shorten = (name: string) => (name.length > nameLength ? `…${name.slice(1 - nameLength)}` : name);

const percent = (ms: number, { totalMs }: TraceReport) =>
  `${((Math.min(Math.max(0, ms), totalMs) / totalMs) * 100).toFixed(3)}%`;

function bar(span: Span, report: TraceReport, colour: string, more = ''): string {
  const begin = Math.max(0, span.startMs);
  // At least as wide as can be seen.
  const length = Math.max(Math.min(span.endMs, report.totalMs) - begin, report.totalMs / grains);
  return `<rect x="${percent(begin, report)}" y="2" width="${percent(length, report)}" height="10" fill="${colour}"${more}/>`;
}

const titled = (marks: string, title: string) => `<g>${marks}<title>${escapeXml(title)}</title></g>`;

function axisLane(report: TraceReport): Lane {
  const step = axisStep(report.totalMs) / 2;
  const marks: string[] = [];
  for (let ms = 0; ms < report.totalMs; ms += step)
    marks.push(`<text x="${percent(ms, report)}" dx="2" y="10">${seconds(ms)}</text>`);
  return { name: '', about: 'time since the image was asked for', head: false, marks: marks.join('') };
}

function phaseLane(report: TraceReport): Lane {
  let at = 0;
  const marks = phases.map((phase) => {
    const span = { startMs: at, endMs: at + report.phases[phase] };
    at = span.endMs;
    const about = `${phase}: ${Math.round(span.startMs)} to ${Math.round(span.endMs)} ms`;
    const wide = report.phases[phase] > report.totalMs / 20;
    const text = wide ? `<text x="${percent(span.startMs, report)}" dx="4" y="10" class="phase">${phase}</text>` : '';
    return titled(`${bar(span, report, phaseColours[phase])}${text}`, about);
  });
  return { name: 'phases', about: 'phases', head: true, marks: marks.join('') };
}

function phaseEnds(report: TraceReport): string {
  let at = 0;
  return phases
    .map((phase) => {
      const x = percent((at += report.phases[phase]), report);
      return `<line x1="${x}" x2="${x}" y1="0" y2="100%"/>`;
    })
    .join('');
}

/** As many lanes as there were requests at once. */
function requestLanes(report: TraceReport): Lane[] {
  const lanes: { freeAt: number; marks: string[] }[] = [];
  for (const request of report.requests) {
    let lane = lanes.find(({ freeAt }) => freeAt <= request.startMs);
    if (lane === undefined) lanes.push((lane = { freeAt: 0, marks: [] }));
    lane.freeAt = request.endMs;
    const colour = reasonColours[request.reason];
    const first = request.firstByteMs ?? request.endMs;
    const waiting = bar({ startMs: request.startMs, endMs: first }, report, colour, ' fill-opacity="0.35"');
    const coming = bar({ startMs: first, endMs: request.endMs }, report, colour);
    lane.marks.push(titled(waiting + coming, describeRequest(request)));
  }
  return lanes.map(({ marks }, i) => ({
    name: i === 0 ? `requests to the registry (${report.requests.length})` : '',
    about: 'requests that were under way at the same time are in lanes of their own',
    head: false,
    marks: marks.join(''),
  }));
}

function describeRequest(request: ReportedRequest) {
  const { url, range, blob, reason, status, bytes, startMs, firstByteMs, endMs, underWay } = request;
  const first = firstByteMs === undefined ? 'no answer' : `first byte after ${Math.round(firstByteMs - startMs)} ms`;
  return (
    `${reason} ${range ?? ''}\n${blob ?? ''}\n${url}\n${status ?? ''}, ${bytes} bytes\n` +
    `at ${Math.round(startMs)} ms, ${first}, ${underWay ? 'still under way' : 'end'} after ${Math.round(endMs - startMs)} ms`
  );
}

function fileLanes(report: TraceReport): Lane[] {
  const byFile = new Map<number, ReportedRead[]>();
  for (const read of report.reads) {
    const others = byFile.get(read.file);
    if (others === undefined) byFile.set(read.file, [read]);
    else others.push(read);
  }
  const lanes: Lane[] = [];
  for (const [layer, { digest, bytes }] of report.layers.entries()) {
    const about = `${digest}${bytes === undefined ? '' : `, ${bytes.toLocaleString('en-US')} bytes`}`;
    lanes.push({ name: `layer ${digest.slice(0, 19)}`, about, head: true, marks: '' });
    const others: ReportedRead[] = [];
    // Reads are in order, so files are by when they were first read.
    for (const [file, reads] of byFile) {
      if (report.files[file].layer !== layer) continue;
      const { path } = report.files[file];
      if (file < shownFiles) lanes.push({ name: path, about: path, head: false, marks: readMarks(reads, report) });
      else others.push(...reads);
    }
    others.sort((a, b) => a.startMs - b.startMs);
    if (others.length > 0)
      lanes.push({ name: 'other files', about: 'other files', head: false, marks: readMarks(others, report) });
  }
  return lanes;
}

/** Reads from the cache that lie close are one mark. */
function readMarks(reads: readonly ReportedRead[], report: TraceReport): string {
  const marks: string[] = [];
  let cached: ReportedRead[] = [];
  const flush = () => {
    if (cached.length === 0) return;
    const span = { startMs: cached[0].startMs, endMs: Math.max(...cached.map(({ endMs }) => endMs)) };
    const bytes = cached.reduce((sum, { length }) => sum + length, 0);
    const about =
      cached.length === 1
        ? describeRead(report, cached[0])
        : `${nameOf(cached, report)}\n${cached.length} reads of ${bytes} bytes, cache\nat ${Math.round(span.startMs)} ms`;
    marks.push(titled(bar(span, report, sourceColours.cache), about));
    cached = [];
  };
  for (const read of reads) {
    const stalled = read.endMs - read.startMs >= report.stallMs;
    if (read.source === 'cache' && !stalled) {
      if (cached.length > 0 && read.startMs - cached[0].startMs > report.totalMs / grains) flush();
      cached.push(read);
      continue;
    }
    const mark = bar(read, report, sourceColours[read.source], stalled ? ' class="stall"' : '');
    marks.push(titled(mark, describeRead(report, read)));
  }
  flush();
  return marks.join('');
}

function nameOf(reads: readonly ReportedRead[], { files }: TraceReport): string {
  return reads.every(({ file }) => file === reads[0].file) ? files[reads[0].file].path : 'several files';
}

function describeRead({ files }: TraceReport, read: ReportedRead): string {
  const { file, offset, length, source, startMs, endMs, failed, underWay } = read;
  const took = endMs - startMs;
  return (
    `${files[file].path}\n${length} bytes at ${offset}, ${source}${failed ? ', failed' : ''}\n` +
    `at ${Math.round(startMs)} ms, ${underWay ? 'still under way after' : 'took'} ${took < 10 ? took.toFixed(1) : Math.round(took)} ms`
  );
}
