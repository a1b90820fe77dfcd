import { codeOf, describeError } from '../errors.js';
import { RegistryError } from '../registry/errors.js';

/** What a person can do about an error that the message itself does not say. */
export function hintFor(error: unknown): string | undefined {
  const code = codeOf(error);
  const text = describeError(error);
  if (error instanceof RegistryError && (code === 'UNAUTHENTICATED' || code === 'PERMISSION_DENIED')) {
    const host = URL.canParse(error.url) ? ` ${new URL(error.url).host}` : '';
    return `a private image needs a login, such as by \`docker login${host}\` or \`podman login${host}\`; names are case-sensitive`;
  }
  if (code === 'PERMISSION_DENIED' && /EACCES: .*, (mkdir '|open '.*\/lock')/.test(text))
    return '--root DIR, or the variable LAZYLAYER_ROOT, names a directory that you can write to';
  if (/wrong version number|packet length too long|EPROTO/.test(text))
    return 'the registry seems to speak plain HTTP: say server = "http://HOST" under [registry.hosts."HOST"] in config.toml';
  if (/self.signed certificate|unable to verify the first certificate|unable to get local issuer/i.test(text))
    return 'name the certificate authority: ca = "/path/to/ca.pem" under [registry.hosts."HOST"] in config.toml, or in certs.d/HOST/hosts.toml';
  if (code === 'BUSY' && /in use|busy/i.test(text) && !/--(lazy|root)/.test(text))
    return '`fuser -vm DIR` shows who uses it; `lazylayer umount --lazy DIR` takes it away in any case';
  return undefined;
}
