// Sets of ids that rows were sampled from: the softmax of a row runs over its set alone. The operations on logits, and
// those that form them from hidden states.
import { describe, expect, test } from 'vitest'
import {
  array,
  type HostArray,
  linearPolicyLoss,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  lossStats,
  mergeTokenLogprob,
  policyLoss,
  policyLossFromLogits,
  tokenLogprob,
  tokenLogprobBackward,
} from '../lib/index.js'
import { linearGradients, linearLogits } from './references/linear.js'
import { type LogitsInputs, tokenLogprobBackwardReference, tokenLogprobReference } from './references/token_logprob.js'
import { backend } from './support/backend_kind.js'
import { accurate, accurateRows, golden, identical, values } from './support/compare.js'
import { setsFor } from './support/kept_cases.js'
import { floats, gradientNames } from './support/linear_cases.js'
import { forwardOf, type LogitsDType, logitsOf } from './support/logits_cases.js'
import { type Batch, batch, D, names, R, V, valid } from './support/option_cases.js'
import { random } from './support/random.js'
import { setsOf } from './support/sets_of.js'

const dtypes: LogitsDType[] = ['f32', 'bf16']
const settings = [
  { rowTemperature: false, validVocab: null, softcap: null },
  { rowTemperature: true, validVocab: valid, softcap: null },
  { rowTemperature: false, validVocab: null, softcap: 30 },
  { rowTemperature: true, validVocab: valid, softcap: 6 },
]
/** With sets: none of their rows is looked at beyond what the set keeps. */
function keptBatch(dtype: LogitsDType, setting: (typeof settings)[number], which?: Parameters<typeof setsFor>[1]) {
  const b = batch(dtype, setting)
  const { keptStart, kept, lists } = setsFor(b, which)
  const data = Float32Array.from(values(b.logits))
  lists.forEach((list, r) => {
    for (let v = 0; v < V && list.length > 0; v++) if (!list.includes(v)) data[r * V + v] = Number.NaN
  })
  return { ...b, logits: logitsOf(dtype, data, V), inputs: { ...b.inputs, keptStart, kept }, lists }
}
type KeptBatch = ReturnType<typeof keptBatch>
const plainOf = (b: KeptBatch, logits: ArrayLike<number>): LogitsInputs => ({ logits, V, ...b.inputs, ...b.options })
const isOutside = (b: KeptBatch, t: number) => {
  const set = b.lists[b.inputs.row[t] as number] as number[]
  return set.length > 0 && !set.includes(b.inputs.token[t] as number)
}

/** Of the operations on hidden states: exact, and by the plain float32 formula. */
function linearReference(b: KeptBatch) {
  const rows = b.options.validVocab ?? V
  const [hidden, head, headBias] = [b.linear.hidden, b.linear.head, b.linear.headBias].map(values) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ]
  const clean = (x: Float64Array) => x.map((v) => (Number.isNaN(v) ? 0 : v)) // padding
  const matrices = { hidden, head: clean(head), headBias: clean(headBias), D, rows }
  const of = (round?: (x: number) => number) => {
    const plain = plainOf(b, linearLogits(matrices, round))
    const gradLogits = tokenLogprobBackwardReference(plain, b.grads.gradLogp, b.grads.gradEntropy, round)
    return { ...tokenLogprobReference(plain, round), ...linearGradients(matrices, gradLogits, round) }
  }
  return { exact: of(), plain: of(Math.fround) }
}

function linearBackward(b: KeptBatch, options: object = {}) {
  const { logsumexp, entropy } = linearTokenLogprob({ ...b.linear, ...b.inputs }, b.options)
  return linearTokenLogprobBackward(
    { ...b.linear, ...b.inputs, logsumexp, entropy, ...b.grads },
    { ...b.options, ...options },
  )
}

