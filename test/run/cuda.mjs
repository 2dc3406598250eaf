// npm run test:cuda: the instructions of cuda/launch/ptx.cuh on a real GPU against the interpreter's (build:cuda and build:simt
// make both self-tests), then the numeric tests on device arrays. Where there is no GPU, says why and fails: tests that
// did not run have not passed.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import process from 'node:process'

const { cuda } = createRequire(import.meta.url)('../..')
if (!cuda.available) {
  console.error(`test:cuda runs on a GPU, and there is none: ${cuda.reason}`)
  process.exit(1)
}
const run = (...command) =>
  spawnSync('npx', command, { stdio: 'inherit', env: { ...process.env, GRPO_TEST_CUDA: '1' } }).status ?? 1
const registers = run('tsx', 'test/simt/gpu.ts')
if (registers !== 0) console.error('test:cuda: registers differ, see above; the tests run all the same')
const tests = run('vitest', 'run', '--config', 'test/vitest.config.mts', '--project', 'cuda', ...process.argv.slice(2))
process.exit(registers || tests)
