export default {
  files: ['src/**/*.test.ts'],
  typescript: { rewritePaths: { 'src/': 'dist/src/' }, compile: false },
  workerThreads: false,
  timeout: '60s',
};
