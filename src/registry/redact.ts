/**
 * A URL as it may be shown: without user, password and fragment, and with every query value but the namespace replaced, because
 * signed URLs of object storage carry their secret there.
 */
export function redactUrl(url: string | URL): string {
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    return '(not a URL)';
  }
  const query = [...parsed.searchParams].map(([name, value]) =>
    name === 'ns' ? `ns=${encodeURIComponent(value)}` : `${encodeURIComponent(name)}=redacted`,
  );
  return `${parsed.protocol}//${parsed.host}${parsed.pathname}${query.length > 0 ? `?${query.join('&')}` : ''}`;
}

/** Removes what looks like a secret from text that a server wrote: URLs are redacted, token-like runs cut out. */
export function redactText(text: string): string {
  return text
    .replace(/\b[a-z][a-z0-9+.-]*:\/\/[^\s"'<>\\]+/gi, (url) => redactUrl(url))
    .replace(/\b(basic|bearer)\s+[^\s,;"']+/gi, '$1 redacted')
    .replace(/\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?/g, 'redacted');
}
