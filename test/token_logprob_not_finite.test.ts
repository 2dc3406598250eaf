// Logits that are not finite, and probabilities far below the others, wherever in a row they stand: a kernel takes a row
// in vectors, several at a time, and what is left one by one.
import { describe, expect, test } from 'vitest'
import { array, linearTokenLogprob, tokenLogprob, tokenLogprobBackward } from '../lib/index.js'
import {
  tokenLogprobBackwardReference as backwardReference,
  tokenLogprobReference as reference,
} from './references/token_logprob.js'
import { backend } from './support/backend_kind.js'
import { accurate, values } from './support/compare.js'
import { dtypes, filled, forwardOf, type LogitsDType, logitsOf } from './support/logits_cases.js'
import { random } from './support/random.js'

const names = ['logp', 'entropy', 'logsumexp'] as const
const none = Number.NEGATIVE_INFINITY
/** Below a vector, in the last of several, in the middle, beyond what is summed at a time. */
const widths = [2, 7, 37, 150, 2100]
const placesIn = (V: number) => [...new Set([0, 1, V >> 1, V - 2, V - 1])].filter((v) => v >= 0 && v < V)

/** A row for each place, with `value` there. */
function rowsWith(dtype: LogitsDType, V: number, value: number) {
  const places = placesIn(V)
  const r = random(V)
  const data = r.normals(places.length * V, 2)
  places.forEach((v, row) => {
    data[row * V + v] = value
  })
  // Not the token of that place.
  const token = Int32Array.from(places, (v) => (v + 1) % V)
  return { logits: logitsOf(dtype, data, V), token, r }
}

