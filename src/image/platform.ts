import { arch, platform as osName } from 'node:process';
import { LazylayerError } from '../errors.js';
import type { Descriptor } from './descriptor.js';

/** What a manifest is made for, in Go's words (OCI image-spec, image-index.md). */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
  readonly 'os.version'?: string;
  readonly 'os.features'?: readonly string[];
}

const architectures: Readonly<Record<string, { architecture: string; variant?: string }>> = {
  i386: { architecture: '386' },
  ia32: { architecture: '386' },
  x64: { architecture: 'amd64' },
  x86_64: { architecture: 'amd64' },
  'x86-64': { architecture: 'amd64' },
  aarch64: { architecture: 'arm64' },
  armhf: { architecture: 'arm', variant: 'v7' },
  armel: { architecture: 'arm', variant: 'v6' },
};

/** `linux/arm64/v8`, `linux/amd64`; `arm64` alone means this host's system. @throws INVALID_ARGUMENT */
export function parsePlatform(text: string): Platform {
  const parts = text.toLowerCase().split('/');
  if (parts.length > 3 || parts.some((p) => !/^[a-z0-9_.-]+$/.test(p)))
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `platform: expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, found ${JSON.stringify(text)}`,
    );
  const [os, architecture, variant] = parts.length === 1 ? [osName, parts[0]] : parts;
  return normalize({ os, architecture, ...(variant !== undefined && { variant }) });
}

export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant } = platform;
  return variant === undefined ? `${os}/${architecture}` : `${os}/${architecture}/${variant}`;
}

/** The platform this process runs on. */
export function hostPlatform(): Platform {
  return normalize({ os: osName, architecture: arch });
}

/** One spelling of what has several: arm64 for arm64/v8, amd64 for amd64/v1, arm/v7 for arm. */
function normalize(platform: Platform): Platform {
  const known = architectures[platform.architecture];
  const architecture = known?.architecture ?? platform.architecture;
  let variant = platform.variant === undefined || platform.variant === '' ? known?.variant : platform.variant;
  if (variant !== undefined && /^\d+$/.test(variant)) variant = `v${variant}`;
  if (architecture === 'arm') variant ??= 'v7';
  if ((architecture === 'arm64' && variant === 'v8') || (architecture === 'amd64' && variant === 'v1'))
    variant = undefined;
  return {
    os: platform.os === 'macos' ? 'darwin' : platform.os,
    architecture,
    ...(variant !== undefined && { variant }),
  };
}

const lowestVariants: Readonly<Record<string, number>> = { arm: 5, arm64: 8, amd64: 1 };
/** What a 64-bit processor runs when the image was not made for it. */
const narrower: Readonly<Record<string, { architecture: string; variant?: string }>> = {
  amd64: { architecture: '386' },
  arm64: { architecture: 'arm', variant: 'v8' },
};

/**
 * The platforms that run on `wanted`, the best first, by containerd's rules: an older variant runs on a newer processor (arm/v6 on
 * arm/v7, amd64 on amd64/v3), never the other way round; last the 32-bit architecture of a 64-bit processor.
 */
function candidates(wanted: Platform): Platform[] {
  const exact = normalize(wanted);
  const { os, architecture, variant } = exact;
  const lowest = lowestVariants[architecture];
  const level = /^v(\d{1,2})$/.exec(variant ?? `v${lowest}`);
  const all = [exact];
  if (level !== null)
    for (let n = Number(level[1]) - 1; n >= lowest; n--) all.push(normalize({ os, architecture, variant: `v${n}` }));
  const narrow = narrower[architecture];
  return narrow === undefined ? all : [...all, ...candidates({ os, ...narrow })];
}

/**
 * The descriptor that fits `wanted` best, or undefined. Among equals the first in the index wins. Descriptors without a platform
 * fit nothing, nor do attestations, whose platform is `unknown/unknown`.
 */
export function matchPlatform<D extends Pick<Descriptor, 'platform'>>(
  descriptors: readonly D[],
  wanted: Platform,
): D | undefined {
  for (const candidate of candidates(wanted)) {
    const found = descriptors.find((d) => {
      if (d.platform === undefined) return false;
      const { os, architecture, variant } = normalize(d.platform);
      return os === candidate.os && architecture === candidate.architecture && variant === candidate.variant;
    });
    if (found !== undefined) return found;
  }
  return undefined;
}
