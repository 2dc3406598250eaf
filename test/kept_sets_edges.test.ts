// Sets of ids at their edges: what is refused, what a device makes of it, and the memory of a call.
import { afterEach, describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import {
  array,
  cpu,
  cuda,
  linearPolicyLoss,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  lossStats,
  policyLossFromLogits,
  tokenLogprob,
  tokenLogprobBackward,
} from '../lib/index.js'
import { backend, cpuDescribe, cpuTest } from './support/backend_kind.js'
import { identical, refuses } from './support/compare.js'
import { setsFor } from './support/kept_cases.js'
import { floats, gradientNames } from './support/linear_cases.js'
import { batch, R, V, valid } from './support/option_cases.js'
import { random } from './support/random.js'

const threads = cpu.threads
afterEach(() => {
  cpu.threads = threads
})

const three = () => ({
  logits: array(
    Float32Array.from({ length: 15 }, (_, i) => Math.sin(i)),
    [3, 5],
  ),
  hidden: array(Float32Array.of(1, 2, 3, 4, 5, 6), [3, 2]),
  head: array(
    Float32Array.from({ length: 10 }, (_, i) => Math.cos(i)),
    [5, 2],
  ),
})
const token = Int32Array.of(1, 2, 3)
const keptStart = Int32Array.of(0, 2, 4, 6)
const kept = Int32Array.of(0, 1, 2, 3, 3, 4)
const policy = { advantage: Float32Array.of(1), sequenceStart: Int32Array.of(0, 3) }
const grads = { logsumexp: Float32Array.of(1, 1, 1), gradLogp: Float32Array.of(1, 1, 1) }

/** Every operation that looks at logits. */
const calls: Record<string, (inputs: object, options?: object) => Record<string, unknown>> = {
  tokenLogprob: (inputs, options) => tokenLogprob({ logits: three().logits, token, ...inputs }, options),
  tokenLogprobBackward: (inputs, options) =>
    tokenLogprobBackward({ logits: three().logits, token, ...grads, ...inputs }, options),
  policyLossFromLogits: (inputs, options) =>
    policyLossFromLogits({ logits: three().logits, token, ...policy, ...inputs }, options),
  linearTokenLogprob: (inputs, options) => {
    const { hidden, head } = three()
    return linearTokenLogprob({ hidden, head, token, ...inputs }, options)
  },
  linearTokenLogprobBackward: (inputs, options) => {
    const { hidden, head } = three()
    return linearTokenLogprobBackward({ hidden, head, token, ...grads, ...inputs }, options)
  },
  linearPolicyLoss: (inputs, options) => {
    const { hidden, head } = three()
    return linearPolicyLoss({ hidden, head, token, ...policy, ...inputs }, options)
  },
}
const names = Object.keys(calls)

describe.each(names)('%s refuses', (name) => {
  const call = calls[name]!
  const value = { error: RangeError, code: 'ERR_GRPO_VALUE' }
  test('one of the two without the other', () => {
    refuses(() => call({ kept }), { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'keptStart' })
    const bare = { keptStart: Int32Array.of(0, 0, 0, 0) }
    refuses(() => call(bare), { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'kept' })
  })
  test('offsets of another length, and those that do not rise from 0 to the ids', () => {
    const bad = (start: number[], code: string) =>
      refuses(() => call({ keptStart: Int32Array.from(start), kept }), {
        error: RangeError,
        code,
        argument: 'keptStart',
      })
    bad([0, 2, 6], 'ERR_GRPO_SHAPE')
    bad([1, 2, 4, 6], 'ERR_GRPO_VALUE')
    bad([0, 4, 2, 6], 'ERR_GRPO_VALUE')
    bad([0, 2, 4, 5], 'ERR_GRPO_VALUE')
  })
  test.each([
    [[0, 1, 2, 2, 3, 4], /has 2 at 3, in the set of row 1, after 2, expected ids that rise/],
    [[0, 1, 3, 2, 3, 4], /has 2 at 3, in the set of row 1, after 3, expected ids that rise/],
    [[0, 1, 2, 3, 3, 5], /has 5 at 5, in the set of row 2, expected 0 to 4/],
    [[-1, 1, 2, 3, 3, 4], /has -1 at 0, in the set of row 0, expected 0 to 4/],
  ])('ids %j', (ids, message) => {
    const inputs = { keptStart, kept: Int32Array.from(ids) }
    refuses(() => call(inputs), { ...value, argument: 'kept', message })
  })
  test('ids that are padding of the vocabulary', () => {
    const expected = { ...value, argument: 'kept', message: /has 4 at 5, in the set of row 2, which is padding/ }
    refuses(() => call({ keptStart, kept }, { validVocab: 4 }), expected)
  })
  test('nothing of a row that only masked tokens name', () => {
    call({ keptStart, kept: Int32Array.of(0, 1, 9, -3, 3, 4), mask: Uint8Array.of(1, 0, 1) })
  })
})

test('ids of a part of a vocabulary: any beyond it but its padding', () => {
  const part = (ids: number[]) => () =>
    calls.tokenLogprob!({ keptStart, kept: Int32Array.from(ids) }, { vocabStart: 10, validVocab: 4 })
  part([3, 12, 13, 15, 16, 2 ** 31 - 1])()
  const expected = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'kept' }
  refuses(part([3, 14, 13, 15, 16, 17]), { ...expected, message: /padding/ })
  refuses(part([3, 12, 13, 15, 17, 16]), { ...expected, message: /rise/ })
})