describe.each(dtypes)('%s', (dtype) => {
  describe.each(settings)('own temperatures: $rowTemperature, columns: $validVocab, soft-cap: $softcap', (setting) => {
    test('of logits, forward and backward', () => {
      const b = keptBatch(dtype, setting)
      expect(Array.from(b.inputs.token.keys()).filter((t) => b.inputs.mask[t] && isOutside(b, t))).not.toHaveLength(0)
      const forward = tokenLogprob({ logits: b.logits, ...b.inputs }, b.options)
      const plain = plainOf(b, values(b.logits))
      const [expected, rounded] = [tokenLogprobReference(plain), tokenLogprobReference(plain, Math.fround)]
      for (const name of names) accurate(forward[name], expected[name], rounded[name])

      const { logsumexp, entropy } = forward
      const given = { logits: b.logits, ...b.inputs, logsumexp, entropy, ...b.grads }
      const { gradLogits } = tokenLogprobBackward(given, b.options)
      const of = (round?: (x: number) => number) =>
        tokenLogprobBackwardReference(plain, b.grads.gradLogp, b.grads.gradEntropy, round)
      accurate(gradLogits, of(), of(Math.fround))
      // Outside the sets it is exactly 0.
      b.lists.forEach((list, r) => {
        const row = Array.from(values(gradLogits)).slice(r * V, (r + 1) * V)
        if (list.length > 0) expect(row.filter((g, v) => g !== 0 && !list.includes(v))).toEqual([])
      })
      const inPlace = { ...b.options, out: { gradLogits: logitsOf(dtype, Float32Array.from(values(b.logits)), V) } }
      identical(tokenLogprobBackward({ ...given, logits: inPlace.out.gradLogits }, inPlace).gradLogits, gradLogits)
    })

    test('from hidden states, forward and backward', () => {
      const b = keptBatch(dtype, setting)
      const { exact, plain } = linearReference(b)
      const forward = linearTokenLogprob({ ...b.linear, ...b.inputs }, b.options)
      for (const name of names) accurate(forward[name], exact[name], plain[name])
      const result = linearBackward(b)
      for (const name of gradientNames) accurateRows(result[name]!, exact[name], plain[name])
    })

    test('from hidden states, where every row has a set', () => {
      const b = keptBatch(dtype, setting, { whole: [] })
      const { exact, plain } = linearReference(b)
      const result = linearBackward(b)
      for (const name of gradientNames) accurateRows(result[name]!, exact[name], plain[name])
    })

    // The operations in one have the bits of the ones that they are made of.
    test.each(['token', 'sequence'] as const)('the losses, ratio of the %s', (ratio) => {
      const b = keptBatch(dtype, setting)
      const policy = {
        oldLogp: random(2).uniforms(b.T, -8, -4),
        advantage: Float32Array.of(1, -0.5),
        sequenceStart: Int32Array.of(0, 9, b.T),
      }
      const objective = { ratio, entropyCoef: 0.02 }
      const steps = (forward: Record<(typeof names)[number], HostArray<'f32'>>) =>
        policyLoss({ ...policy, logp: forward.logp, entropy: forward.entropy, mask: b.inputs.mask }, objective)

      const forward = tokenLogprob({ logits: b.logits, ...b.inputs }, b.options)
      const byStep = steps(forward)
      expect(byStep.loss.data[0]).not.toBeNaN()
      const { gradLogp, gradEntropy } = byStep
      const { logsumexp, entropy } = forward
      const { gradLogits } = tokenLogprobBackward(
        { logits: b.logits, ...b.inputs, logsumexp, entropy, gradLogp, gradEntropy: gradEntropy! },
        b.options,
      )
      const fused = policyLossFromLogits({ logits: b.logits, ...b.inputs, ...policy }, { ...b.options, ...objective })
      identical(fused.loss, byStep.loss)
      identical(fused.gradLogits, gradLogits)
      identical(fused.logp, forward.logp)

      const ofHidden = linearTokenLogprob({ ...b.linear, ...b.inputs }, b.options)
      const linear = linearPolicyLoss({ ...b.linear, ...b.inputs, ...policy }, { ...b.options, ...objective })
      const loss = steps(ofHidden)
      identical(linear.loss, loss.loss)
      identical(linear.logp, ofHidden.logp)
      const gradients = linearTokenLogprobBackward(
        {
          ...b.linear,
          ...b.inputs,
          ...{ logsumexp: ofHidden.logsumexp, entropy: ofHidden.entropy },
          ...{ gradLogp: loss.gradLogp, gradEntropy: loss.gradEntropy! },
        },
        b.options,
      )
      for (const name of gradientNames) identical(linear[name]!, gradients[name]!)
    })
  })

  test.each([{ whole: [] }, { whole: [3, 4] }])(
    'accumulate adds to the rows of the head that are kept; without a set: $whole',
    ({ whole }) => {
      const b = keptBatch(dtype, settings[1]!, { whole })
      const alone = linearBackward(b, { out: zeros(b) })
      const held = () => ({
        gradHead: floats(dtype, random(8).normals(V * D), [V, D]),
        gradHeadBias: array(random(9).normals(V), [V]),
      })
      const sums = linearBackward(b, { accumulate: true, out: held() })
      const before = held()
      const touched = (v: number) => whole.length > 0 ? v < valid : b.lists.slice(0, -1).some((list) => list.length > 1 && list.includes(v)) // biome-ignore format: a line
      for (const name of ['gradHead', 'gradHeadBias'] as const) {
        const [x, y] = [values(before[name]), values(alone[name]!)]
        golden(
          sums[name]!,
          Float64Array.from(x, (v, i) => v + (y[i] as number)),
          1,
        )
        const width = name === 'gradHead' ? D : 1
        const left = Array.from(values(sums[name]!)).filter((_, i) => !touched(Math.floor(i / width)))
        expect(left).toEqual(Array.from(x).filter((_, i) => !touched(Math.floor(i / width))))
      }
      identical(sums.gradHidden, linearBackward(b).gradHidden)
    },
  )

  test('a vocabulary split over ranks: the parts merged are the whole', () => {
    const b = keptBatch(dtype, settings[1]!)
    const cut = Math.floor(V / 2)
    const cuts = [
      { begin: 0, end: cut, validVocab: null },
      { begin: cut, end: V, validVocab: valid - cut },
    ]
    const { exact, plain } = linearReference(b)
    const parts = cuts.map(({ begin, end, validVocab }) => {
      const rows = (x: HostArray, width: number) =>
        array(
          x.data.slice(begin * width, end * width) as never,
          width === 1 ? [end - begin] : [end - begin, width],
          x.dtype,
        )
      const linear = { hidden: b.linear.hidden, head: rows(b.linear.head, D), headBias: rows(b.linear.headBias, 1) }
      return { linear, begin, end, options: { temperature: 0.8, validVocab, vocabStart: begin } }
    }) as unknown as { linear: Batch['linear']; begin: number; end: number; options: object }[]
    const merged = mergeTokenLogprob(
      parts.map(({ linear, options }) => linearTokenLogprob({ ...linear, ...b.inputs }, options)),
    )
    for (const name of names) accurate(merged[name], exact[name], plain[name])
    const { logsumexp, entropy } = merged
    const [first, second] = parts.map(({ linear, options }) => {
      const out = {
        gradHidden: array(new Float32Array(R * D), [R, D]),
        gradHead: array(new Float32Array(linear.head.data.length), [...linear.head.shape]),
      }
      return linearTokenLogprobBackward({ ...linear, ...b.inputs, logsumexp, entropy, ...b.grads }, { ...options, out })
    }) as [Record<(typeof gradientNames)[number], HostArray>, Record<(typeof gradientNames)[number], HostArray>]
    for (const name of ['gradHead', 'gradHeadBias'] as const) {
      const both = Float32Array.from([...Array.from(values(first[name])), ...Array.from(values(second[name]))])
      accurate(array(both), exact[name], plain[name])
    }
    const sum = Float32Array.from(values(first.gradHidden), (x, i) => x + (values(second.gradHidden)[i] as number))
    accurate(array(sum), exact.gradHidden, plain.gradHidden)

    // Of logits too: those of a part, with the whole's logsumexp and entropy.
    const forward = tokenLogprob({ logits: b.logits, ...b.inputs }, b.options)
    const plainLogits = plainOf(b, values(b.logits))
    const of = (round?: (x: number) => number) =>
      tokenLogprobBackwardReference(plainLogits, b.grads.gradLogp, b.grads.gradEntropy, round)
    const [whole, rounded] = [of(), of(Math.fround)]
    const ofParts = parts.map(({ begin, end, options }) => {
      const columns = Float32Array.from(values(b.logits)).filter((_, i) => i % V >= begin && i % V < end)
      const logits = logitsOf(dtype, columns, end - begin)
      return { begin, end, options, inputs: { logits, ...b.inputs } }
    })
    const again = mergeTokenLogprob(ofParts.map(({ inputs, options }) => tokenLogprob(inputs, options)))
    for (const name of names) golden(again[name], values(forward[name]))
    for (const { begin, end, options, inputs } of ofParts) {
      const { gradLogits } = tokenLogprobBackward({ ...inputs, ...forwardOf(again), ...b.grads }, options)
      const own = (x: Float64Array) => x.filter((_, i) => i % V >= begin && i % V < end)
      accurate(gradLogits, own(whole), own(rounded))
    }
  })
})

