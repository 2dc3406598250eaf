// Sets of ids from hidden states: the rows of the head that they keep, of every dtype and width; long rows and many; and
// the numbers of the whole vocabulary beside those of the sets.
import { describe, expect, test } from 'vitest'
import {
  array,
  type HostArray,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  policyLoss,
  policyLossFromLogits,
  tokenLogprob,
} from '../lib/index.js'
import { linearGradients, linearLogits } from './references/linear.js'
import { tokenLogprobBackwardReference, tokenLogprobReference } from './references/token_logprob.js'
import { accurate, accurateRows, golden, identical, refuses, values } from './support/compare.js'
import { setsFor } from './support/kept_cases.js'
import { floats, gradientNames } from './support/linear_cases.js'
import { forwardOf } from './support/logits_cases.js'
import { batch, names, valid } from './support/option_cases.js'
import { random } from './support/random.js'
import { setsOf } from './support/sets_of.js'

// Of the rows of the head that a set keeps, in the order of its ids: pieces of 16 bytes and what is left of a row.
describe.each([7, 24, 40])('hidden states of %i columns', (width) => {
  const types = ['f32', 'bf16', 'f16'] as const
  test.each(types.flatMap((hidden) => types.map((head) => ({ hidden, head }))))(
    '$hidden and a head of $head',
    (type) => {
      const r = random(31)
      const [rows, columns, T] = [15, 37, 45]
      const five = [[1, 5, 36], [], [0, 2, 3, 5, 8, 13, 21, 34], [5], [4, 5]]
      const lists = Array.from({ length: rows }, (_, i) => (five[i % 5] as number[]).map((id) => (id + i) % columns).sort((x, y) => x - y)) // biome-ignore format: a line
      const linear = {
        hidden: floats(type.hidden, r.normals(rows * width), [rows, width]),
        head: floats(type.head, r.normals(columns * width, 0.4), [columns, width]),
        headBias: floats(type.head, r.normals(columns), [columns]),
      }
      const inputs = {
        token: Int32Array.from({ length: T }, (_, t) => (lists[t % rows] as number[])[t % 4] ?? t % 37),
        row: Int32Array.from({ length: T }, (_, t) => t % rows),
        ...setsOf(lists),
      }
      const grads = { gradLogp: r.normals(T), gradEntropy: r.normals(T) }
      const matrices = { hidden: values(linear.hidden), head: values(linear.head), headBias: values(linear.headBias), D: width } // biome-ignore format: a line
      const of = (round?: (x: number) => number) => {
        const plain = { logits: linearLogits(matrices, round), V: columns, temperature: 0.7, ...inputs }
        const gradLogits = tokenLogprobBackwardReference(plain, grads.gradLogp, grads.gradEntropy, round)
        const scaled = gradLogits.map((g) => -8 * g)
        return { ...tokenLogprobReference(plain, round), ...linearGradients(matrices, scaled, round) }
      }
      const [exact, plain] = [of(), of(Math.fround)]
      const forward = linearTokenLogprob({ ...linear, ...inputs }, { temperature: 0.7 })
      for (const name of names) accurate(forward[name], exact[name], plain[name])
      const given = { ...linear, ...inputs, ...forwardOf(forward), ...grads }
      const result = linearTokenLogprobBackward(given, { temperature: 0.7, gradScale: -8 })
      for (const name of gradientNames) accurateRows(result[name]!, exact[name], plain[name])
      const gradHead = array(new Float32Array(columns * width), [columns, width])
      const wide = linearTokenLogprobBackward(given, { temperature: 0.7, gradScale: -8, out: { gradHead } })
      accurate(wide.gradHead, exact.gradHead, plain.gradHead)
      // No row of the head is looked at that no set keeps, where every row has one.
      const all = { ...inputs, row: inputs.row.map((row) => (row % 5 === 1 ? 0 : row)) }
      const poisoned = Float32Array.from(values(linear.head), (x, i) => inputs.kept.includes(Math.floor(i / width)) ? x : Number.NaN) // biome-ignore format: a line
      const head = floats(type.head, poisoned, [columns, width])
      const [clean, blind] = [linear.head, head].map((x) => linearTokenLogprob({ ...linear, ...all, head: x }))
      for (const name of names) identical(blind![name], clean![name])
    },
  )
})

// On sm_90 the blocks of a cluster keep long rows in shared memory; those with sets are not theirs.
test.each(['f32', 'bf16'] as const)('rows of 9,000 columns in %s, one with a set, in place', (dtype) => {
  const r = random(7)
  const [rows, columns] = [3, 9000]
  const logits = () => floats(dtype, random(8).normals(rows * columns, 2), [rows, columns])
  const inputs = {
    token: Int32Array.of(0, 8899, 8899, 77, 5),
    row: Int32Array.of(0, 2, 2, 1, 2),
    ...setsOf([[], [1, 77, 4000, 8999], Array.from({ length: 900 }, (_, i) => 9 + 10 * i)]),
  }
  const policy = { tokenAdvantage: r.normals(5), sequenceStart: Int32Array.of(0, 5), oldLogp: r.uniforms(5, -9, -1) }
  const options = { temperature: 0.7, entropyCoef: 0.1 }
  const plain = { logits: values(logits()), V: columns, ...inputs, temperature: 0.7 }
  const forward = tokenLogprob({ logits: logits(), ...inputs }, { temperature: 0.7 })
  const [expected, rounded] = [tokenLogprobReference(plain), tokenLogprobReference(plain, Math.fround)]
  for (const name of names) accurate(forward[name], expected[name], rounded[name])
  const { gradLogp, gradEntropy } = policyLoss({ ...policy, logp: forward.logp, entropy: forward.entropy }, { entropyCoef: 0.1 }) // biome-ignore format: a line
  const of = (round?: (x: number) => number) =>
    tokenLogprobBackwardReference(plain, gradLogp.data, gradEntropy!.data, round)
  const own = logits()
  const fused = policyLossFromLogits({ logits: own, ...inputs, ...policy }, { ...options, out: { gradLogits: own } })
  accurate(fused.gradLogits, of(), of(Math.fround))
  identical(fused.logp, forward.logp)
  for (const ratio of ['token', 'sequence'] as const) {
    const same = logits()
    const inPlace = policyLossFromLogits({ logits: same, ...inputs, ...policy }, { ...options, ratio, out: { gradLogits: same } }) // biome-ignore format: a line
    identical(inPlace.gradLogits, policyLossFromLogits({ logits: logits(), ...inputs, ...policy }, { ...options, ratio }).gradLogits) // biome-ignore format: a line
  }
})

