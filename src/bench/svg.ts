import { quoteCommand } from './report.js';

/** Text inside of XML, also as the value of an attribute. What XML cannot hold at all becomes a question mark. */
export function escapeXml(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  // eslint-disable-next-line no-control-regex
  const impossible = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ud800-\udfff\ufffe\uffff]/gu;
  return text.replace(impossible, '?').replace(/[&<>"']/g, (character) => entities[character]);
}

/** A command in a page: as it would be typed, or that it was the image's own. */
export function commandMarkup(command: readonly string[]): string {
  return command.length === 0 ? "the image's command" : `<code>${escapeXml(quoteCommand(command))}</code>`;
}

/** One bar: what it is of, its parts in the order of `parts`, and what is written behind it. */
export interface Bar {
  readonly label: string;
  readonly values: readonly number[];
  readonly note: string;
}

export interface ChartOptions {
  readonly title: string;
  readonly subtitle: string;
  /** Names of the parts, with their colours. */
  readonly parts: readonly { readonly name: string; readonly colour: string }[];
  /** Text of a value on the axis. */
  readonly format: (value: number) => string;
}

const width = 860;
const left = 190;
const plot = 480;
const barHeight = 26;
const rowHeight = 40;
const top = 92;

/** A step for an axis up to `most`, of 1, 2 or 5 and zeros, so that there are at most six. */
export function axisStep(most: number): number {
  const power = 10 ** Math.floor(Math.log10(most / 6));
  return power * ([1, 2, 5].find((factor) => most / (power * factor) <= 6) ?? 10);
}

/** As much of a text as has room in so many pixels: of its middle something is left out, since references differ at both ends. */
export function fit(text: string, pixels: number, fontPixels: number): string {
  const most = Math.floor(pixels / (fontPixels * WIDEST));
  if (text.length <= most) return text;
  const end = Math.floor((most - 1) / 2);
  return `${text.slice(0, most - 1 - end)}…${text.slice(text.length - end)}`;
}
/** Of a letter, in heights: more than most letters of a text without serifs have. */
const WIDEST = 0.58;

/** Horizontal bars of stacked parts, as a whole SVG document (SVG 1.1). */
export function stackedBars(bars: readonly Bar[], { title, subtitle, parts, format }: ChartOptions): string {
  const most = Math.max(...bars.map(({ values }) => values.reduce((sum, value) => sum + value, 0)), 0) || 1;
  const x = (value: number) => left + (value / most) * plot;
  const bottom = top + bars.length * rowHeight;
  const text = (at: number, y: number, content: string, more = '') =>
    `<text x="${round(at)}" y="${round(y)}" ${more}>${escapeXml(content)}</text>`;
  const lines: string[] = [];
  for (let value = 0, step = axisStep(most); value <= most * 1.0001; value += step) {
    lines.push(`<line x1="${round(x(value))}" x2="${round(x(value))}" y1="${top - 6}" y2="${bottom}" class="grid"/>`);
    lines.push(text(x(value), bottom + 16, format(value), 'class="axis" text-anchor="middle"'));
  }
  let legend = left;
  for (const { name, colour } of parts) {
    lines.push(`<rect x="${legend}" y="62" width="12" height="12" rx="2" fill="${colour}"/>`);
    lines.push(text(legend + 18, 72, name, 'class="axis"'));
    legend += 36 + name.length * 8;
  }
  for (const [row, { label, values, note }] of bars.entries()) {
    const y = top + row * rowHeight + (rowHeight - barHeight) / 2;
    lines.push(text(left - 12, y + barHeight / 2 + 4, fit(label, left - 20, 13), 'class="label" text-anchor="end"'));
    let before = 0;
    for (const [i, value] of values.entries()) {
      const { name, colour } = parts[i];
      const size = `x="${round(x(before))}" y="${round(y)}" width="${round(x(value) - left)}" height="${barHeight}"`;
      lines.push(
        `<rect ${size} fill="${colour}"><title>${escapeXml(`${label}, ${name}: ${format(value)}`)}</title></rect>`,
      );
      before += value;
    }
    lines.push(text(x(before) + 8, y + barHeight / 2 + 4, note, 'class="note"'));
  }
  const height = bottom + 32;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">`,
    `<title>${escapeXml(title)}</title>`,
    '<style>text{font-family:system-ui,sans-serif;fill:#24292f}.head{font-size:17px;font-weight:600}.label{font-size:13px}',
    '.axis,.sub{font-size:12px;fill:#57606a}.note{font-size:12px;font-weight:600}.grid{stroke:#d8dee4}</style>',
    `<rect width="${width}" height="${height}" rx="6" fill="#ffffff"/>`,
    text(20, 28, fit(title, width - 40, 17), 'class="head"'),
    text(20, 48, fit(subtitle, width - 40, 12), 'class="sub"'),
    ...lines,
    '</svg>',
    '',
  ].join('\n');
}

const round = (value: number) => Math.round(value * 10) / 10;
