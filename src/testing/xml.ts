/** Names of all elements, in order. @throws Error where a document is not well formed */
export function elementsOf(xml: string): string[] {
  const open: string[] = [];
  const all: string[] = [];
  const token = /<(\/?)([a-z][a-z0-9]*)((?: [a-zA-Z][a-zA-Z0-9:-]*="[^"<]*")*)(\/?)>|([^<]+)/gy;
  for (let at = 0; at < xml.length; at = token.lastIndex) {
    token.lastIndex = at;
    const found = token.exec(xml);
    if (found === null) throw new Error(`not well formed at ${at}: ${xml.slice(at, at + 60)}`);
    const [, closes, name, attributes, empty, text] = found;
    if (/&(?!(amp|lt|gt|quot|#39);)/.test(text ?? attributes)) throw new Error(`a bare & in ${text ?? attributes}`);
    if (name === undefined) continue;
    if (closes === '/') {
      if (open.pop() !== name) throw new Error(`</${name}> ends something else`);
    } else {
      all.push(name);
      if (empty !== '/') open.push(name);
    }
  }
  if (open.length > 0) throw new Error(`<${open.join('> <')}> do not end`);
  return all;
}
