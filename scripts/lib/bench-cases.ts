/** One layer of a made image: what a container file says of it, in one step. */
export interface Recipe {
  readonly name: string;
  /** Steps above the Debian base, each one a layer. */
  readonly steps: readonly string[];
}

/** A workload whose start is measured, with the ratios to a full pull in the same run that are wanted. */
export interface BenchCase {
  readonly name: string;
  readonly title: string;
  /** Repository of the image that it runs in. */
  readonly image: string;
  readonly command: readonly string[];
  /** A line of its output, so that a start that failed counts as none. */
  readonly says: string;
  readonly wanted: { readonly lazy: number; readonly optimized: number };
  readonly wantedRequests?: { readonly lazy: number; readonly optimized: number };
}

const install = (...packages: string[]) =>
  `RUN apt-get update && apt-get install --yes --no-install-recommends ${packages.join(' ')} && rm -rf /var/lib/apt/lists/*`;

const python = install('python3');
const application =
  "RUN mkdir -p /srv/app && printf '%s\\n' 'import numpy' 'print(numpy.arange(10).sum())' >/srv/app/main.py";
const sources =
  'RUN mkdir -p /srv/app && cd /srv/app && ' +
  "printf '%s\\n' 'public class Hello { public static void main(String[] a) { System.out.println(\"hello\"); } }' >Hello.java && " +
  "printf '%s\\n' '#include <stdio.h>' '#include <stdlib.h>' 'int main(void) { puts(\"hello\"); return EXIT_SUCCESS; }' >hello.c && " +
  'javac Hello.java';

/** Images as people make them: packages by apt, one step a layer, the application on top. */
export const recipes: readonly Recipe[] = [
  { name: 'python', steps: [python] },
  {
    name: 'numpy',
    steps: [
      python,
      install('ca-certificates', 'tzdata'),
      install('python3-numpy'),
      install('python3-requests', 'python3-yaml'),
      application,
    ],
  },
  {
    name: 'java',
    steps: [install('openjdk-17-jdk-headless'), install('gcc', 'g++', 'libc6-dev', 'make'), sources],
  },
];

/** Bytes that may be fetched, in compressed bytes of what the command reads. */
export const wantedBytes = 1.5;

export const benchCases: readonly BenchCase[] = [
  {
    name: 'python',
    title: 'python hello',
    image: 'python',
    command: ['python3', '-c', 'print("hello")'],
    says: 'hello',
    wanted: { lazy: 0.12, optimized: 0.075 },
  },
  {
    name: 'numpy',
    title: 'import numpy',
    image: 'numpy',
    command: ['python3', '/srv/app/main.py'],
    says: '45',
    wanted: { lazy: 0.15, optimized: 0.063 },
    wantedRequests: { lazy: 40, optimized: 12 },
  },
  {
    name: 'java',
    title: 'java hello',
    image: 'java',
    command: ['java', '-cp', '/srv/app', 'Hello'],
    says: 'hello',
    wanted: { lazy: 0.056, optimized: 0.046 },
  },
  {
    name: 'gcc',
    title: 'gcc compile',
    image: 'java',
    command: ['sh', '-c', 'gcc -O2 -o /tmp/hello /srv/app/hello.c && /tmp/hello'],
    says: 'hello',
    wanted: { lazy: 0.078, optimized: 0.056 },
  },
];
