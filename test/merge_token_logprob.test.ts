import { describe, expect, test } from 'vitest'
import { array, type HostArray, mergeTokenLogprob, tokenLogprob, tokenLogprobBackward } from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { names, type Part, reference } from './references/merge_token_logprob.js'
import { tokenLogprobBackwardReference, tokenLogprobReference } from './references/token_logprob.js'
import { backend } from './support/backend_kind.js'
import { accurate, exactly, golden, identical, refuses, ulp } from './support/compare.js'
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
    const largest = tokenLogprob({ logits, token: new Int32Array([2 ** 31 - 1]) }, { vocabStart: 0 })
    expect(largest.logp.data[0]).toBe(-Infinity)
    identical(largest.logsumexp, here.logsumexp)
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
  test('a probability of 1 in one part, which says 0, 0, 0 where its only logit is 0', () => {
    const empty = part(-Infinity, 0, -Infinity)
    expect(only(mergeTokenLogprob([part(0, 0, 3), empty]))).toEqual([0, 0, 3])
    for (const list of [
      [empty, part(0, 0, 0)],
      [empty, part(0, 0, 0), empty],
    ]) {
      expect(only(mergeTokenLogprob(list))).toEqual([0, 0, 0])
    }
    // Columns 0 | 0 | log 2 of three ranks: p = 1/4, H = 1.5 log 2.
    const merged = mergeTokenLogprob([part(-Infinity, 0, 0), part(0, 0, 0), part(-Infinity, 0, Math.log(2))])
    golden(merged.logp, [Math.log(1 / 4)], 1)
    golden(merged.entropy, [1.5 * Math.log(2)], 1)
    golden(merged.logsumexp, [Math.log(4)], 1)
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
})

