// npm run fuzz: random calls of every operation, method and preset, right ones and wrong ones, in a process of their own.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { signatures } from '../../lib/addon/signatures.js'
import { Caller } from '../fuzz/caller.js'
import { type Case, fuzzed, operationCases, recipeCases } from '../fuzz/cases.js'
import { fuzz, type Kind, noCalls } from '../fuzz/loop.js'
import { fuzzedRecipes } from '../fuzz/recipes.js'
import { root } from './blocked.mjs'

const usage = `npm run fuzz -- [options]
  --seed 1          the same seed makes the same calls
  --calls 10000     how many
  --only WORD       of operations, methods and presets whose names have this word
  --device          on device arrays: of the library that GRPO_KERNELS_CUDA names, else of the interpreter
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
  const option = given[i]?.slice(2)
  if (given[i] === '--help') {
    console.log(usage)
    process.exit()
  }
  if (given[i] === '--device') {
    asked.device = true
    continue
  }
  const value = given[++i]
  if (option === 'only' || option === 'case') asked[option] = value ?? fail(`--${option} takes a text`)
  else if (option === 'seed' || option === 'calls' || option === 'patience') {
    asked[option] = Number(value)
    const whole = value !== undefined && Number.isSafeInteger(asked[option]) && asked[option] >= 0
    if (!whole) fail(`--${option} takes a whole number, got ${value}`)
  } else fail(`${given[i - 1]} is no option`)
}

const interpreter = {
  GRPO_KERNELS_CUDA: process.env.GRPO_KERNELS_CUDA ?? join(root, 'build-simt/libgrpo_kernels_cuda.so'),
}
const caller = new Caller(join(root, 'test/fuzz/child.ts'), asked.device ? ['--device'] : [], {
  ...(asked.device && interpreter),
  // The runtime of the sanitizers has to be loaded into the process of the calls, and into no other.
  ...(JSON.parse(process.env.GRPO_FUZZ_ENVIRONMENT ?? '{}') as Record<string, string>),
})

if (asked.case !== '') {
  const outcome = await caller.run(JSON.parse(asked.case) as Case, asked.patience)
  console.log(outcome.what, 'text' in outcome ? outcome.text : '')
  await caller.end()
  process.exit(outcome.what === 'computed' || outcome.what === 'refused' ? 0 : 1)
}

const shares = { valid: 6, mutated: 3, later: 1 }
// What a device array may have wrong: test/device/, test/arrays/. A plan has no arrays that could lie on a device.
const ways = asked.device ? (['valid', 'later'] as const) : (['valid', 'mutated', 'later'] as const)
const operations = fuzzed
  .filter((name) => !asked.device || signatures[name].inputs.length > 0)
  .flatMap((name) => ways.map((how): Kind => ({ name, how, cases: operationCases(name, how), share: shares[how] })))
const steps = fuzzedRecipes.map(({ name, options, stateful }): Kind => {
  const cases = recipeCases(name, options, stateful)
  return { name, how: stateful ? 'steps and states' : 'steps', cases, share: stateful ? 2 : 1 }
})
const kinds = [...operations, ...(asked.device ? [] : steps)].filter(({ name }) => name.includes(asked.only))
if (kinds.length === 0) fail(`no operation, method or preset has ${asked.only} in its name`)

const total = noCalls()
const failures: string[] = []
const begin = performance.now()
const whole = kinds.reduce((sum, { share }) => sum + share, 0)
let [passed, made] = [0, 0]
for (const [i, kind] of kinds.entries()) {
  passed += kind.share
  const runs = Math.round((asked.calls * passed) / whole) - made
  made += runs
  const count = await fuzz(kind, runs, asked.seed * 1000 + i, caller, asked.patience, (failure) => {
    const { outcome, smallest, name, how } = failure
    failures.push(name)
    console.log(`${outcome.what}: ${name}, ${how}: ${'text' in outcome ? outcome.text : ''}`)
    console.log(`  npm run fuzz -- --case '${JSON.stringify(smallest)}'`)
  })
  for (const key of Object.keys(total) as (keyof typeof total)[]) total[key] += count[key]
  // A generator of calls that are all refused would find nothing for ever.
  const mostly = kind.how === 'valid' || kind.how.startsWith('steps')
  if (mostly && runs >= 20 && count.left === 0 && count.computed < runs / 4) {
    failures.push(kind.name)
    console.log(`too few calls to say anything: of ${runs} calls of ${kind.name} ${count.computed} computed`)
  }
}
await caller.end()

const { computed, refused, wrong, crash, hang, shrinking, left } = total
const calls = computed + refused + wrong + crash + hang
const seconds = ((performance.now() - begin) / 1000).toFixed(1)
console.log(`${calls} calls in ${seconds} s, seed ${asked.seed}: ${computed} computed, ${refused} refused by name`)
if (left + shrinking > 0)
  console.log(`${shrinking} more made failing calls smaller; ${left} were left out after failures`)
console.log(`${crash} crashes, ${hang} hangs, ${wrong} wrong`)
const counts = { passed: computed + refused, failed: failures.length, skipped: 0 }
if (process.env.GRPO_TEST_COUNTS) writeFileSync(process.env.GRPO_TEST_COUNTS, JSON.stringify(counts))
process.exit(failures.length > 0 ? 1 : 0)