describe.each(dtypes)('%s', (dtype) => {
  const columns = widths.flatMap((V) => [Number.NaN, Number.POSITIVE_INFINITY].map((value) => ({ V, value })))
  test.each(columns)('$value in one of $V columns: no softmax', ({ V, value }) => {
    const { logits, token } = rowsWith(dtype, V, value)
    const all = [{}, { vocabStart: 0 }]
    // An infinite logit becomes the cap.
    for (const options of Number.isNaN(value) ? [...all, { softcap: 30 }, { softcap: 30, temperature: 2 }] : all) {
      const forward = tokenLogprob({ logits, token }, options)
      for (const name of names) expect(forward[name].data.every(Number.isNaN), name).toBe(true)
      const gradLogp = filled(token.length, 1)
      const { gradLogits } = tokenLogprobBackward({ logits, token, ...forwardOf(forward), gradLogp }, options)
      expect(Array.from(values(gradLogits)).every(Number.isNaN)).toBe(true)
    }
  })

  test.each(widths.flatMap((V) => [1e37, 1, 0.01].map((temperature) => ({ V, temperature }))))(
    '-inf in one of $V columns at temperature $temperature: probability 0',
    ({ V, temperature }) => {
      const { logits, token, r } = rowsWith(dtype, V, none)
      const forward = tokenLogprob({ logits, token }, { temperature })
      const inputs = { logits: values(logits), V, token, temperature }
      const [exact, plain] = [reference(inputs), reference(inputs, Math.fround)]
      for (const name of names) accurate(forward[name], exact[name], plain[name])
      const gradients = { gradLogp: r.normals(token.length), gradEntropy: r.normals(token.length) }
      const all = { logits, token, ...forwardOf(forward), ...gradients }
      const { gradLogits } = tokenLogprobBackward(all, { temperature })
      placesIn(V).forEach((v, row) => {
        expect(values(gradLogits)[row * V + v]! + 0).toBe(0) // -0 is 0
      })
      const [exactly, plainly] = [undefined, Math.fround].map((round) =>
        backwardReference(inputs, gradients.gradLogp, gradients.gradEntropy, round),
      )
      accurate(gradLogits, exactly!, plainly!)
    },
  )

  // A row goes in pieces of 2048 columns, of which some have nothing but -inf: the first ones are measured from nothing yet.
  const pieces: [what: string, begin: number, end: number][] = [
    ['the first 2048', 0, 2048],
    ['the first 4096', 0, 4096],
    ['all but the last', 0, 4999],
    ['the second 2048', 2048, 4096],
    ['all but the first 2048', 2048, 5000],
  ]
  test.each(pieces)('-inf in %s of 5000 columns', (_, begin, end) => {
    const V = 5000
    const r = random(end)
    const data = r.normals(V, 2).fill(none, begin, end)
    const [logits, token] = [logitsOf(dtype, data, V), Int32Array.of(begin === 0 ? V - 1 : 7)]
    for (const vocabStart of [null, 0]) {
      const forward = tokenLogprob({ logits, token }, { vocabStart })
      const inputs = { logits: values(logits), V, token }
      const [exact, plain] = [reference(inputs), reference(inputs, Math.fround)]
      for (const name of names) accurate(forward[name], exact[name], plain[name])
      const gradients = { gradLogp: r.normals(1), gradEntropy: r.normals(1) }
      const { gradLogits } = tokenLogprobBackward(
        { logits, token, ...forwardOf(forward), ...gradients },
        { vocabStart },
      )
      const [exactly, plainly] = [undefined, Math.fround].map((round) =>
        backwardReference(inputs, gradients.gradLogp, gradients.gradEntropy, round),
      )
      accurate(gradLogits, exactly!, plainly!)
      expect(Array.from(values(gradLogits)).findIndex((x, v) => v >= begin && v < end && x !== 0)).toBe(-1)
    }
    data[begin + 100] = Number.NaN
    const broken = tokenLogprob({ logits: logitsOf(dtype, data, V), token })
    for (const name of names) expect(broken[name].data[0], name).toBeNaN()
  })

  test.each(widths)('a part of a vocabulary of %i columns, -inf and one NaN, is no part without a token', (V) => {
    const places = placesIn(V)
    const data = filled(places.length * V, none)
    places.forEach((v, row) => {
      data[row * V + v] = Number.NaN
    })
    const logits = logitsOf(dtype, data, V)
    for (const column of [0, V]) {
      const forward = tokenLogprob({ logits, token: new Int32Array(places.length).fill(column) }, { vocabStart: 0 })
      for (const name of names) expect(forward[name].data.every(Number.isNaN), name).toBe(true)
    }
  })

  // Each entry is -p: where one column has all the weight, those of the others have digits of their own.
  test.each([-20, -40, -60, -80])('probabilities of e^%i', (level) => {
    const V = 150
    const r = random(6)
    const data = r.uniforms(V, level - 0.5, level + 0.5)
    data[0] = 0
    const [logits, token] = [logitsOf(dtype, data, V), new Int32Array(1)]
    const inputs = { logits, token, ...forwardOf(tokenLogprob({ logits, token })), gradLogp: filled(1, 1) }
    const { gradLogits } = tokenLogprobBackward(inputs, { out: { gradLogits: array(filled(V, 5), [1, V]) } })
    const small = [undefined, Math.fround].map((round) =>
      backwardReference({ logits: values(logits), V, token }, [1], undefined, round).subarray(1),
    )
    expect(small[0]!.every((g) => g < 0)).toBe(true)
    const others = (gradLogits.data as Float32Array).slice(1)
    if (backend === 'cpu') return accurate(array(others), small[0]!, small[1]!)
    // A device takes 2 to the power of a product, the last digit of which is worth |level| digits of the result.
    const off = others.map((g, i) => Math.abs(g / small[0]![i]! - 1))
    expect(Math.max(...off)).toBeLessThan((2 - level) * 2 ** -23)
  })
})

describe('hidden states and a head', () => {
  // The vocabulary in blocks of 512 columns on a CPU.
  const [D, V] = [2, 1300]
  const r = random(3)
  const hidden = array(r.normals(D), [1, D])
  const head = array(r.normals(V * D), [V, D])
  const token = new Int32Array([700])
  const withBias = (...at: [number, number][]) => {
    const bias = filled(V, none)
    for (const [v, value] of at) bias[v] = value
    return linearTokenLogprob({ hidden, head, headBias: array(bias), token })
  }

  test('a row of -inf has no softmax', () => {
    for (const name of names) expect(withBias()[name].data[0], name).toBeNaN()
  })
  test.each<[string, [number, number][]]>([
    ['a NaN', [[5, Number.NaN]]],
    ['a NaN in one block and a number in another', [[5, Number.NaN], [700, 0]]],
    ['a NaN in the last block and numbers in the others', [[1299, Number.NaN], [700, 0], [3, 1]]],
  ])('a row of -inf and %s has no softmax', (_, at) => {
    for (const name of names) expect(withBias(...at)[name].data[0], name).toBeNaN()
  }) // biome-ignore format: columns and values
  test('a row of -inf but for one column', () => {
    const forward = withBias([700, 0])
    expect([forward.logp.data[0], forward.entropy.data[0]]).toEqual([0, 0])
    expect(forward.logsumexp.data[0]).toBeCloseTo(
      hidden.data[0]! * head.data[1400]! + hidden.data[1]! * head.data[1401]!,
      5,
    )
  })
})