describe('merged at once', () => {
  /** Parts of a vocabulary of so many tokens each, of logits so wide, as ranks would exchange them. */
  function parts(count: number, T: number, seed: number, width = 4): Part[] {
    const r = random(seed)
    const owner = Int32Array.from({ length: T }, () => r.integer(count))
    return Array.from({ length: count }, (_, i) => ({
      logp: f32(...Array.from(r.uniforms(T, -6, -0.01), (x, t) => (owner[t] === i ? x : -Infinity))),
      entropy: f32(...r.uniforms(T, 0, 5)),
      logsumexp: f32(...r.normals(T, width)),
    }))
  }
  /** Half a unit of float32, and what float64 may lose: a unit of the largest number for each part. */
  function roundedOnce(merged: Part, list: Part[]): void {
    for (const name of names) {
      merged[name].data.forEach((x, t) => {
        const exact = reference(list, t)[name]
        const largest = Math.max(...list.map((one) => Math.abs(one.logsumexp.data[t] as number)), 1)
        const limit = ulp(exact, 'f32') / 2 + list.length * 2 ** -52 * largest
        expect(Math.abs(x - exact), `${name}[${t}] is ${x}, expected ${exact}`).toBeLessThanOrEqual(limit)
      })
    }
  }

  // A tile of the CPU's kernel has 256 tokens, a piece of its work 4,096.
  test.each([
    [1, 300],
    [2, 4500],
    [3, 257],
    [5, 1000],
    [8, 300],
    [64, 100],
  ])('%d parts, %d tokens: rounded to float32 once', (count, T) => {
    const list = parts(count, T, 7 + count)
    const merged = mergeTokenLogprob(list)
    if (count === 1) for (const name of names) identical(merged[name], list[0]![name])
    roundedOnce(merged, list)
    const [exact, plain] = [undefined, Math.fround].map((round) =>
      Array.from({ length: T }, (_, t) => reference(list, t, round)),
    )
    for (const name of names) {
      accurate(
        merged[name],
        exact!.map((x) => x[name]),
        plain!.map((x) => x[name]),
      )
    }
  })

  test('of a part that holds nearly all of the probability, what is left to the others is not lost', () => {
    // log(1 + S) with S = exp(-30) and exp(-50), where 1 + S is 1 in float64.
    for (const below of [30, 50]) {
      const merged = mergeTokenLogprob([part(0, 0, 4), part(-Infinity, 0, 4 - below)])
      golden(merged.logp, [-Math.log1p(Math.exp(-below))], 1)
      golden(merged.entropy, [Math.exp(-below) * (1 + below)], 1)
    }
  })

  test('a token has the same bits wherever it stands, and whichever of the outputs are wanted', () => {
    const list = parts(3, 600, 3)
    const whole = mergeTokenLogprob(list)
    const from = (x: F32, t: number) => array(x.data.slice(t))
    for (const t of [1, 2, 255, 257, 599]) {
      const rest = list.map((x) => ({ logp: from(x.logp, t), entropy: from(x.entropy, t), logsumexp: from(x.logsumexp, t) })) // biome-ignore format: a line
      const merged = mergeTokenLogprob(rest)
      for (const name of names) identical(merged[name], from(whole[name], t))
    }
    for (const name of names) {
      const others = names.filter((x) => x !== name).map((x) => [x, null])
      identical(mergeTokenLogprob(list, { out: Object.fromEntries(others) })[name], whole[name])
    }
  })

  test('another order of the parts changes a last digit at most', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 9 }), fc.nat(1000), (count, seed) => {
        const list = parts(count, 5, seed, 8)
        const orders = [list, [...list].reverse(), [...list.slice(1), list[0]!]]
        for (const order of orders) roundedOnce(mergeTokenLogprob(order), list)
        // The same list is the same bits.
        for (const name of names) identical(mergeTokenLogprob([...list])[name], mergeTokenLogprob(list)[name])
      }),
      { numRuns: 30 },
    )
  })

  test('a token whose parts are masked beside one whose parts are not, and one with a part of NaN', () => {
    const list: Part[] = [
      { logp: f32(0, -1, -1), entropy: f32(0, 1, 1), logsumexp: f32(0, 2, 2) },
      { logp: f32(0, -Infinity, Number.NaN), entropy: f32(0, 1, Number.NaN), logsumexp: f32(0, 3, Number.NaN) },
      { logp: f32(0, -Infinity, -Infinity), entropy: f32(0, 0, 0), logsumexp: f32(0, -Infinity, -Infinity) },
    ]
    const merged = mergeTokenLogprob(list)
    for (const name of names) {
      expect(merged[name].data[0]).toBe(0)
      expect(merged[name].data[1]).toBe(Math.fround(reference(list, 1)[name]))
      expect(merged[name].data[2]).toBeNaN()
    }
  })

  test('as promises: the same bits, for one, two and more parts, and a signal with a reason of any kind', async () => {
    for (const count of [1, 2, 5]) {
      const list = parts(count, 300, count)
      const expected = mergeTokenLogprob(list)
      const merged = await promises.mergeTokenLogprob(list)
      for (const name of names) identical(merged[name], expected[name])
      const stopped = new AbortController()
      const refused = promises.mergeTokenLogprob(list, { signal: stopped.signal }).catch((reason: unknown) => reason)
      stopped.abort(null)
      // Too late where the work is already done: then it is the result.
      const result = await refused
      if (result !== null) for (const name of names) identical((result as Part)[name], expected[name])
    }
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
    const other = part(-Infinity, 0.5, 2)
    for (const list of [[good], [good, other], [good, other, other]]) {
      refuses(() => mergeTokenLogprob(list, { temperature: 1 } as object), error)
    }
  })
  test('memory that could shrink under a promise is named by its place in the list', async () => {
    if (backend !== 'cpu') return
    const resizable = (x: number) => {
      const Resizable = ArrayBuffer as unknown as new (bytes: number, options: object) => ArrayBuffer
      const data = new Float32Array(new Resizable(4, { maxByteLength: 8 }))
      data[0] = x
      return array(data)
    }
    const other = part(-Infinity, 0.5, 2)
    const last = { ...other, entropy: resizable(0.5) }
    for (const [list, place] of [
      [[{ ...good, entropy: resizable(0.5) }, other], 0],
      [[good, last], 1],
      [[good, other, last], 2],
    ] as const) {
      expect(only(mergeTokenLogprob([...list]))).not.toContain(Number.NaN)
      const refused = await promises.mergeTokenLogprob([...list]).catch((reason: unknown) => reason)
      refuses(
        () => {
          throw refused
        },
        {
          error: RangeError,
          code: 'ERR_GRPO_VALUE',
          argument: `list[${place}].entropy`,
          message: exactly(
            `mergeTokenLogprob: list[${place}].entropy lies in a resizable ArrayBuffer, which could shrink under the ` +
              'call; expected one of fixed length',
          ),
        },
      )
    }
  })
})
