// npm run test:sweep: the kinds of case of which npm test has a few, all of them: other architectures, copies that land
// late, early or at random, and other seeds of the interpreter; whole sizes, among them offsets beyond 2^31; products
// that are cut off as GPUs cut them; the CPU's tests under the sanitizers; random calls, see fuzz.mts.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { root } from './blocked.mjs'

const usage = `npm run test:sweep -- [options]
  --seeds 1,2,3,4   seeds of the interpreter (also: --seed 5)
  --tenth           a tenth of it, with fixed seeds: what .ci/run runs
  --only WORDS      the parts whose names have these words
  --list            names the parts, and runs none
  --help            this text`

interface Part {
  name: string
  /** Of vitest.config.mts. */
  project: string
  files: string[]
  environment: Record<string, string>
  sanitized?: boolean
  /** Words for the fuzzer, in place of tests; of the C interface where that is the project. */
  fuzz?: string[]
}

const testsOf = (...names: string[]) => names.map((name) => `test/${name}.test.ts`)

/** Rows of logits are read twice before sm_90, and from there on brought by bulk copies to a cluster of blocks. */
const ofLogits = testsOf(
  'policy_loss_from_logits',
  'policy_loss_from_logits_edges',
  'token_logprob',
  'token_logprob_edges',
  'device/rows',
)
const ofAttention = testsOf('prefix_attention')
const ofProducts = testsOf('prefix_attention', 'linear_token_logprob', 'linear_policy_loss')

const mode = (arch: number, copies: string, seed: number): Part => ({
  name: `sm_${arch}, copies ${copies}, seed ${seed}`,
  project: 'simt',
  files: [...ofLogits, ...ofAttention],
  environment: { GRPO_SIMT_ARCH: String(arch), GRPO_SIMT_COPIES: copies, GRPO_SIMT_SEED: String(seed) },
})
const truncated: Part = {
  name: 'products cut off',
  project: 'simt',
  files: ofProducts,
  environment: { GRPO_SIMT_MMA: 'truncate' },
}
const sanitizers = (files: string[]): Part => ({
  name: 'sanitizers',
  project: 'cpu',
  files,
  environment: {},
  sanitized: true,
})
const whole = (project: string, files: string[]): Part => ({
  name: `whole sizes, ${project}`,
  project,
  files,
  environment: { GRPO_TEST_SWEEP: '1' },
})

const calls = (seed: number, count: number, where: 'cpu' | 'simt' | 'sanitizers'): Part => ({
  name: `${count} random calls, ${where}`,
  project: where,
  files: [],
  environment: {},
  sanitized: where === 'sanitizers',
  fuzz: ['--seed', String(seed), '--calls', String(count), ...(where === 'simt' ? ['--device'] : [])],
})

const ofC = (seed: number, count: number): Part => ({
  name: `${count} random calls, C interface`,
  project: 'c',
  files: [],
  environment: {},
  fuzz: ['--seed', String(seed), '--calls', String(count)],
})

function partsOf(seeds: readonly number[]): Part[] {
  const modes = seeds.flatMap((seed) =>
    [80, 90].flatMap((arch) => ['late', 'early', 'random'].map((copies) => mode(arch, copies, seed))),
  )
  const every = seeds.map((seed): Part => ({ ...mode(seed % 2 ? 80 : 90, 'random', seed), files: [] }))
  const all = every.map((part) => ({ ...part, name: `every operation, ${part.name}` }))
  const inFull = ({ environment, ...part }: Part) => ({
    ...part,
    environment: { ...environment, GRPO_TEST_SWEEP: '1' },
  })
  const [seed = 1] = seeds
  const random = [
    calls(seed, 100_000, 'cpu'),
    calls(seed, 100_000, 'sanitizers'),
    calls(seed, 1000, 'simt'),
    ofC(seed, 100_000),
  ]
  const tests = [...modes.map(inFull), ...all, inFull(truncated), whole('cpu', []), whole('simt', []), sanitizers([])]
  return [...tests, ...random]
}

