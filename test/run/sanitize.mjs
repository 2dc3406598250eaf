// Builds the addon with the sanitizers and runs the CPU's tests on it. Arguments go to vitest.
import { execFileSync, spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const [compiler, ...flags] = (process.env.CXX ?? 'g++').trim().split(/\s+/) // 'ccache g++' is a compiler as well
const runtime = (name) => execFileSync(compiler, [...flags, `-print-file-name=${name}`], { encoding: 'utf8' }).trim()

const build = spawnSync(process.execPath, [join(root, 'native/build.mjs'), 'sanitize'], { stdio: 'inherit' })
if (build.status !== 0) process.exit(1)

const vitest = [join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--config', 'test/vitest.config.mts']
const { status } = spawnSync(process.execPath, [...vitest, '--project', 'cpu*', ...process.argv.slice(2)], {
  cwd: root,
  stdio: 'inherit',
  env: {
    ...process.env,
    GRPO_KERNELS_ADDON: join(root, 'build-sanitize/Release/grpo_kernels.node'),
    GRPO_KERNELS_SANITIZED: '1',
    // The runtimes have to come before node's own libraries. node itself leaks at exit, so leaks are not looked for.
    LD_PRELOAD: `${runtime('libasan.so')} ${runtime('libubsan.so')}`,
    ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1:abort_on_error=1',
    UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
  },
})
process.exit(status ?? 1)
