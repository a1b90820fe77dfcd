import { formatMilliseconds } from '../duration.js';
import { formatMachine } from '../report.js';
import { phaseColours, seconds } from '../start/chart.js';
import { phases } from '../start/engine.js';
import { commandMarkup, escapeXml } from '../svg.js';
import { reasons, sources, type TraceReport } from './report.js';
import { sourceColours, timeline, reasonColours } from './timeline.js';

const style = `
body{font:15px/1.5 system-ui,sans-serif;color:#24292f;background:#f6f8fa;margin:0;padding:2rem}
section{background:#fff;border:1px solid #d8dee4;border-radius:8px;padding:1.2rem 1.5rem;margin:1rem 0}
h1{font-size:1.5rem;margin:0 0 .3rem}h2{font-size:1.1rem;margin:.2rem 0 .6rem}
p{margin:.2rem 0;color:#57606a}code{background:#eff1f3;border-radius:4px;padding:.1em .35em}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.25rem .7rem;border-bottom:1px solid #eaeef2;white-space:nowrap}
th{color:#57606a;font-weight:600;font-size:.85rem}
.name{text-align:left;font-family:ui-monospace,monospace;font-size:.85rem;white-space:pre-wrap;word-break:break-all}
.tables{display:flex;flex-wrap:wrap;gap:0 3rem}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .35em 0 1em}
.lanes{display:flex;margin-top:.8rem}.plot{flex:1;overflow-x:auto}
.plot svg{width:100%;display:block}.names svg{display:block}
#zoom4:checked~.lanes .plot svg{width:400%}#zoom16:checked~.lanes .plot svg{width:1600%}
.lanes text{font:10px ui-monospace,monospace;fill:#57606a}.lanes .head{font-weight:700;fill:#24292f}
.lanes .phase{fill:#fff;font-weight:700}.lanes line{stroke:#8c959f;stroke-dasharray:2 3}
.stall{stroke:#cf222e;stroke-width:2;paint-order:stroke}
`;

const shownRows = 200;

const number = (value: number): string => value.toLocaleString('en-US');

/** A page for people, complete in itself and without a script: when what was read and asked for, and what was waited for. */
export function tracePage(report: TraceReport): string {
  const { image, command, network, engine, date, machine, notes, stallMs } = report;
  const title = `${image}: what its start waited for`;
  return [
    '<!doctype html>',
    `<html lang="en"><head><meta charset="utf-8"><title>${escapeXml(title)}</title><style>${style}</style></head><body><main>`,
    `<h1>${escapeXml(image)}</h1>`,
    `<p>${commandMarkup(command)} through ${escapeXml(engine)}, ${escapeXml(network === undefined ? 'the network as it is' : `a network of ${network}`)}, ${escapeXml(date)}</p>`,
    `<p>${escapeXml(formatMachine(machine))}</p>`,
    ...notes.map((note) => `<p>${escapeXml(note)}</p>`),
    `<section><h2>Ready after ${seconds(report.totalMs)}</h2>${summary(report)}</section>`,
    `<section><h2>Timeline</h2>${legend(stallMs)}${timeline(report)}</section>`,
    `<section><h2>Stalls: reads of ${formatMilliseconds(stallMs)} and more</h2>${stalls(report)}</section>`,
    `<section><h2>Files by time waited</h2>${files(report)}</section>`,
    '</main></body></html>',
    '',
  ].join('\n');
}

type Cell = string | { readonly name: string };

function table(heads: readonly Cell[], rows: readonly (readonly Cell[])[]): string {
  const cell = (content: Cell, tag: string) =>
    typeof content === 'string'
      ? `<${tag}>${escapeXml(content)}</${tag}>`
      : `<${tag} class="name">${escapeXml(content.name)}</${tag}>`;
  const row = (cells: readonly Cell[], tag: string) =>
    `<tr>${cells.map((content) => cell(content, tag)).join('')}</tr>`;
  return `<div class="scroll"><table>${row(heads, 'th')}${rows.map((cells) => row(cells, 'td')).join('')}</table></div>`;
}

