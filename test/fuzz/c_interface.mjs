// npm run fuzz:c: calls of the C interface with arguments that are right but for one, under the sanitizers. Where clang++ is
// installed libFuzzer looks for inputs that reach new code; else they are random bytes.
//   --seed 1  --calls 100000
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const asked = { seed: 1, calls: 100_000 }
const given = process.argv.slice(2)
for (let i = 0; i < given.length; i += 2) {
  const [option, value] = [given[i].slice(2), Number(given[i + 1])]
  if (!(option in asked) || !Number.isSafeInteger(value)) {
    console.error('npm run fuzz:c: expected --seed NUMBER and --calls NUMBER')
    process.exit(2)
  }
  asked[option] = value
}

const clang = spawnSync('clang++', ['--version']).status === 0
const [compiler = 'g++', ...words] = clang ? ['clang++'] : (process.env.CXX ?? 'g++').split(' ')
const checks = ['-fsanitize=address,undefined', '-fno-sanitize-recover=undefined']
const flags = ['-std=c++20', '-O1', '-g', '-ffp-contract=fast', '-I', 'native', ...checks]
const own = clang ? ['-fsanitize=fuzzer', '-DGRPO_LIBFUZZER'] : []
const program = join(root, 'build-fuzz/c_interface')
mkdirSync(dirname(program), { recursive: true })

const listed = spawnSync(process.execPath, ['native/build.mjs', 'sources'], { cwd: root, encoding: 'utf8' }).stdout
const sources = ['test/fuzz/c_interface.cc', ...listed.trim().split(/\s+/).filter((file) => !file.startsWith('native/node/'))] // biome-ignore format: one list
const objectOf = (source) => join(root, 'build-fuzz', `${source.replaceAll('/', '_')}.o`)
const compile = (source) =>
  new Promise((resolve, reject) => {
    const instrument = clang ? ['-fsanitize=fuzzer-no-link'] : []
    const mine = source.startsWith('test/') && clang ? ['-DGRPO_LIBFUZZER'] : []
    const args = [...words, ...flags, ...instrument, ...mine, '-c', source, '-o', objectOf(source)]
    const child = spawn(compiler, args, { cwd: root, stdio: 'inherit' })
    child.once('exit', (status) => (status === 0 ? resolve() : reject(new Error(`${source} does not compile`))))
  })
const left = [...sources]
const worker = async () => {
  for (let next = left.pop(); next !== undefined; next = left.pop()) await compile(next)
}
await Promise.all(Array.from({ length: availableParallelism() }, worker))
const link = [...words, ...flags, ...own, ...sources.map(objectOf), '-o', program, '-lpthread', '-ldl']
if (spawnSync(compiler, link, { cwd: root, stdio: 'inherit' }).status !== 0) process.exit(1)

const run = clang
  ? [`-seed=${asked.seed}`, `-runs=${asked.calls}`, '-max_len=3000']
  : [asked.seed, asked.calls].map(String)
const { status } = spawnSync(program, run, {
  cwd: dirname(program),
  stdio: 'inherit',
  env: {
    ...process.env,
    ASAN_OPTIONS: 'allocator_may_return_null=1:abort_on_error=1',
    UBSAN_OPTIONS: 'print_stacktrace=1:abort_on_error=1',
  },
})
const counts = status === 0 ? { passed: asked.calls, failed: 0, skipped: 0 } : { passed: 0, failed: 1, skipped: 0 }
if (process.env.GRPO_TEST_COUNTS) writeFileSync(process.env.GRPO_TEST_COUNTS, JSON.stringify(counts))
process.exit(status ?? 1)
