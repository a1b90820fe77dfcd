import { LazylayerError } from '../errors.js';
import { isWord, parseRegexp, type Assertion, type CharacterClass, type Node } from './regexp-syntax.js';

export interface Regexp {
  /** Whether it matches anywhere in the text. Time in proportion to the length of the expression times that of the text. */
  matches(text: string): boolean;
}

interface Split {
  readonly op: 'split';
  readonly first: number;
  second: number;
}

interface Jump {
  readonly op: 'jump';
  to: number;
}

type Instruction =
  | { readonly op: 'class'; readonly takes: CharacterClass }
  | { readonly op: 'assertion'; readonly assertion: Assertion }
  | Split
  | Jump
  | { readonly op: 'match' };

/** So that matching a label of 4 KiB stays in the milliseconds. */
const maxSteps = 4000;

/**
 * Regular expressions in RE2's syntax, which containerd's filters use. All ways to match are followed at once, a character at a time
 * (Thompson's construction), so that no expression takes exponential time, as it may in the language's own engine.
 * @throws INVALID_ARGUMENT for one that cannot be read, or is too large
 */
export function compileRegexp(text: string): Regexp {
  const program = new Compiler().compile(parseRegexp(text));
  return { matches: (subject) => run(program, subject) };
}

class Compiler {
  readonly #program: Instruction[] = [];
  #steps = 0;

  compile(node: Node): readonly Instruction[] {
    this.#emit(node);
    this.#program.push({ op: 'match' });
    return this.#program;
  }

  #emit(node: Node): void {
    // Counted here, because repetitions of nothing grow no program and take their time all the same.
    if (++this.#steps > maxSteps)
      throw new LazylayerError(
        'INVALID_ARGUMENT',
        `regular expression: expected at most ${maxSteps} steps with its repetitions written out`,
      );
    switch (node.type) {
      case 'class':
        this.#program.push({ op: 'class', takes: node.takes });
        return;
      case 'assertion':
        this.#program.push({ op: 'assertion', assertion: node.assertion });
        return;
      case 'sequence':
        for (const part of node.nodes) this.#emit(part);
        return;
      case 'alternatives': {
        const ends: Jump[] = [];
        for (const part of node.nodes.slice(0, -1)) {
          const split = this.#split();
          this.#emit(part);
          ends.push(this.#jump(0));
          split.second = this.#program.length;
        }
        this.#emit(node.nodes[node.nodes.length - 1]);
        for (const end of ends) end.to = this.#program.length;
        return;
      }
      case 'repeat':
        return this.#emitRepeat(node.node, node.min, node.max);
    }
  }

  #emitRepeat(node: Node, min: number, max: number): void {
    for (let i = 0; i < min; i++) this.#emit(node);
    const skips: Split[] = [];
    if (max === Infinity) {
      const loop = this.#program.length;
      skips.push(this.#split());
      this.#emit(node);
      this.#jump(loop);
    } else
      for (let i = min; i < max; i++) {
        skips.push(this.#split());
        this.#emit(node);
      }
    for (const skip of skips) skip.second = this.#program.length;
  }

  /** Goes on with the next instruction, and wherever `second` is set to. */
  #split(): Split {
    const split: Split = { op: 'split', first: this.#program.length + 1, second: 0 };
    this.#program.push(split);
    return split;
  }

  #jump(to: number): Jump {
    const jump: Jump = { op: 'jump', to };
    this.#program.push(jump);
    return jump;
  }
}

function run(program: readonly Instruction[], text: string): boolean {
  const points = Array.from(text, (c) => c.codePointAt(0)!);
  /** At which position an instruction was last reached: each is followed once a position. */
  const reached = new Int32Array(program.length).fill(-1);
  let current: number[] = [];
  for (let at = 0; at <= points.length; at++) {
    const waiting: number[] = [];
    current.push(0); // a match may begin anywhere
    for (let next = current.pop(); next !== undefined; next = current.pop()) {
      if (reached[next] === at) continue;
      reached[next] = at;
      const instruction = program[next];
      switch (instruction.op) {
        case 'match':
          return true;
        case 'jump':
          current.push(instruction.to);
          break;
        case 'split':
          current.push(instruction.second, instruction.first);
          break;
        case 'assertion':
          if (holds(instruction.assertion, points, at)) current.push(next + 1);
          break;
        case 'class':
          if (at < points.length && instruction.takes(points[at])) waiting.push(next + 1);
      }
    }
    current = waiting;
  }
  return false;
}

function holds(assertion: Assertion, points: readonly number[], at: number): boolean {
  switch (assertion) {
    case 'text start':
      return at === 0;
    case 'text end':
      return at === points.length;
    case 'line start':
      return at === 0 || points[at - 1] === 10;
    case 'line end':
      return at === points.length || points[at] === 10;
    default: {
      const before = at > 0 && isWord(points[at - 1]);
      const after = at < points.length && isWord(points[at]);
      return (before !== after) === (assertion === 'word boundary');
    }
  }
}
