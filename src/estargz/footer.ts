import { FormatError } from '../errors.js';
import { bufferOf } from '../util/bytes.js';

/*
 * The footer is an empty gzip member whose extra field leads to the TOC:
 *
 *    0  10  gzip header: 1f 8b 08, flags 04 (FEXTRA), mtime, xfl, os
 *   10   2  XLEN, little-endian
 *   12      extra field
 *           eStargz   26: 'S' 'G', 22 (u16 LE), 16 lower-case hex digits of the TOC member's offset, "STARGZ"
 *           stargz    22: the 16 digits and "STARGZ", without a subfield header
 *           external  21: 'S' 'G', 17 (u16 LE), "STARGZEXTERNALTOC": the TOC lies in another image
 *        5  deflate: one empty stored block, final: 01 00 00 ff ff
 *        8  CRC-32 and length, zero
 */
export type FooterKind = 'estargz' | 'stargz' | 'external';

export const FOOTER_BYTES: Readonly<Record<FooterKind, number>> = { estargz: 51, stargz: 47, external: 46 };

export interface Footer {
  readonly kind: FooterKind;
  /** Byte in the blob where the TOC's gzip member begins, or where the footer does when the TOC is external: content ends here. */
  readonly tocOffset: number;
}

/** The footer's bytes. `tocOffset` is not used for an external TOC. */
export function encodeFooter(kind: FooterKind, tocOffset = 0): Buffer {
  const place = `${tocOffset.toString(16).padStart(16, '0')}STARGZ`;
  const extra = kind === 'estargz' ? `SG\x16\0${place}` : kind === 'stargz' ? place : 'SG\x11\0STARGZEXTERNALTOC';
  const footer = Buffer.alloc(FOOTER_BYTES[kind]);
  footer.write('\x1f\x8b\x08\x04\0\0\0\0\0\xff', 0, 'latin1');
  footer.writeUInt16LE(extra.length, 10);
  footer.write(extra, 12, 'latin1');
  footer.write('\x01\0\0\xff\xff', 12 + extra.length, 'latin1');
  return footer;
}

/**
 * The footer at the end of `tail`, the last bytes of a blob of `blobSize` bytes; undefined where there is none, so that the
 * blob is no eStargz.
 * @throws FormatError for a footer that points outside the blob
 */
export function parseFooter(tail: Uint8Array, blobSize: number): Footer | undefined {
  for (const kind of ['estargz', 'stargz', 'external'] as const) {
    const length = FOOTER_BYTES[kind];
    if (tail.byteLength < length) continue;
    const found = bufferOf(tail, tail.byteLength - length);
    const end = blobSize - length;
    if (kind === 'external') {
      if (matches(found, encodeFooter(kind))) return { kind, tocOffset: end };
      continue;
    }
    const digits = found.toString('latin1', length - 35, length - 19);
    if (!/^[0-9a-f]{16}$/.test(digits)) continue;
    const tocOffset = Number.parseInt(digits, 16);
    if (tocOffset < end && matches(found, encodeFooter(kind, tocOffset))) return { kind, tocOffset };
    if (tocOffset >= end && matches(found, footerWith(kind, digits)))
      throw new FormatError('eStargz footer', {
        offset: end,
        expected: `a TOC offset below ${end}`,
        found: `0x${digits}`,
      });
  }
  return undefined;
}

function footerWith(kind: FooterKind, digits: string): Buffer {
  const footer = encodeFooter(kind);
  footer.write(digits, footer.byteLength - 35, 'latin1');
  return footer;
}

/** Equal but for mtime, xfl and os, which say nothing. */
function matches(found: Buffer, expected: Buffer): boolean {
  return found.compare(expected, 0, 4, 0, 4) === 0 && found.compare(expected, 10, undefined, 10) === 0;
}