test('nothing is written where a set is refused', () => {
  const out = { gradLogits: array(new Float32Array(15).fill(7), [3, 5]) }
  const bad = Int32Array.of(0, 1, 2, 3, 4, 3)
  refuses(() => calls.policyLossFromLogits!({ keptStart, kept: bad }, { out }), {
    error: RangeError,
    code: 'ERR_GRPO_VALUE',
  })
  expect(out.gradLogits.data.every((x) => x === 7)).toBe(true)
})

// Nobody waits to see what lies on a device: the numbers say it.
if (backend !== 'cpu') {
  test.each([
    [[0, 1, 3, 2, 3, 4]],
    [[0, 1, 2, 2, 3, 4]],
    [[0, 1, -1, 3, 3, 4]],
    [[0, 1, 2, 5, 3, 4]],
    [[0, 1, 2, 2 ** 31 - 1, 3, 4]],
  ])('on a device a bad set %j makes its row NaN, and is counted', (ids) => {
    const sets = { keptStart, kept: cuda.upload(array(Int32Array.from(ids))) }
    const areNaN = (x: unknown) => Array.from((x as { data: Float32Array }).data, Number.isNaN)
    for (const name of ['tokenLogprob', 'linearTokenLogprob']) {
      const outputs = calls[name]!(sets)
      for (const key of ['logp', 'entropy', 'logsumexp']) expect(areNaN(outputs[key])).toEqual([false, true, false])
    }
    for (const name of ['policyLossFromLogits', 'linearPolicyLoss']) {
      const { loss, stats, logp } = calls[name]!(sets) as ReturnType<typeof policyLossFromLogits>
      expect(loss.data[0]).toBeNaN()
      expect(lossStats(stats).badIndex).toBe(1)
      expect(areNaN(logp)).toEqual([false, true, false])
      const masked = calls[name]!({ ...sets, mask: Uint8Array.of(1, 0, 1) }) as ReturnType<typeof policyLossFromLogits>
      expect(lossStats(masked.stats).badIndex).toBe(0)
      expect(masked.loss.data[0]).not.toBeNaN()
    }
    for (const name of ['tokenLogprobBackward', 'linearTokenLogprobBackward']) calls[name]!(sets)
  })
  test('on a device a bad temperature of a set of one id makes its row NaN', () => {
    const hidden = array(Float32Array.of(1, 2, 3, 4), [2, 2])
    const head = array(Float32Array.of(1, 0, 0, 1, 1, 1), [3, 2])
    const sets = {
      keptStart: Int32Array.of(0, 1, 2),
      kept: Int32Array.of(0, 1),
      rowTemperature: Float32Array.of(-1, 1),
    }
    const policy = {
      token: Int32Array.of(0, 1),
      advantage: Float32Array.of(1, 1),
      sequenceStart: Int32Array.of(0, 1, 2),
    }
    for (const ratio of ['token', 'sequence'] as const) {
      const { gradHidden, gradHead, stats } = linearPolicyLoss({ hidden, head, ...sets, ...policy }, { ratio })
      expect(Array.from(gradHidden.data, Number.isNaN)).toEqual([true, true, false, false])
      expect(Array.from(gradHead.data, Number.isNaN)).toEqual([true, true, false, false, false, false])
      expect(lossStats(stats).badIndex).toBe(1)
    }
  })
  test('on a device padding in a set', () => {
    const { logp } = tokenLogprob(
      { logits: three().logits, token, keptStart, kept: cuda.upload(array(kept)) },
      { validVocab: 4 },
    )
    expect(Array.from(logp.data, Number.isNaN)).toEqual([false, false, true])
  })
}

