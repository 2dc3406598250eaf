// That the fuzzer sees what it is for: calls that end the process, that never end and that are wrong, put down to the call
// and made as small as they can be; and that a seed makes the same calls.
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { operationNames } from '../../lib/addon/signatures.js'
import { Caller } from './caller.js'
import { fuzzed, operationCases, type RecipeCase, recipeCases } from './cases.js'
import { type Failure, fuzz } from './loop.js'

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
    const { smallest, outcome } = await find('hang', 30, 0.5)
    expect((smallest as RecipeCase).seed).toBe(60_001)
    expect(outcome).toEqual({ what: 'hang', text: 'no answer within 0.5 s' })
  })

  test('no more than three failures of a kind; what was left out is counted', async () => {
    const failures: Failure[] = []
    const wrong = { run: async () => ({ what: 'wrong', text: '' }) as const }
    const count = await fuzz(kind, 100, 1, wrong, 1, (failure) => failures.push(failure))
    expect(failures).toHaveLength(3)
    expect(count).toMatchObject({ wrong: 3, left: 97, computed: 0 })
  })
})

test('every operation of the table is called', () => {
  expect(fuzzed).toEqual(operationNames)
})

test.each(fuzzed)('%s: the same seed makes the same calls', (name) => {
  const drawn = () => fc.sample(operationCases(name, 'mutated'), { seed: 5, numRuns: 20 })
  expect(drawn()).toEqual(drawn())
})