test('gradScale multiplies the gradients of sets', () => {
  const b = keptBatch('f32', settings[1]!)
  const policy = { advantage: Float32Array.of(1, -0.5), sequenceStart: Int32Array.of(0, 9, b.T), oldLogp: random(2).uniforms(b.T, -8, -4) } // biome-ignore format: a line
  for (const call of [
    (gradScale: number) => policyLossFromLogits({ logits: b.logits, ...b.inputs, ...policy }, { ...b.options, entropyCoef: 0.1, gradScale }), // biome-ignore format: a line
    (gradScale: number) => linearPolicyLoss({ ...b.linear, ...b.inputs, ...policy }, { ...b.options, entropyCoef: 0.1, gradScale }), // biome-ignore format: a line
  ]) {
    const [one, many] = [call(1), call(-1024)] as unknown as [Record<string, HostArray>, Record<string, HostArray>]
    for (const key of Object.keys(one)) {
      const factor = key.startsWith('grad') ? -1024 : 1
      const expected = Array.from(values(one[key]!), (x) => x * factor + 0)
      expect(
        Array.from(values(many[key]!), (x) => x + 0),
        key,
      ).toEqual(expected)
    }
  }
})

function zeros(_: Batch) {
  return { gradHead: array(new Float32Array(V * D), [V, D]), gradHeadBias: array(new Float32Array(V), [V]) }
}

