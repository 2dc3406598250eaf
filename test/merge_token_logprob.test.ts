import { describe, expect, test } from 'vitest'
import { array, type HostArray, mergeTokenLogprob, tokenLogprob, tokenLogprobBackward } from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { names, type Part, reference } from './references/merge_token_logprob.js'
import { tokenLogprobBackwardReference, tokenLogprobReference } from './references/token_logprob.js'
import { backend } from './support/backend_kind.js'
import { accurate, exactly, golden, identical, refuses } from './support/compare.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

type F32 = HostArray<'f32'>
const f32 = (...x: number[]): F32 => array(Float32Array.from(x))
const part = (logp: number, entropy: number, logsumexp: number): Part => ({
  logp: f32(logp),
  entropy: f32(entropy),
  logsumexp: f32(logsumexp),
})
const only = (x: Part) => names.map((name) => x[name].data[0])

/** Logits whose columns are split at `cuts`, and what each part gives. */
function split(cuts: number[], R = 12, V = 211, seed = 2) {
  const r = random(seed)
  const data = r.normals(R * V, 3)
  const token = Int32Array.from({ length: R }, () => r.integer(V))
  const ends = [0, ...cuts, V]
  const shards = ends.slice(1).map((end, i) => {
    const begin = ends[i] as number
    const width = end - begin
    const columns = new Float32Array(R * width)
    for (let row = 0; row < R; row++) columns.set(data.subarray(row * V + begin, row * V + end), row * width)
    return { logits: array(columns, [R, width]), vocabStart: begin }
  })
  return { r, R, V, data, token, logits: array(data, [R, V]), shards }
}

describe('parts of a vocabulary', () => {
  test.each([[[100]], [[1, 2, 200]], [[30, 60, 90, 120, 150, 180]]])('cut at %j: the outputs of the whole', (cuts) => {
    const { shards, token, data, V, R, r } = split(cuts)
    const mask = r.mask(R)
    const parts = shards.map(({ logits, vocabStart }) => tokenLogprob({ logits, token, mask }, { vocabStart }))
    const merged = mergeTokenLogprob(parts)
    const exact = tokenLogprobReference({ logits: data, V, token, mask })
    // The plain formula on the float32 values that the ranks exchange.
    const plain = Array.from(token, (_, t) => (mask[t] ? reference(parts, t, Math.fround) : undefined))
    for (const name of names)
      accurate(
        merged[name],
        exact[name],
        plain.map((x) => x?.[name] ?? 0),
      )
  })

  test.each([1, 0.6])('the gradient of a part, from the merged logsumexp, temperature %d', (temperature) => {
    const { shards, token, R, r } = split([50, 90])
    const parts = shards.map(({ logits, vocabStart }) => tokenLogprob({ logits, token }, { vocabStart, temperature }))
    const { logsumexp, entropy } = mergeTokenLogprob(parts)
    const grads = { gradLogp: r.normals(R), gradEntropy: r.normals(R) }
    shards.forEach(({ logits, vocabStart }) => {
      const options = { vocabStart, temperature }
      const { gradLogits } = tokenLogprobBackward({ logits, token, logsumexp, entropy, ...grads }, options)
      const whole = { logsumexp: logsumexp.data, entropy: entropy.data, vocabStart }
      const inputs = { logits: logits.data, V: logits.shape[1] as number, token, temperature, whole }
      const [exact, plain] = [undefined, Math.fround].map((round) =>
        tokenLogprobBackwardReference(inputs, grads.gradLogp, grads.gradEntropy, round),
      )
      accurate(gradLogits, exact!, plain!)
    })
  })

  test('a token of another rank has logp -inf here; vocabStart 0 is a part, null is the whole', () => {
    const logits = array(new Float32Array([1, 2]), [1, 2])
    const token = new Int32Array([5])
    const logsumexp = Math.log(Math.exp(1) + Math.exp(2))
    const here = tokenLogprob({ logits, token }, { vocabStart: 0 })
    golden(here.logp, [-Infinity], 1)
    golden(here.logsumexp, [logsumexp], 1)
    // A device sums a row in float32, with an exponential that is off by up to two digits.
    const digits = backend === 'cpu' ? 1 : 4
    golden(tokenLogprob({ logits, token }, { vocabStart: 4 }).logp, [2 - logsumexp], digits)
    for (const options of [{}, { vocabStart: null }]) {
      const value = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'token' }
      refuses(() => tokenLogprob({ logits, token }, options), value)
    }
    refuses(() => tokenLogprob({ logits, token }, { vocabStart: -1 }), { error: RangeError, code: 'ERR_GRPO_OPTION' })
  })

  test('columns that are all -inf add nothing, forward and backward', () => {
    const none = array(new Float32Array(3).fill(-Infinity), [1, 3])
    const some = array(new Float32Array([1, 2]), [1, 2])
    const token = new Int32Array([4])
    const nothing = tokenLogprob({ logits: none, token }, { vocabStart: 0 })
    expect(only(nothing)).toEqual([-Infinity, 0, -Infinity])
    // The same for a token that is among them.
    expect(only(tokenLogprob({ logits: none, token: new Int32Array([1]) }, { vocabStart: 0 }))).toEqual(only(nothing))
    const something = tokenLogprob({ logits: some, token }, { vocabStart: 3 })
    for (const list of [
      [nothing, something],
      [something, nothing],
      [nothing, nothing, something],
    ]) {
      for (const name of names) identical(mergeTokenLogprob(list)[name], something[name])
    }
    expect(only(mergeTokenLogprob([nothing, nothing]))).toEqual([-Infinity, 0, -Infinity])
    const whole = { logsumexp: something.logsumexp, gradLogp: f32(2) }
    const { gradLogits } = tokenLogprobBackward({ logits: none, token, ...whole }, { vocabStart: 0 })
    expect(Array.from(gradLogits.data, (x) => x + 0)).toEqual([0, 0, 0]) // -0 is 0
    // Here the token itself has probability 0: its entry is its coefficient.
    const zero = tokenLogprobBackward({ logits: none, token: new Int32Array([1]), ...whole }, { vocabStart: 0 })
    expect(Array.from(zero.gradLogits.data, (x) => x + 0)).toEqual([0, 2, 0])
  })
})

