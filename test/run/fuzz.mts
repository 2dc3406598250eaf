// npm run fuzz: random calls of every operation, method and preset, right ones and wrong ones, in a process of their own.
// fast-check draws the calls and makes a failing one smaller; here they are handed to that process, and a crash or a
// hang is seen, and put down to its call.
import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'
import process from 'node:process'
import fc from 'fast-check'
import { type Case, fuzzed, operationCases, recipeCases } from '../fuzz/cases.js'
import type { Verdict } from '../fuzz/check.js'
import { fuzzedRecipes } from '../fuzz/recipes.js'
import { root } from './blocked.mjs'

const usage = `npm run fuzz -- [options]
  --seed 1          the same seed makes the same calls
  --calls 10000     how many
  --only WORD       of operations, methods and presets whose names have this word
  --device          on device arrays: of the library that GRPO_KERNELS_CUDA names, or of the interpreter
  --patience 20     seconds after which a call counts as hanging
  --case JSON       that one call, as a failure prints it
  --help            this text`

function fail(text: string): never {
  console.error(`npm run fuzz: ${text}\n${usage}`)
  process.exit(2)
}

const asked = { seed: 1, calls: 10_000, only: '', device: false, patience: 20, case: '' }
const given = process.argv.slice(2)
for (let i = 0; i < given.length; i++) {
  const [option = '', value] = [given[i]?.slice(2), given[i + 1]]
  if (option === 'help') {
    console.log(usage)
    process.exit()
  } else if (option === 'device') asked.device = true
  else if (option === 'only' || option === 'case') asked[option] = value ?? fail(`--${option} takes a text`)
  else if (option === 'seed' || option === 'calls' || option === 'patience') {
    asked[option] = Number(value)
    if (value === undefined || !Number.isSafeInteger(asked[option]) || asked[option] < 0) fail(`--${option} takes a whole number, got ${value}`) // biome-ignore format: one text
  } else fail(`${given[i]} is no option`)
  if (option !== 'device') i++
}

type Outcome = Verdict | { what: 'crash' | 'hang'; text: string }

/** The process that makes the calls, one at a time; another one after a crash. */
class Caller {
  private child: Promise<ChildProcess> | undefined
  private said = ''

  private start(): Promise<ChildProcess> {
    this.said = ''
    const env = { ...process.env }
    if (asked.device) env.GRPO_KERNELS_CUDA ??= join(root, 'build-simt/libgrpo_kernels_cuda.so')
    const child = fork(join(root, 'test/fuzz/child.ts'), asked.device ? ['--device'] : [], {
      execArgv: ['--import', 'tsx'],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: { ...env, ...inChild },
    })
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (data: Buffer) => (this.said = (this.said + data).slice(-4000)))
    }
    return new Promise((resolve, reject) => {
      child.once('message', () => resolve(child))
      child.once('exit', () => reject(new Error(`the process that makes the calls does not start: ${this.said}`)))
    })
  }

  async run(c: Case, patience: number): Promise<Outcome> {
    this.child ??= this.start()
    const child = await this.child
    return new Promise((resolve) => {
      const done = (outcome: Outcome, gone: boolean) => {
        clearTimeout(timer)
        child.removeAllListeners('message')
        child.removeAllListeners('exit')
        if (gone) this.child = undefined
        resolve(outcome)
      }
      const timer = setTimeout(() => {
        child.kill('SIGKILL')
        done({ what: 'hang', text: `no answer within ${patience} s` }, true)
      }, patience * 1000)
      child.once('message', (verdict: Verdict) => done(verdict, false))
      child.once('exit', (code, signal) => {
        done({ what: 'crash', text: `ended with ${signal ?? `status ${code}`} ${this.said.slice(-1500)}`.trim() }, true)
      })
      child.send(c)
    })
  }

  async end(): Promise<void> {
    const child = await this.child
    child?.kill()
  }
}

/** The sanitizers' runtime has to be loaded into the process of the calls, and into no other. */
const inChild = JSON.parse(process.env.GRPO_FUZZ_CHILD ?? '{}') as Record<string, string>
const caller = new Caller()

