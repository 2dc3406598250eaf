import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks', // native code: a crash ends one file, not the run
    maxWorkers: 2,
    setupFiles: ['./test/setup.ts'],
    testTimeout: 60_000,
    reporters: ['default', './test/closing_line.mjs'],
  },
})
