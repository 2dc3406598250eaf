// That the fuzzer sees what it is for: calls that end the process, that never end and that are wrong, put down to the call
// and made as small as they can be; and that a seed makes the same calls.
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { operationNames } from '../../lib/addon/signatures.js'
import { call } from '../../lib/call/run.js'
import type { OperationName } from '../../lib/ops.js'
import { values } from '../support/numbers.js'
import { type Arguments, argumentsOf, copyOf, type Forward } from './arguments.js'
import { Caller, type Outcome } from './caller.js'
import { fuzzed, type OperationCase, operationCases, type RecipeCase, recipeCases } from './cases.js'
import { Checker } from './check.js'
import { type Failure, fuzz } from './loop.js'
import { checkRecipe } from './recipes.js'
import { wrongNumbers } from './wrong_numbers.js'

const kind = { name: 'faulty', how: 'steps', cases: recipeCases('faulty', [], false), share: 1 }

describe('a child with faults', () => {
  async function find(fault: string, runs: number, patience = 1): Promise<Failure> {
    const caller = new Caller(join(__dirname, 'faulty_child.mjs'), [fault])
    const failures: Failure[] = []
    await fuzz(kind, runs, 100, caller, patience, (failure) => failures.push(failure))
    await caller.end()
    return failures[0] ?? expect.fail('nothing was found')
  }
  test('a crash', async () => {
    const { smallest, outcome } = await find('crash', 60)
    expect((smallest as RecipeCase).groups).toEqual([[], [], []])
    expect(outcome.what).toBe('crash')
    expect((outcome as { text: string }).text).toMatch(/^ended with SIG\w+\. something about memory/)
  })
  test('a wrong call', async () => {
    const { smallest, outcome } = await find('wrong', 60)
    expect((smallest as RecipeCase).groups).toEqual([[0, 0, 0, 0]])
    expect(outcome).toEqual({ what: 'wrong', text: 'four' })
  })
  test('a hang', async () => {
    const { smallest, outcome } = await find('hang', 10, 0.5)
    expect((smallest as RecipeCase).groups).toEqual([[], [], []])
    expect(outcome).toEqual({ what: 'hang', text: 'no answer within 0.5 s' })
  })

  test('no more than three failures of a kind; what was left out is counted', async () => {
    const failures: Failure[] = []
    const wrong = { run: async () => ({ what: 'wrong', text: '' }) as const }
    const count = await fuzz(kind, 100, 1, wrong, 1, (failure) => failures.push(failure))
    expect(failures).toHaveLength(3)
    expect(count).toMatchObject({ wrong: 3, left: 97, computed: 0 })
  })
  test('a failure that does not come again keeps its name and its text', async () => {
    const failures: Failure[] = []
    let calls = 0
    const once = {
      run: async () => (calls++ === 0 ? { what: 'hang', text: 'no answer' } : { what: 'computed' }) as Outcome,
    }
    await fuzz(kind, 5, 1, once, 1, (failure) => failures.push(failure))
    const text = 'no answer (and computed when it was made once more)'
    expect(failures.map(({ outcome }) => outcome)).toEqual([{ what: 'hang', text }])
  })
})

test('every operation of the table is called', () => {
  expect(fuzzed).toEqual(operationNames)
})

test.each(fuzzed)('%s: the same seed makes the same calls', (name) => {
  const drawn = () => fc.sample(operationCases(name, 'mutated'), { seed: 5, numRuns: 20 })
  expect(drawn()).toEqual(drawn())
})