function summary({ totals, phases: lengths, dropped }: TraceReport): string {
  const { ratio } = totals;
  const coming = totals.requestsUnderWay > 0 ? `, ${number(totals.requestsUnderWay)} of them still under way,` : '';
  const lines = [
    `${phases.map((phase) => `${phase} ${formatMilliseconds(lengths[phase])}`).join(', ')}. For ${formatMilliseconds(totals.waitedMs)} of it a read waited for bytes that were not in the cache.`,
    `${number(totals.requests)} requests${coming} brought ${number(totals.fetchedBytes)} bytes. Of files, ${number(totals.readBytes)} bytes were read, for which ${number(totals.neededBytes)} compressed bytes were needed${ratio === undefined ? '' : `: ${ratio.toFixed(2)} times of that was fetched`}.`,
    'What the page cache gave is not seen; what the kernel read ahead counts as read.',
    ...(dropped > 0 ? [`Left out, for there was no room: the ${number(dropped)} oldest reads and requests.`] : []),
  ];
  const bySource = sources.map((source) => {
    const { reads, bytes } = totals.bySource[source];
    return [{ name: source }, number(reads), number(bytes)];
  });
  const byReason = reasons.map((reason) => {
    const { requests, bytes } = totals.byReason[reason];
    return [{ name: reason }, number(requests), number(bytes)];
  });
  return (
    `${lines.map((line) => `<p>${escapeXml(line)}</p>`).join('')}<div class="tables">` +
    `${table([{ name: 'bytes read from' }, 'reads', 'bytes'], bySource)}` +
    `${table([{ name: 'requests for' }, 'requests', 'bytes'], byReason)}</div>`
  );
}

function legend(stallMs: number): string {
  const key = (name: string, colour: string) => `<span class="key" style="background:${colour}"></span>${name}`;
  const zoom = (id: string, name: string, checked = '') =>
    `<input type="radio" name="zoom" id="${id}"${checked}/><label for="${id}">${name}</label>`;
  return (
    `<p>Phases:${phases.map((phase) => key(phase, phaseColours[phase])).join('')}</p>` +
    `<p>Requests, pale until the first byte:${reasons.map((reason) => key(reason, reasonColours[reason])).join('')}</p>` +
    `<p>Reads, by where the bytes came from:${sources.map((source) => key(source, sourceColours[source])).join('')}; framed in red from ${formatMilliseconds(stallMs)} on. "shared": another read had asked for them; "prefetch": nobody had.</p>` +
    `${zoom('zoom1', '1x', ' checked="checked"')}${zoom('zoom4', '4x')}${zoom('zoom16', '16x')}`
  );
}

function stalls(report: TraceReport): string {
  const shown = report.stalls.slice(0, shownRows);
  const rows = shown.map((read) => [
    formatMilliseconds(read.endMs - read.startMs),
    formatMilliseconds(read.startMs),
    read.underWay ? `${read.source}, under way` : read.source,
    number(read.offset),
    number(read.length),
    { name: report.files[read.file].path },
  ]);
  if (rows.length === 0) return '<p>None.</p>';
  return `${table(['took', 'at', 'from', 'offset', 'bytes', { name: 'file' }], rows)}${more(report.stalls.length)}`;
}

function files({ files, layers }: TraceReport): string {
  const rows = files
    .slice(0, shownRows)
    .map((file) => [
      formatMilliseconds(file.waitedMs),
      number(file.stalls),
      number(file.reads),
      number(file.readBytes),
      file.bytes === undefined ? '' : number(file.bytes),
      { name: layers[file.layer].digest.slice(0, 'sha256:'.length + 12) },
      { name: file.path },
    ]);
  const heads = ['waited', 'stalls', 'reads', 'bytes read', 'of bytes', { name: 'layer' }, { name: 'file' }];
  return `${table(heads, rows)}${more(files.length)}`;
}

const more = (all: number) => (all > shownRows ? `<p>and ${number(all - shownRows)} more</p>` : '');