if (asked.case !== '') {
  const outcome = await caller.run(JSON.parse(asked.case) as Case, asked.patience)
  console.log(outcome.what, 'text' in outcome ? outcome.text : '')
  await caller.end()
  process.exit(['computed', 'refused'].includes(outcome.what) ? 0 : 1)
}

interface Kind {
  name: string
  how: string
  cases: fc.Arbitrary<Case>
  share: number
}
const operations = fuzzed.flatMap((name): Kind[] =>
  (['valid', 'mutated', 'later'] as const).map((how) => {
    const share = { valid: 6, mutated: 3, later: 1 }[how]
    return { name, how, cases: operationCases(name, how), share }
  }),
)
const steps = fuzzedRecipes.map(({ name, options, stateful }): Kind => {
  return {
    name,
    how: stateful ? 'steps and states' : 'steps',
    cases: recipeCases(name, options, stateful),
    share: stateful ? 2 : 1,
  }
})
const kinds = [...operations, ...(asked.device ? [] : steps)].filter(({ name }) => name.includes(asked.only))
if (kinds.length === 0) fail(`no name has ${asked.only} in it`)

const count = { calls: 0, computed: 0, refused: 0, shrinking: 0, crash: 0, hang: 0, wrong: 0 }
const found: { name: string; how: string; outcome: Outcome; smallest: Case }[] = []
const idle: string[] = []
const begin = performance.now()

/** Runs of a kind; each failure is made smaller, and the rest goes on with another seed. */
async function fuzz({ name, how, cases }: Kind, runs: number, seed: number): Promise<void> {
  let [left, computed, failures] = [runs, 0, 0]
  while (left > 0 && failures < 3) {
    let [failed, tries] = [undefined as Outcome | undefined, 0]
    const property = fc.asyncProperty(cases, async (c) => {
      if (failed !== undefined && ++tries > 300) return true
      // What hangs once is waited for a tenth of the time when it is made smaller.
      const outcome = await caller.run(c, failed?.what === 'hang' ? asked.patience / 10 : asked.patience)
      const good = outcome.what === 'computed' || outcome.what === 'refused'
      if (failed !== undefined) {
        count.shrinking++
        return outcome.what !== failed.what
      }
      count.calls++
      left--
      if (good) {
        count[outcome.what]++
        computed += Number(outcome.what === 'computed')
        return true
      }
      count[outcome.what]++
      failed = outcome
      return false
    })
    const result = await fc.check(property, { seed: seed + failures, numRuns: left })
    if (!result.failed) break
    failures++
    const smallest = result.counterexample?.[0] as Case
    const outcome = await caller.run(smallest, asked.patience)
    found.push({ name, how, outcome, smallest })
    console.log(`${failed?.what}: ${name}, ${how}: ${'text' in outcome ? outcome.text : outcome.what}`)
    console.log(`  npm run fuzz -- --case '${JSON.stringify(smallest)}'`)
  }
  if (how === 'valid' && failures === 0 && runs >= 20 && computed < runs / 4) idle.push(`${name} computed ${computed} of ${runs}`) // biome-ignore format: one text
}

const shares = kinds.reduce((sum, { share }) => sum + share, 0)
let given_ = 0
let passed = 0
for (const [i, kind] of kinds.entries()) {
  passed += kind.share
  const until = Math.round((asked.calls * passed) / shares)
  await fuzz(kind, until - given_, asked.seed * 1000 + i)
  given_ = until
}
await caller.end()

const seconds = ((performance.now() - begin) / 1000).toFixed(1)
console.log(`${count.calls} calls with seed ${asked.seed} in ${seconds} s: ${count.computed} computed, ${count.refused} refused as they should be; ${count.crash} crashes, ${count.hang} hangs, ${count.wrong} wrong; ${count.shrinking} more to make those smaller`) // biome-ignore format: one text
for (const text of idle) console.log(`too few to say anything: ${text}`)
process.exit(found.length > 0 || idle.length > 0 ? 1 : 0)