test('every id is kept: the numbers of no set', () => {
  const b = batch('f32', settings[0]!)
  const keptStart = Int32Array.from({ length: R + 1 }, (_, r) => r * V)
  const kept = Int32Array.from({ length: R * V }, (_, i) => i % V)
  const whole = tokenLogprob({ logits: b.logits, ...b.inputs }, b.options)
  const sets = tokenLogprob({ logits: b.logits, ...b.inputs, keptStart, kept }, b.options)
  for (const name of names) golden(sets[name], values(whole[name]))
  const empty = tokenLogprob({ logits: b.logits, ...b.inputs, keptStart: new Int32Array(R + 1), kept: new Int32Array(0) }, b.options) // biome-ignore format: a line
  for (const name of names) identical(empty[name], whole[name])
})

test('a set of one id is certain, and hidden states that are no numbers are not looked at', () => {
  const hidden = array(Float32Array.of(Number.NaN, 1, 2, 3), [2, 2])
  const head = array(Float32Array.of(1, 0, 0, 1, 2, -1), [3, 2])
  const rest = {
    token: Int32Array.of(1, 1),
    keptStart: Int32Array.of(0, 1, 2),
    kept: Int32Array.of(1, 2),
    advantage: Float32Array.of(1, 1),
    oldLogp: Float32Array.of(-1, -1),
    sequenceStart: Int32Array.of(0, 1, 2),
  }
  const { logp, entropy, gradHidden, gradHead, loss, stats } = linearPolicyLoss({ hidden, head, ...rest })
  expect(Array.from(logp.data)).toEqual([0, -Infinity])
  for (const x of [entropy, gradHidden, gradHead]) expect(Array.from(values(x)).every((v) => v === 0)).toBe(true)
  // Ratios e (clipped to 1.2) and 0.
  golden(loss, [-0.6])
  expect(lossStats(stats).ratioMin).toBe(0)
  const { token, keptStart, kept } = rest
  const forward = linearTokenLogprob({ hidden, head, token, keptStart, kept })
  expect(Array.from(forward.logp.data)).toEqual([0, -Infinity])
  expect(Array.from(forward.logsumexp.data)).toEqual([Number.NaN, 1])
})