describe('numbers', () => {
  const make = call as never as (name: OperationName, ...given: unknown[]) => { now(): ReturnType<Forward> }
  const forward: Forward = (name, { inputs, options, sizes }) => make(name, inputs, options, sizes).now()
  const usual = { kind: 'operation', without: [], unwanted: [], threads: 1, mask: 'some', dtype: 'f32' } as const

  // Calls whose results are right, and of which the plain formula is exact by luck, or that a reference has to meet.
  const right: [string, Partial<OperationCase>][] = [
    [
      'advantages that add up to 0',
      {
        ...{ name: 'policyLossFromLogits', seed: 51033, sizes: { R: 1, V: 26, T: 7, S: 0 }, contents: 'ties' },
        ...{ options: { ratio: 'sequence', klClamp: 10 }, without: ['row', 'advantage', 'mask', 'weight'] },
      },
    ],
    [
      'the logsumexp of logits that are formed in float32',
      {
        ...{ name: 'linearTokenLogprobBackward', seed: 0, sizes: { R: 1, D: 19, V: 0, T: 3 }, contents: 'plain' },
        ...{ options: { temperature: 0.0001 }, without: ['row', 'mask'] },
      },
    ],
    [
      'a probability of 1 but for 1e-29',
      {
        ...{ name: 'tokenLogprobBackward', seed: 45099, sizes: { R: 7, V: 5, T: 1 }, contents: 'plain', mask: 'all' },
        ...{ options: { temperature: 0.01 } },
      },
    ],
    [
      'rewards that add up to 0',
      {
        ...{ name: 'groupAdvantage', seed: 17966, sizes: { N: 5, G: 0 }, contents: 'ties' },
        options: { virtualCount: 1 },
      },
    ],
    [
      'a product that is 0',
      {
        ...{ name: 'prefixAttention', seed: 12, sizes: { P: 0, H: 0, D: 4, K: 0, E: 0, B: 2 }, contents: 'ties' },
        options: {},
      },
    ],
    [
      'a steep softmax of few keys',
      {
        ...{ name: 'prefixAttentionBackward', seed: 20979, sizes: { P: 0, H: 1, D: 8, K: 0, E: 3, B: 3 } },
        ...{ contents: 'plain', options: { scale: 3 } },
      },
    ],
  ]
  test.each(right)('%s', async (_, c) => {
    expect(await new Checker(call as never).check({ ...usual, ...c } as OperationCase)).toEqual({ what: 'computed' })
  })

  const checked = fuzzed.filter((name) => name !== 'linearPolicyLossPlan')
  test.each(checked)('%s: a number that is off is seen', (name) => {
    let seen = 0
    for (const drawn of fc.sample(operationCases(name, 'valid'), { seed: 3, numRuns: 12 })) {
      const { temperature, scale, ...options } = drawn.options
      const c: OperationCase = { ...drawn, ...usual, without: [], unwanted: [], contents: 'plain', options }
      let made: Arguments
      let outputs: ReturnType<Forward>
      try {
        made = argumentsOf(c, forward)
        outputs = forward(name, made)
      } catch {
        continue // choices that do not go together
      }
      expect(wrongNumbers(name, made, outputs)).toBeUndefined()
      for (const [key, x] of Object.entries(outputs)) {
        const numbers = Array.from(values(x), Math.abs)
        const largest = Math.max(...numbers.filter(Number.isFinite))
        // Results of bf16 have three digits; what is small may have lost its own to the rest.
        if (!(largest > 1e-3)) continue
        const at = numbers.indexOf(largest)
        const off = copyOf(x)
        off.data[at] = /^[iu]/.test(x.dtype) ? (off.data[at] as number) ^ 1 : (off.data[at] as number) * (1 + 1e-4)
        const text = wrongNumbers(name, made, { ...outputs, [key]: off })
        expect(text, key).toMatch(`${key}[${at}] is `)
        seen++
      }
    }
    expect(seen).toBeGreaterThan(2)
  })
})

// Groups in another order: what names its place goes with it, and what is chosen by place may be another choice.
const steps: [string, Partial<RecipeCase>][] = [
  ['d3s', { groups: [[0], [1], [0, 0, 0, 0, 2]], options: { tokensStart: 0.5, steps: 9 } }],
  ['riskPo', { groups: [[], [], [0, 0, 1]], options: { bundle: 2 } }],
  ['klCov', { seed: 15441, groups: [[0, 2, 4], [2], [2, 3, 3]], options: { fraction: 0.9 } }],
  ['spoTree', { seed: 126, groups: [[4, 4], [2]] }],
  ['spoTree', { seed: 5, groups: [[3, 2, 2, 5, 4], [0, 0, 4, 2, 0]], options: { maxAge: 1, klCoef: 0.01 } }],
  ['branchGrpo', { seed: 26450, groups: [[1, 3, 4], [2]] }],
  ['branchGrpo', { seed: 8541, groups: [[1, 3, 4], [0, 3, 0], [4, 3, 1, 5, 2], [1, 4, 4, 5]], options: { width: 'batch' } }],
  ['d3s', { groups: [[1, 2], [3]], options: { rolloutScope: 'group', tokenScope: 'sequence' } }],
  ['treePo', { groups: [[1], [0, 0, 1], [2, 1, 2, 1]] }],
] // biome-ignore format: a table
test.each(steps)('%s: the groups in another order, %j', (name, given) => {
  const c = { kind: 'recipe', name, seed: 0, mask: 'some', options: {}, state: 'none', change: 0, ...given }
  expect(checkRecipe(c as RecipeCase)).toEqual({ what: 'computed' })
})
