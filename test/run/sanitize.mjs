// Builds the addon with the sanitizers and runs the CPU's tests on it. Arguments go to vitest; after the word `fuzz` to the
// fuzzer, whose calls are then made on that addon.
import { execFileSync, spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const [compiler, ...flags] = (process.env.CXX ?? 'g++').trim().split(/\s+/) // 'ccache g++' is a compiler as well
const runtime = (name) => execFileSync(compiler, [...flags, `-print-file-name=${name}`], { encoding: 'utf8' }).trim()

const build = spawnSync(process.execPath, [join(root, 'native/build.mjs'), 'sanitize'], { stdio: 'inherit' })
if (build.status !== 0) process.exit(1)

// The runtimes have to come before node's own libraries. node itself leaks at exit, so leaks are not looked for.
const sanitized = {
  GRPO_KERNELS_ADDON: join(root, 'build-sanitize/Release/grpo_kernels.node'),
  LD_PRELOAD: `${runtime('libasan.so')} ${runtime('libubsan.so')}`,
  ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1:abort_on_error=1',
  UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
}
const given = process.argv.slice(2)
const fuzz = given[0] === 'fuzz'
const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--config', 'test/vitest.config.mts', '--project', 'cpu*']
const program = fuzz ? ['--import', 'tsx', 'test/run/fuzz.mts', ...given.slice(1)] : [...vitest, ...given]
const { status } = spawnSync(process.execPath, program, {
  cwd: root,
  stdio: 'inherit',
  env: {
    ...process.env,
    ...(fuzz ? { GRPO_FUZZ_ENVIRONMENT: JSON.stringify(sanitized) } : { ...sanitized, GRPO_KERNELS_SANITIZED: '1' }),
  },
})
process.exit(status ?? 1)