test('a set of which no id lies in this part', () => {
  const inputs = { token: Int32Array.of(7, 1), keptStart: Int32Array.of(0, 2, 2), kept: Int32Array.of(6, 7) }
  const logits = array(Float32Array.of(1, 2, 3, 4), [2, 2])
  const hidden = array(Float32Array.of(1, 2, 3, 4), [2, 2])
  const head = array(Float32Array.of(1, 0, 0, 1), [2, 2])
  for (const result of [
    tokenLogprob({ logits, ...inputs }, { vocabStart: 0 }),
    linearTokenLogprob({ hidden, head, ...inputs }, { vocabStart: 0 }),
  ]) {
    expect(names.map((name) => result[name].data[0])).toEqual([-Infinity, 0, -Infinity])
    golden(result.logsumexp, [-Infinity, Math.log(Math.exp(3) + Math.exp(4))])
  }
  const grads = { gradLogp: Float32Array.of(1, 0), logsumexp: Float32Array.of(2, 5) }
  expect(Array.from(tokenLogprobBackward({ logits, ...inputs, ...grads }, { vocabStart: 0 }).gradLogits.data)).toEqual([
    0, 0, 0, 0,
  ])
})

test('a logit of -inf in a set has probability 0', () => {
  const logits = array(Float32Array.of(1, -Infinity, 2, 3), [1, 4])
  const inputs = { token: Int32Array.of(0), keptStart: Int32Array.of(0, 3), kept: Int32Array.of(0, 1, 2) }
  const { logp, entropy, logsumexp } = tokenLogprob({ logits, ...inputs })
  golden(logp, [-Math.log(1 + Math.exp(1))])
  const { gradLogits } = tokenLogprobBackward({
    logits,
    ...inputs,
    logsumexp,
    entropy,
    gradLogp: Float32Array.of(1),
    gradEntropy: Float32Array.of(1),
  })
  expect([gradLogits.data[1], gradLogits.data[3]]).toEqual([0, 0])
})

test(`large sets on the ${backend}: sums over many ids`, () => {
  const r = random(21)
  const [rows, columns] = [3, 1500]
  const logits = logitsOf('f32', r.normals(rows * columns, 3), columns)
  const lists = Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (_, v) => v).filter((v) => (v * 7 + i) % 3 !== 0)) // biome-ignore format: a line
  const inputs = {
    token: Int32Array.of(1, 1, 2, 4),
    row: Int32Array.of(0, 0, 1, 2),
    ...setsOf(lists),
  }
  const plain = { logits: values(logits), V: columns, ...inputs }
  const forward = tokenLogprob({ logits, ...inputs })
  const [expected, rounded] = [tokenLogprobReference(plain), tokenLogprobReference(plain, Math.fround)]
  for (const name of names) accurate(forward[name], expected[name], rounded[name])
  const grads = { gradLogp: r.normals(4), gradEntropy: r.normals(4) }
  const { gradLogits } = tokenLogprobBackward({ logits, ...inputs, ...forwardOf(forward), ...grads })
  const of = (round?: (x: number) => number) =>
    tokenLogprobBackwardReference(plain, grads.gradLogp, grads.gradEntropy, round)
  accurate(gradLogits, of(), of(Math.fround))
})