test('few tokens among very many rows', () => {
  const [rows, columns, width] = [5000, 6, 4]
  const r = random(9)
  const hidden = floats('f32', r.normals(rows * width), [rows, width])
  const head = floats('f32', r.normals(columns * width), [columns, width])
  const lists = Array.from({ length: rows }, (_, i) => (i % 3 === 0 ? [] : i % 3 === 1 ? [1, 4] : [0, 2, 5]))
  const inputs = { token: Int32Array.of(4, 2, 3, 1), row: Int32Array.of(4999, 1001, 999, 4999), ...setsOf(lists) }
  const matrices = { hidden: values(hidden), head: values(head), D: width }
  const of = (round?: (x: number) => number) => {
    const plain = { logits: linearLogits(matrices, round), V: columns, ...inputs }
    return { plain, ...tokenLogprobReference(plain, round) }
  }
  const [exact, plain] = [of(), of(Math.fround)]
  const forward = linearTokenLogprob({ hidden, head, ...inputs })
  for (const name of names) accurate(forward[name], exact[name], plain[name])
  const logits = array(Float32Array.from(plain.plain.logits), [rows, columns])
  const again = tokenLogprob({ logits, ...inputs })
  for (const name of names) golden(again[name], exact[name])
  const grads = { gradLogp: Float32Array.of(1, 2, 3, 4), gradEntropy: Float32Array.of(1, -1, 1, -1) }
  const { gradHidden } = linearTokenLogprobBackward({ hidden, head, ...inputs, ...forwardOf(forward), ...grads })
  const gradLogits = tokenLogprobBackwardReference(exact.plain, grads.gradLogp, grads.gradEntropy)
  golden(gradHidden, linearGradients(matrices, gradLogits).gradHidden, 8)
})

describe.each(['f32', 'bf16'] as const)('full, %s', (dtype) => {
  const b = batch(dtype, { rowTemperature: true, validVocab: valid, softcap: 6 })
  const { keptStart, kept } = setsFor(b)
  const operations = {
    tokenLogprob: (sets: object, options: object) =>
      tokenLogprob({ logits: b.logits, ...b.inputs, ...sets }, { ...b.options, ...options }),
    linearTokenLogprob: (sets: object, options: object) =>
      linearTokenLogprob({ ...b.linear, ...b.inputs, ...sets }, { ...b.options, ...options }),
  }
  test.each(Object.keys(operations))('%s: the bits of a call without sets, beside those of the sets', (name) => {
    const call = operations[name as keyof typeof operations]
    const [sets, whole] = [call({ keptStart, kept }, {}), call({}, {})]
    const both = call({ keptStart, kept }, { full: true })
    for (const key of names) identical(both[key], sets[key])
    identical(both.fullLogp!, whole.logp)
    identical(both.fullLogsumexp!, whole.logsumexp)
    // Each of them alone, and without sets at all.
    const without = call({ keptStart, kept }, { full: true, out: { logp: null, entropy: null, logsumexp: null } })
    identical(without.fullLogp!, whole.logp)
    identical(without.fullLogsumexp!, whole.logsumexp)
    for (const key of ['fullLogp', 'fullLogsumexp'] as const) {
      const one = call({ keptStart, kept }, { full: true, out: { [key]: null, logp: null } }) as Record<
        string,
        HostArray
      >
      expect(one[key]).toBeUndefined()
      const other = key === 'fullLogp' ? 'fullLogsumexp' : 'fullLogp'
      identical(one[other]!, both[other]!)
    }
    identical(call({}, { full: true }).fullLogp!, whole.logp)
    expect(sets).not.toHaveProperty('fullLogp')
  })
  test.each(Object.keys(operations))('%s refuses the outputs without the option', (name) => {
    const out = { fullLogp: new Float32Array(b.T) }
    const call = () => operations[name as keyof typeof operations]({ keptStart, kept }, { out })
    refuses(call, { error: RangeError, code: 'ERR_GRPO_OPTION', argument: 'full', message: /is false, but out has fullLogp/ }) // biome-ignore format: a line
  })
})

test('full: the numbers of a part of the vocabulary', () => {
  const logits = array(Float32Array.of(1, 2, 3, 4), [2, 2])
  const inputs = { token: Int32Array.of(7, 1), keptStart: Int32Array.of(0, 2, 2), kept: Int32Array.of(6, 7) }
  const { logsumexp, fullLogp, fullLogsumexp } = tokenLogprob({ logits, ...inputs }, { vocabStart: 0, full: true })
  expect(logsumexp.data[0]).toBe(-Infinity)
  expect(fullLogp!.data[0]).toBe(-Infinity)
  expect(fullLogsumexp!.data[0]).toBeCloseTo(Math.log(Math.exp(1) + Math.exp(2)), 6)
})
