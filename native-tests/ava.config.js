// Whole-system tests share the machine's mounts and daemons: one file at a time, with room for real image builds.
export default {
  files: ['native-tests/**/*.test.ts'],
  typescript: { rewritePaths: { 'native-tests/': 'dist/native-tests/' }, compile: false },
  workerThreads: false,
  concurrency: 1,
  timeout: '10m',
};