/** Seeds with which ex2.approx in every softmax is not accurate enough. */
const tenth: Part[] = [
  { ...mode(80, 'random', 4), files: [...ofLogits, ...ofAttention] },
  { ...mode(90, 'early', 3), files: ofLogits },
  { ...truncated, files: ofAttention },
  whole('simt', testsOf('device/offsets')),
  calls(11, 10_000, 'cpu'),
  sanitizers([
    'test/all_ops',
    'test/linear',
    'test/policy_loss',
    // But for every option with every other one, on every instruction set: the whole sweep has these.
    'test/prefix_attention.test',
    'test/prefix_attention_bad_input',
    'test/prefix_attention_not_finite',
    'test/prefix_attention_schedules',
    'test/prefix_layout',
    'test/select',
    'test/token',
    'test/call',
  ]),
]

function fail(text: string): never {
  console.error(`npm run test:sweep: ${text}\n${usage}`)
  process.exit(2)
}

const asked: { seeds: number[]; tenth: boolean; list: boolean; only: string } = {
  seeds: [1, 2, 3, 4],
  tenth: false,
  list: false,
  only: '',
}
const given = process.argv.slice(2)
for (let i = 0; i < given.length; i++) {
  const [option, value] = [given[i], given[i + 1]]
  if (option === '--help') {
    console.log(usage)
    process.exit()
  } else if (option === '--tenth') asked.tenth = true
  else if (option === '--list') asked.list = true
  else if (option === '--seeds' || option === '--seed') {
    asked.seeds = (value ?? '').split(',').map(Number)
    if (value === undefined || asked.seeds.some((seed) => !Number.isSafeInteger(seed) || seed < 0)) {
      fail(`${option} takes whole numbers, got ${value}`)
    }
    i++
  } else if (option === '--only') {
    asked.only = value ?? fail('--only takes a word')
    i++
  } else fail(`${option} is no option`)
}
const parts = (asked.tenth ? tenth : partsOf(asked.seeds)).filter(({ name }) => name.includes(asked.only))
if (parts.length === 0) fail(`no part has ${asked.only} in its name`)
if (asked.list) {
  for (const { name, project, files, fuzz } of parts) {
    const script = project === 'c' ? 'fuzz:c' : 'fuzz'
    console.log(`${name}: ${fuzz ? `npm run ${script} -- ${fuzz.join(' ')}` : files.join(' ') || 'all files'}`)
  }
  process.exit()
}

const folder = mkdtempSync(join(tmpdir(), 'grpo-kernels-sweep-'))
const total = { passed: 0, failed: 0, skipped: 0 }
const failed: string[] = []
const lines: string[] = []
for (const [i, { name, project, files, environment, sanitized, fuzz }] of parts.entries()) {
  console.log(`\n${i + 1} of ${parts.length}: ${name}`)
  const counts = join(folder, `${i}.json`)
  const begin = performance.now()
  const fuzzer = project === 'c' ? ['test/fuzz/c_interface.mjs'] : ['--import', 'tsx', 'test/run/fuzz.mts']
  const tests = fuzz
    ? [...fuzzer, ...fuzz]
    : ['node_modules/vitest/vitest.mjs', 'run', '--config', 'test/vitest.config.mts', '--project', project, ...files]
  const program = sanitized ? ['test/run/sanitize.mjs', ...(fuzz ? ['fuzz', ...fuzz] : files)] : tests
  const { status } = spawnSync(process.execPath, program, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...environment, GRPO_TEST_COUNTS: counts },
  })
  let count = { passed: 0, failed: 0, skipped: 0 }
  try {
    count = JSON.parse(readFileSync(counts, 'utf8'))
  } catch {} // it ended before a test ran, and its status says so
  if (status !== 0) {
    failed.push(name)
    count.failed = Math.max(1, count.failed)
  }
  for (const key of ['passed', 'failed', 'skipped'] as const) total[key] += count[key]
  const seconds = Math.round((performance.now() - begin) / 1000)
  lines.push(`${name}: ${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped, ${seconds} s`)
}
rmSync(folder, { recursive: true })
console.log(`\n${lines.join('\n')}`)
if (failed.length > 0) console.log(`failed: ${failed.join('; ')}`)
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
process.exit(failed.length > 0 ? 1 : 0)