describe('edges', () => {
  const nan = part(Number.NaN, Number.NaN, Number.NaN)
  test('golden: log 2 and log 6 of logits log 2, log 1 | log 5', () => {
    // p = 2/8, 1/8 | 5/8 and the token is the second.
    const merged = mergeTokenLogprob([
      part(Math.log(1 / 3), -(2 / 3) * Math.log(2 / 3) - (1 / 3) * Math.log(1 / 3), Math.log(3)),
      part(-Infinity, 0, Math.log(5)),
    ])
    golden(merged.logp, [Math.log(1 / 8)], 1)
    golden(merged.entropy, [-[2 / 8, 1 / 8, 5 / 8].reduce((sum, p) => sum + p * Math.log(p), 0)], 1)
    golden(merged.logsumexp, [Math.log(8)], 1)
  })
  test('one part: copies', () => {
    const x = part(-1, 0.5, 2)
    const merged = mergeTokenLogprob([x])
    expect(only(merged)).toEqual([-1, 0.5, 2])
    for (const name of names) expect(merged[name].data).not.toBe(x[name].data)
    expect(only(mergeTokenLogprob([nan]))).toEqual([Number.NaN, Number.NaN, Number.NaN])
    expect(only(mergeTokenLogprob([part(-Infinity, 0, -Infinity)]))).toEqual([-Infinity, 0, -Infinity])
  })
  test('masked tokens stay 0, in any number of parts', () => {
    const masked = part(0, 0, 0)
    for (const n of [1, 2, 3]) expect(only(mergeTokenLogprob(Array(n).fill(masked)))).toEqual([0, 0, 0])
  })
  test('a masked token beside one that every part holds whole; a probability of 1 in one part', () => {
    // p = 1 has logp 0: with an entropy or a logsumexp it is no masked token.
    expect(only(mergeTokenLogprob([part(0, 0, 3), part(-Infinity, 0, -Infinity)]))).toEqual([0, 0, 3])
    expect(only(mergeTokenLogprob([part(-Infinity, 0, -Infinity), part(0, 0, 0)]))).toEqual([0, 0, 0])
  })
  test('a token in no part', () => {
    expect(mergeTokenLogprob([part(-Infinity, 1, 2), part(-Infinity, 1, 3)]).logp.data[0]).toBe(-Infinity)
  })
  test('NaN spreads, from any part', () => {
    const good = part(-1, 0.5, 2)
    const other = part(-Infinity, 0.5, -Infinity)
    for (const list of [
      [nan, good],
      [good, nan],
      [nan, other],
      [other, nan],
      [other, nan, good],
    ]) {
      expect(only(mergeTokenLogprob(list))).toEqual([Number.NaN, Number.NaN, Number.NaN])
    }
  })
  test('parts far apart', () => {
    expect(only(mergeTokenLogprob([part(-1, 0.5, 1e4), part(-Infinity, 3, -1e4)]))).toEqual([-1, 0.5, 1e4])
    expect(only(mergeTokenLogprob([part(-Infinity, 0.5, 1e4), part(-1, 3, -1e4)]))).toEqual([-20001, 0.5, 1e4])
  })
  test('no tokens; outputs that are given or not wanted; promises', async () => {
    const none = { logp: f32(), entropy: f32(), logsumexp: f32() }
    expect(mergeTokenLogprob([none, none]).logp.data.length).toBe(0)
    const list = [part(-1, 0.5, 2), part(-Infinity, 1, 1), part(-Infinity, 0, 0)]
    const expected = mergeTokenLogprob(list)
    const logp = new Float32Array(1)
    const merged = mergeTokenLogprob(list, { out: { logp, entropy: null } })
    expect(merged.logp.data).toBe(logp)
    expect(merged).not.toHaveProperty('entropy')
    identical(merged.logp, expected.logp)
    identical((await promises.mergeTokenLogprob(list)).entropy, expected.entropy)
  })
  test('the order of parts changes last digits only', () => {
    fc.assert(
      fc.property(fc.array(fc.float({ min: -20, max: 20, noNaN: true }), { minLength: 2, maxLength: 9 }), (list) => {
        const parts = list.map((logsumexp, i) => part(i === 0 ? -0.5 : -Infinity, 0, logsumexp))
        const [a, b] = [mergeTokenLogprob(parts), mergeTokenLogprob([...parts].reverse())]
        for (const name of names) {
          const [x, y] = [a[name].data[0] as number, b[name].data[0] as number]
          // Each of up to 8 steps rounds a number of at most 40 to float32.
          expect(Math.abs(x - y)).toBeLessThanOrEqual(16 * 2 ** -19)
        }
      }),
    )
  })
})

