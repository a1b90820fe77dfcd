import { formatMilliseconds } from '../bench/duration.js';
import { phases } from '../bench/start/engine.js';
import { sources, type TraceReport } from '../bench/trace/report.js';
import { humanBytes, plural, table } from './text.js';

const shownStalls = 10;

/** The longest stalls, and the numbers of the whole. */
export function formatTrace(report: TraceReport): string {
  const { totals, stalls, files, stallMs, dropped } = report;
  const right = true;
  const columns = [
    { title: 'STALLED', right },
    { title: 'AT', right },
    { title: 'FROM' },
    { title: 'OFFSET', right },
    { title: 'BYTES', right },
    { title: 'FILE' },
  ];
  const rows = stalls
    .slice(0, shownStalls)
    .map(({ startMs, endMs, underWay, source, offset, length, file }) => [
      formatMilliseconds(endMs - startMs),
      formatMilliseconds(startMs),
      underWay ? `${source}, under way` : source,
      String(offset),
      String(length),
      printable(files[file].path),
    ]);
  const { ratio } = totals;
  const lengths = phases.map((phase) => `${phase} ${formatMilliseconds(report.phases[phase])}`).join(', ');
  const read = sources.map((source) => `${humanBytes(totals.bySource[source].bytes)} ${source}`).join(', ');
  const coming = totals.requestsUnderWay > 0 ? `, ${totals.requestsUnderWay} still under way` : '';
  const lines = [
    `ready after ${formatMilliseconds(report.totalMs)}: ${lengths}`,
    `${plural(stalls.length, 'stall')} of ${formatMilliseconds(stallMs)} and more; a read waited for ${formatMilliseconds(totals.waitedMs)} in all`,
    `read: ${humanBytes(totals.readBytes)} by ${plural(totals.reads, 'read')} of ${plural(files.length, 'file')} (${read})`,
    `fetched: ${humanBytes(totals.fetchedBytes)} by ${plural(totals.requests, 'request')}${coming}; what was read is ${humanBytes(totals.neededBytes)} compressed${ratio === undefined ? '' : ` (${ratio.toFixed(2)} times)`}`,
    ...(dropped > 0 ? [`left out, for there was no room: the ${dropped} oldest reads and requests`] : []),
  ];
  return `${rows.length > 0 ? `${table(columns, rows)}\n` : ''}${lines.join('\n')}\n`;
}

/** Names of files may hold anything, also what moves a terminal's cursor. */
const printable = (name: string) =>
  // eslint-disable-next-line no-control-regex
  name.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?');
