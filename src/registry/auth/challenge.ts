export interface Challenge {
  /** In lower case: `basic`, `bearer`. */
  readonly scheme: string;
  readonly parameters: Readonly<Record<string, string>>;
}

const token = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
const schemePattern = new RegExp(`${token}(?=$|[ \\t,])`, 'y');
const parameterPattern = new RegExp(
  `[ \\t]*(${token})[ \\t]*=[ \\t]*(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s",]+))[ \\t]*`,
  'y',
);
const gapPattern = /[ \t,]*/y;

/**
 * Reads a WWW-Authenticate header, which may hold several challenges (RFC 9110, 11.6.1). What does not fit the grammar ends the
 * list: the challenges before it count.
 */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = [];
  let at = 0;
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    const match = pattern.exec(header);
    if (match !== null) at = pattern.lastIndex;
    return match;
  };
  for (;;) {
    take(gapPattern);
    const scheme = take(schemePattern);
    if (scheme === null) return challenges;
    const parameters: Record<string, string> = {};
    challenges.push({ scheme: scheme[0].toLowerCase(), parameters });
    for (;;) {
      take(gapPattern);
      const parameter = take(parameterPattern);
      if (parameter === null) break;
      Object.defineProperty(parameters, parameter[1].toLowerCase(), {
        value: parameter[2]?.replace(/\\(.)/g, '$1') ?? parameter[3],
        enumerable: true,
        configurable: true,
      });
    }
  }
}