cpuDescribe('the memory of a call', () => {
  const sized = (dtype: 'f32' | 'bf16', most: number) => {
    const b = batch('f32', { rowTemperature: true, validVocab: valid, softcap: 6 })
    const { keptStart: start, kept: ids } = setsFor(b, { most })
    const linear = {
      hidden: floats(dtype, random(1).normals(R * 24), [R, 24]),
      head: floats(dtype, random(2).normals(V * 24), [V, 24]),
      headBias: floats(dtype, random(3).normals(V), [V]),
    }
    const inputs = { ...linear, ...b.inputs, keptStart: start, kept: ids }
    return { inputs: { ...inputs, advantage: Float32Array.of(1, -0.5), sequenceStart: Int32Array.of(0, 9, b.T) }, T: b.T } // biome-ignore format: a line
  }
  cpuTest.each(['f32', 'bf16'] as const)('is within what the plan says, in %s', (dtype) => {
    for (const ratio of ['token', 'sequence'] as const) {
      for (const count of [1, 3]) {
        const { inputs, T } = sized(dtype, 200)
        cpu.threads = count
        native.scratchPeak(true)
        linearPolicyLoss(inputs, { ratio, entropyCoef: 0.1 })
        const peak = native.scratchPeak(true)
        const sizes = { R, T, S: 2, D: 24, V, dtype, kept: inputs.kept.length }
        const { peakBytes } = linearPolicyLoss.plan(sizes, { ratio })
        expect(peak).toBeLessThanOrEqual(peakBytes)
        const more = linearPolicyLoss.plan({ ...sizes, kept: sizes.kept + 1e6 }, { ratio }).peakBytes - peakBytes
        expect(more / 1e6).toBeGreaterThan(20)
        expect(more / 1e6).toBeLessThan(30)
      }
    }
  })
  cpuTest('refuses a number of ids that is none', () => {
    const bad = () => linearPolicyLoss.plan({ R, T: R, D: 24, V, dtype: 'f32', kept: -1 })
    refuses(bad, { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'kept' })
  })
  cpuTest('any number of threads gives the same bits', () => {
    const { inputs } = sized('bf16', 200)
    const expected = linearPolicyLoss(inputs, { entropyCoef: 0.1 })
    for (const count of [1, 2, 5]) {
      cpu.threads = count
      const actual = linearPolicyLoss(inputs, { entropyCoef: 0.1 })
      for (const name of gradientNames) identical(actual[name]!, expected[name]!)
    }
  })
})
