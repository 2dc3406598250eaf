// npm run test:cuda: the numeric tests on device arrays of a real GPU. Where there is none, says why and fails: tests that
// did not run have not passed.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import process from 'node:process'

const { cuda } = createRequire(import.meta.url)('..')
if (!cuda.available) {
  console.error(`test:cuda runs on a GPU, and there is none: ${cuda.reason}`)
  process.exit(1)
}
const vitest = ['vitest', 'run', '--config', 'test/vitest.config.mts', '--project', 'cuda', ...process.argv.slice(2)]
const { status } = spawnSync('npx', vitest, { stdio: 'inherit', env: { ...process.env, GRPO_TEST_CUDA: '1' } })
process.exit(status ?? 1)