describe('a token that more than one part claims', () => {
  // The right value of a vocabulary that every rank holds whole would be one part's own, -2.44: twice it is no part of any.
  const replicated = () =>
    tokenLogprob(
      { logits: array(new Float32Array([1, 2, 3, 4]), [1, 4]), token: new Int32Array([1]) },
      { vocabStart: 0 },
    )
  const nowhere = part(-Infinity, 0.5, 1)
  const lists: [string, () => Part[], string, string][] = [
    ['twice the same', () => [replicated(), replicated()], 'list[1].logp', 'as list[0].logp'],
    ['the first and the last', () => [part(-1, 1, 2), nowhere, part(-3, 1, 2)], 'list[2].logp', 'as a part before it'],
    ['the last two', () => [nowhere, part(-1, 1, 2), nowhere, part(0, 1, 2)], 'list[3].logp', 'as a part before it'],
    ['a masked token in one of them', () => [part(0, 0, 0), part(-1, 0.5, 2)], 'list[1].logp', 'as list[0].logp'],
  ]
  test.each(lists)('%s', async (_, list, argument, words) => {
    if (backend !== 'cpu') {
      // Nobody waits for what lies on a device.
      expect(only(mergeTokenLogprob(list()))).toEqual([Number.NaN, Number.NaN, Number.NaN])
      return
    }
    const why = 'does, but one part of a vocabulary holds it: replicated logits are no parts'
    const message = exactly(`mergeTokenLogprob: ${argument} claims token 0, ${words} ${why}`)
    const error = { error: RangeError, code: 'ERR_GRPO_VALUE', argument, message }
    refuses(() => mergeTokenLogprob(list()), error)
    const refused = await promises.mergeTokenLogprob(list()).catch((reason: unknown) => reason)
    refuses(() => {
      throw refused
    }, error)
  })
  test('the token is named, and nothing is written', () => {
    if (backend !== 'cpu') return
    const of = (...logp: number[]) => ({ logp: f32(...logp), entropy: f32(1, 1, 1), logsumexp: f32(2, 2, 2) })
    const logp = new Float32Array([7, 7, 7])
    const merge = () => mergeTokenLogprob([of(-1, -Infinity, -3), of(-Infinity, -2, -3)], { out: { logp } })
    refuses(merge, { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'list[1].logp', message: /claims token 2,/ })
    expect(Array.from(logp)).toEqual([7, 7, 7])
  })
})

describe('bad input', () => {
  const good = part(-1, 0.5, 2)
  const merge = (list: unknown) => () => mergeTokenLogprob(list as Part[])
  test('an empty list, or none', () => {
    const empty = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'list', message: /is empty/ }
    refuses(merge([]), empty)
    refuses(merge(good), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'list' })
    refuses(merge([good, null]), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'list[1]' })
  })
  test('arrays of another length, dtype or kind are named by their place in the list', () => {
    const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE' }
    refuses(merge([good, { ...good, entropy: f32(1, 2) }]), { ...shape, argument: 'list[1].entropy' })
    refuses(merge([{ ...good, logsumexp: f32() }]), { ...shape, argument: 'list[0].logsumexp' })
    const dtype = { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'list[0].logp' }
    refuses(merge([{ ...good, logp: new Int32Array(1) }]), dtype)
    refuses(merge([{ logp: good.logp }]), { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'list[0].entropy' })
  })
  test('an option that is none', () => {
    const error = { error: TypeError, code: 'ERR_GRPO_OPTION', argument: 'temperature' }
    refuses(() => mergeTokenLogprob([good], { temperature: 1 } as object), error)
  })
})
