// What errors say, to the word: an error is read by someone who cannot look into the code. Cases that a test of their
// operation has to the word are left out.
import { describe, expect, test } from 'vitest'
import { call } from '../../lib/call/run.js'
import {
  array,
  cpu,
  gaussianLogprob,
  gaussianLogprobBackward,
  groupAdvantage,
  linearPolicyLoss,
  mergeMoments,
  mergeTokenLogprob,
  moments,
  policyLoss,
  prefixAttention,
  prefixLayout,
  scatterRows,
  selectTokens,
  standardize,
  tokenLogprob,
  tokenLogprobBackward,
  treeLayout,
} from '../../lib/index.js'
import * as promises from '../../lib/promises.js'
import { prepareStep, recipes } from '../../lib/recipes/index.js'
import { say } from '../support/sentences.js'

const f32 = (...x: number[]) => Float32Array.from(x)
const i32 = (...x: number[]) => Int32Array.from(x)
const zeros = (...shape: number[]) => array(new Float32Array(shape.reduce((n, size) => n * size, 1)), shape)

describe('the objective', () => {
  const given = { logp: f32(-1, -2), advantage: f32(1), sequenceStart: i32(0, 2) }
  const { advantage, ...none } = given
  const tokenAdvantage = f32(1, 1)
  const loss = (more: object, options?: object) => () => policyLoss({ ...given, ...more } as never, options as never)
  say({
    'policyLoss: advantage is missing, expected it or tokenAdvantage': () => policyLoss(none),
    'policyLoss: tokenAdvantage is given beside advantage, expected one of the two': loss({ tokenAdvantage }),
    'policyLoss: tokenAdvantage is given with ratio "geometric", which takes one sign for a sequence: expected advantage':
      () => policyLoss({ ...none, tokenAdvantage }, { ratio: 'geometric' }),
    'policyLoss: ratioLow bounds the ratio of a token, expected ratio "token"': loss(
      { ratioLow: f32(1, 1) },
      { ratio: 'sequence' },
    ),
    'policyLoss: ratioHigh bounds the ratio of a token, but the surrogate bounds probabilities': loss(
      { ratioHigh: f32(1, 1) },
      { surrogate: 'dppo_tv' },
    ),
    'policyLoss: surrogate is not "clip", as ratio "geometric" needs: it clips before the average': loss(
      {},
      { ratio: 'geometric', surrogate: 'cispo' },
    ),
    'policyLoss: ratio is not "sequence_product", as surrogate "vespo" needs': loss({}, { surrogate: 'vespo' }),
    'policyLoss: ratio is not "token", as surrogate "dro", "dppo_tv" and "dppo_kl" need': loss(
      {},
      { surrogate: 'dro', droBeta: 1, ratio: 'sequence' },
    ),
    'policyLoss: droBeta is null, expected the factor of surrogate "dro"': loss({}, { surrogate: 'dro' }),
    'policyLoss: droBeta belongs to surrogate "dro", expected null': loss({}, { droBeta: 1 }),
    'policyLoss: ratioCap belongs to surrogate "dppo_tv" and "dppo_kl", expected null': loss({}, { ratioCap: 1 }),
    'policyLoss: dualClip belongs to surrogate "clip" with a ratio that is not "geometric", expected null': loss(
      {},
      { dualClip: 2, surrogate: 'cispo' },
    ),
    'policyLoss: clipHigh is below -clipLow, so that no ratio lies between the bounds': loss(
      {},
      { clipLow: -0.5, clipHigh: 0.2 },
    ),
    'policyLoss: klWeight is "ratio", which ratio "geometric" does not define: expected "none" or "token_ratio"': loss(
      { refLogp: f32(1, 1) },
      { klWeight: 'ratio', ratio: 'geometric', klCoef: 1 },
    ),
    'policyLoss: klWeightClamp bounds the weight of the KL, but klWeight is "none": expected null': loss(
      { refLogp: f32(1, 1) },
      { klWeightClamp: 2, klCoef: 1 },
    ),
    'policyLoss: klCoef is not 0, but refLogp is missing: the KL is taken against it': loss({}, { klCoef: 1 }),
    'policyLoss: entropyCoef is not 0, but entropy is missing': loss({}, { entropyCoef: 1 }),
    'policyLoss: maxLength is null, expected a length: "constant" divides by sequences * maxLength': loss(
      {},
      { aggregate: 'constant' },
    ),
    'policyLoss: gradScale is Infinity, expected a finite number': loss({}, { gradScale: Infinity }),
    'policyLoss: gradScale is 1e+39, expected a number up to 3.4e38, which float32 can hold': loss(
      {},
      { gradScale: 1e39 },
    ),
    'policyLoss: normalizer is 1e-39, expected 0 or a number of at least 1.2e-38, whose inverse float32 can hold': loss(
      {},
      { normalizer: 1e-39 },
    ),
    'policyLoss: tauPositive is 1e-39, expected a number of at least 1.2e-38, whose inverse float32 can hold': loss(
      {},
      { tauPositive: 1e-39 },
    ),
    'policyLoss: kl is "k9", expected one of k3, k1, k2, abs': loss({}, { kl: 'k9' }),
    'policyLoss: logprob is no input of this operation; it has logp, oldLogp, refLogp, advantage, tokenAdvantage, sequenceStart, mask, weight, entropy, ratioLow, ratioHigh':
      loss({ logprob: f32(1, 1) }),
    'policyLoss: grad is no output of this operation; it has loss, gradLogp, gradEntropy, stats': loss(
      {},
      { out: { grad: f32(1, 1) } },
    ),
    'policyLoss: oldLogp has length 1, expected 2 (T = 2 from logp)': loss({ oldLogp: f32(1) }),
    'policyLoss: logp has dtype i32, expected f32': loss({ logp: i32(1, 2) }),
    'policyLoss: logp is missing, expected f32[T]': loss({ logp: undefined }),
    'policyLoss: gradLogp overlaps logp, expected memory of its own': loss({}, { out: { gradLogp: given.logp } }),
    'policyLoss: stream is 5, expected a bigint': loss({}, { stream: 5 }),
  })
})

describe('rows of logits', () => {
  const logits = array(f32(1, 2, 3, 4, 5, 6), [2, 3])
  const token = i32(0, 1)
  const rows = (more: object, options?: object) => () =>
    tokenLogprob({ logits, token, ...more } as never, options as never)
  say({
    'tokenLogprob: token has length 3, expected 2 (R = 2 from logits), since token t is predicted by row t where row is absent':
      rows({ token: i32(0, 1, 1) }),
    'tokenLogprob: validVocab is 4, expected at most 3 (V = 3 from logits)': rows({}, { validVocab: 4 }),
    'tokenLogprob: rowTemperature has 0 at 1, expected a number above 0 that, times temperature, float32 can hold with its inverse':
      rows({ rowTemperature: f32(1, 0) }),
    'tokenLogprob: rowTemperature has 1e-30 at 1, expected a number above 0 that, times temperature, float32 can hold with its inverse':
      rows({ rowTemperature: f32(1, 1e-30) }, { softcap: 1e20 }),
    'tokenLogprob: softcap is 1e-30, expected a number that, divided by temperature, float32 can hold with its inverse':
      rows({}, { softcap: 1e-30, temperature: 1e20 }),
    'tokenLogprob: temperature is 0, expected a number above 0': rows({}, { temperature: 0 }),
    'tokenLogprob: temperature is 1e-39, expected a number of 1.2e-38 to 8.5e37, which float32 can hold with its inverse':
      rows({}, { temperature: 1e-39 }),
    'tokenLogprobBackward: entropy is missing, expected the entropy of each token, since gradEntropy is given': () =>
      tokenLogprobBackward({ logits, token, logsumexp: f32(1, 1), gradLogp: f32(1, 1), gradEntropy: f32(1, 1) }),
    'tokenLogprob: token has 3 at 1, expected 0 to 2 (V = 3 from logits)': rows({ token: i32(0, 3) }),
    'tokenLogprob: token has 2 at 1, which is padding of the vocabulary: validVocab is 2': rows(
      { token: i32(0, 2) },
      { validVocab: 2 },
    ),
    'tokenLogprob: row has 2 at 1, expected 0 to 1 (R = 2 from logits)': rows({ row: i32(0, 2) }),
    "tokenLogprob: keptStart is missing, expected where in kept each row's set begins": rows({ kept: i32(0) }),
    'tokenLogprob: kept is missing, expected the ids of the sets that keptStart bounds': rows({
      keptStart: i32(0, 0, 0),
    }),
    'tokenLogprob: kept has 1 at 1, in the set of row 0, after 1, expected ids that rise within a row': rows({
      keptStart: i32(0, 2, 2),
      kept: i32(1, 1),
    }),
    'tokenLogprob: kept has 3 at 0, in the set of row 0, expected 0 to 2': rows({
      keptStart: i32(0, 1, 1),
      kept: i32(3),
    }),
    'tokenLogprob: kept has 2 at 0, in the set of row 0, which is padding of the vocabulary: validVocab is 2': rows(
      { keptStart: i32(0, 1, 1), kept: i32(2) },
      { validVocab: 2 },
    ),
    'tokenLogprob: logits has shape [2], expected [R, V]': rows({ logits: f32(1, 2) }),
    'tokenLogprob: logits holds 8 values, more than its shape needs, and no stride is given': rows({
      logits: { data: new Float32Array(8), shape: [2, 3], dtype: 'f32' },
    }),
    "tokenLogprob: logits is a plain Uint16Array, expected array(data, shape, 'bf16' or 'f16')": rows({
      logits: new Uint16Array(2),
    }),
    'mergeTokenLogprob: list[1].logp claims token 0, as list[0].logp does, but one part of a vocabulary holds it: replicated logits are no parts':
      () => {
        const part = { logp: f32(-1), entropy: f32(1), logsumexp: f32(1) }
        return mergeTokenLogprob([part, part])
      },
  })
})

describe('what is no object of inputs or options', () => {
  const rewards = f32(1, 2)
  const groups = { rewards, groupStart: i32(0, 2) }
  const sentence = (what: string, got: string) => `groupAdvantage: takes an object of ${what}, got ${got}`
  const all: [thing: unknown, got: string][] = [
    [null, 'null'],
    [[], 'a plain array of 0'],
    [rewards, 'a Float32Array'],
    ['x', '"x"'],
  ]
  for (const [thing, got] of all) {
    say({ [sentence('inputs', got)]: () => groupAdvantage(thing as never) })
    if (thing === null) continue // no options, no outputs
    say({
      [sentence('options', got)]: () => groupAdvantage(groups, thing as never),
      [sentence('outputs', got)]: () => groupAdvantage(groups, { out: thing as never }),
    })
  }
})

describe('trees and groups', () => {
  const attention = (more: object) => () => {
    const layout = treeLayout({ length: i32(2), parent: i32(-1) })
    return prefixAttention({ q: zeros(2, 2, 4), k: zeros(2, 2, 4), v: zeros(2, 2, 4), layout, ...more } as never)
  }
  const tree = (length: number[], parent: number[], end?: number[]) => () =>
    treeLayout({ length: i32(...length), parent: i32(...parent), ...(end && { end: i32(...end) }) })
  const pack = (segments: Int32Array[]) => () => treeLayout({ length: i32(1, 1), parent: i32(-1, 0) }).pack(segments)
  const groups = (...groupStart: number[]) => ({ rewards: f32(1, 2), groupStart: i32(...groupStart) })
  const tokens = { entropy: f32(1, 1), sequenceStart: i32(0, 2) }
  say({
    'treeLayout: length has -1 at 1, expected at least 0': tree([1, -1], [-1, 0]),
    'treeLayout: parent has 0 at 0, expected -1: the first segment is a root': tree([1, 1], [0, 0]),
    'treeLayout: parent has 7 at 2, expected -1, 1 or an ancestor of 1: segments stand in depth-first order': tree(
      [1, 1, 1],
      [-1, 0, 7],
    ),
    'treeLayout: end has 0 at 0, expected no entry, because there are no segments': tree([], [], [0]),
    'treeLayout: end has 2 at 0, expected 0 to 1 (B = 2 from length)': tree([1, 1], [-1, 0], [2]),
    'treeLayout: end has 0 at 1, expected a segment of root 1 or a later one, as before it: sequences stand in the order of their roots':
      tree([1, 1], [-1, -1], [1, 0]),
    'treeLayout: length has the sum 2147483648, expected less than 2147483648 packed tokens': tree(
      [2 ** 30, 2 ** 30],
      [-1, 0],
    ),
    'treeLayout: length gives the first 2 sequences 2147483648 loss tokens, expected less than 2147483648 in all': tree(
      [0, 2 ** 30, 0, 0],
      [-1, 0, 1, 1],
    ),
    'treeLayout: end gives the first 2 sequences 2147483648 loss tokens, expected less than 2147483648 in all': tree(
      [0, 2 ** 30],
      [-1, 0],
      [1, 1, 1],
    ),
    'prefixLayout: prefix has -1 at 1, expected at least 0': () =>
      prefixLayout([
        { prefix: 1, responses: [] },
        { prefix: -1, responses: [1] },
      ]),
    'prefixLayout: responses has -2 at 1, expected at least 0': () => prefixLayout([{ prefix: 1, responses: [3, -2] }]),
    'prefixLayout: groups has 5 at 0, expected { prefix, responses }': () => prefixLayout([5 as never]),
    'prefixLayout: groups has 2147483648 tokens, expected less than 2147483648 packed ones': () =>
      prefixLayout([{ prefix: 2 ** 31 - 1, responses: [1] }]),
    'pack: segments has a plain array of 1 at 0, expected an Int32Array': pack([[1], [2]] as never),
    'pack: segments is a plain array of 1, expected a list of 2 Int32Arrays': pack([i32(1)]),
    'pack: segments has 2 tokens at 1, expected 1 as in the layout': pack([i32(1), i32(1, 2)]),
    'prefixAttention: layout is undefined, expected a layout of prefixLayout, treeLayout or tokenTree': attention({
      layout: undefined,
    }),
    'prefixAttention: q has 3 heads, expected a multiple of K = 2 from k': attention({ q: zeros(2, 3, 4) }),
    'prefixAttention: q has 1 heads, expected a multiple of K = 0 from k': attention({
      q: zeros(2, 1, 4),
      k: zeros(2, 0, 4),
      v: zeros(2, 0, 4),
    }),
    'prefixAttention: k has dtype bf16, expected f32, as q': attention({
      k: array(new Uint16Array(16), [2, 2, 4], 'bf16'),
    }),
    'groupAdvantage: groupStart begins with 1, expected 0': () => groupAdvantage(groups(1, 2)),
    'groupAdvantage: groupStart falls: groupStart[2] is 2, groupStart[1] is 3, expected offsets that rise': () =>
      groupAdvantage(groups(0, 3, 2)),
    'groupAdvantage: groupStart ends with 1, expected 2 (N = 2 from rewards)': () => groupAdvantage(groups(0, 1)),
    'groupAdvantage: virtualReward is null, expected the reward of the virtualCount virtual rollouts': () =>
      groupAdvantage(groups(0, 2), { virtualCount: 1 }),
    'groupAdvantage: ddof is 2, expected 0 to 1': () => groupAdvantage(groups(0, 2), { ddof: 2 }),
    'groupAdvantage: eps is -1, expected at least 0': () => groupAdvantage(groups(0, 2), { eps: -1 }),
    'selectTokens: tokenAdvantage is given together with advantage: expected one of the two': () =>
      selectTokens({ ...tokens, advantage: f32(1), tokenAdvantage: f32(1, 1) }, { count: 1 }),
    'selectTokens: advantage is missing, and so is tokenAdvantage: this rule needs one of the two': () =>
      selectTokens(tokens, { count: 1 }),
    'selectTokens: entropy is missing, but this rule needs it': () =>
      selectTokens({ advantage: f32(1), sequenceStart: i32(0, 2) }, { count: 1 }),
    'selectTokens: count is missing, and so is fraction: expected one of the two': () =>
      selectTokens({ ...tokens, advantage: f32(1) }, {}),
    'selectTokens: fraction is given together with count: expected one of the two': () =>
      selectTokens({ ...tokens, advantage: f32(1) }, { count: 1, fraction: 0.5 }),
  })
})

describe('other operations', () => {
  const row = { x: zeros(1, 2), mean: zeros(1, 2), std: f32(1) }
  const standard = (count: number, m2: number) => () =>
    standardize({ x: f32(1, 2) }, { moments: { count, mean: 0, m2 } })
  say({
    'gaussianLogprobBackward: gradLogp is missing, expected it or gradLogRatio': () => gaussianLogprobBackward(row),
    'gaussianLogprobBackward: oldMean is missing, expected that of the rollout, since gradLogRatio is given': () =>
      gaussianLogprobBackward({ ...row, gradLogRatio: f32(1) }),
    'gaussianLogprob: mean has shape [1, 3], expected [T, D] with D = 2 (D = 2 from x)': () =>
      gaussianLogprob({ ...row, mean: zeros(1, 3) }),
    'standardize: moments has count -1, expected at least 0': standard(-1, 0),
    'standardize: moments has count NaN, expected at least 0': standard(Number.NaN, 0),
    'standardize: moments has m2 -1, expected at least 0: it is a sum of squares': standard(2, -1),
    'scatterRows: index has 2 at 1, expected 0 to 1 (R = 2 from rows)': () =>
      scatterRows({ x: zeros(2, 2), index: i32(0, 2) }, { rows: 2 }),
    'linearPolicyLoss.plan: R is undefined, expected a whole number from 0 to 2147483647': () =>
      linearPolicyLoss.plan({ T: 1 } as never),
    'linearPolicyLoss: gradHead is missing in out, expected the array to whose contents accumulate adds the gradient':
      () => linearPolicyLoss({} as never, { accumulate: true } as never),
    'mergeMoments: list is 3, expected an array': () => mergeMoments(3 as never),
    'mergeMoments: list[0] is a plain object, expected { count, mean, m2 }, three numbers': () =>
      mergeMoments([{}] as never),
    'mergeMoments: list[0] has count -1, expected at least 0': () => mergeMoments([{ count: -1, mean: 0, m2: 0 }]),
    'moments: out is no option of this operation, whose result is three numbers': () =>
      moments({ x: f32(1) }, { out: {} } as never),
    'cpu: instructionSet is 7, expected the name of one': () => {
      cpu.instructionSet = 7 as never
    },
    'cpu: instructionSet is "mmx", which this processor or build lacks': () => {
      cpu.instructionSet = 'mmx'
    },
    'cpu: threads is 0, expected a whole number from 1 to 1024': () => {
      cpu.threads = 0
    },
    'array: data holds 2 values, but its shape [3] needs 3': () => array(f32(1, 2), [3]),
    'array: data has dtype "f99", expected one of f32, bf16, f16, i32, u8, f64': () =>
      array(f32(1, 2), [2], 'f99' as never),
    'groupAdvantage: rewards is detached: its memory has been transferred elsewhere': () => {
      const rewards = f32(1, 2)
      structuredClone(rewards.buffer, { transfer: [rewards.buffer] })
      return groupAdvantage({ rewards, groupStart: i32(0, 2) })
    },
    'groupAdvantage: rewards is a plain object with a pointer, expected an array: cuda.wrap makes one of a pointer':
      () => groupAdvantage({ rewards: { pointer: 5n } as never, groupStart: i32(0, 0) }),
    'groupAdvantage: rewards has dtype "q", expected one of f32, bf16, f16, i32, u8, f64': () =>
      groupAdvantage({ rewards: { data: f32(1), shape: [1], dtype: 'q' } as never, groupStart: i32(0, 1) }),
    'prepareStep: recipe is "x", expected a method, as recipes.grpo() makes it': () =>
      prepareStep('x' as never, {} as never),
    'grpo: rewards is "x", expected number[N]: the reward of each rollout': () =>
      prepareStep(recipes.grpo(), { rewards: 'x' as never, groupStart: i32(0, 2) }),
  })
  // Of operations, and of functions that make no call of one.
  test.each<[string, (options: { signal: never }) => Promise<unknown>]>([
    ['groupAdvantage', (options) => promises.groupAdvantage({ rewards: f32(1), groupStart: i32(0, 1) }, options)],
    ['groupBy', (options) => promises.groupBy(i32(1), options)],
    [
      'mergeTokenLogprob',
      (options) => promises.mergeTokenLogprob([{ logp: f32(0), entropy: f32(0), logsumexp: f32(0) }], options),
    ],
    ['moments', (options) => promises.moments({ x: f32(1) }, options)],
    ['mergeMoments', (options) => promises.mergeMoments([{ count: 1, mean: 1, m2: 0 }], options)],
    ['treeLayout', (options) => promises.treeLayout({ length: i32(1), parent: i32(-1) }, options)],
    ['prefixLayout', (options) => promises.prefixLayout([{ prefix: 1, responses: [1] }], options)],
  ])('%s with a signal that is none, and with one that is aborted', async (name, call) => {
    const sentence = `${name}: signal is 5, expected an AbortSignal`
    await expect(call({ signal: 5 as never })).rejects.toMatchObject({ message: sentence, code: 'ERR_GRPO_TYPE' })
    const reason = new Error('enough')
    await expect(call({ signal: AbortSignal.abort(reason) as never })).rejects.toBe(reason)
  })
  // What lib/ looks at before, the operation itself says to a caller of the C interface.
  test.each([
    ['position', 'P', { P: 4 }, 3, 'P'],
    ['groupStart', 'G', { G: 2 }, 2, 'G + 1'],
    ['sequenceStart', 'N', { N: 2 }, 2, 'N + 1'],
    ['row', 'T', { T: 3 }, 2, 'T'],
    ['place', 'T', { T: 3, row: null }, 2, 'T'],
  ])('treeLayout: %s of another %s', (name, _, { row, ...wrong }: Record<string, unknown>, length, axis) => {
    const forest = { length: i32(1, 2), parent: i32(-1, 0) }
    const out = { sizes: null, ...(row === null && { row }) }
    const sizes = { P: 3, N: 1, T: 2, G: 1, ...wrong }
    const given = (name.endsWith('Start') ? 1 : 0) + (sizes[axis[0] as 'P'] as number)
    const sentence = `treeLayout: ${name} has length ${given}, expected ${length} (${axis}, as sizes says)`
    expect(() => call('treeLayout', forest as never, { out } as never, sizes).now()).toThrow(sentence)
  })
  test('moments that no set has', () => {
    const given = (count: number, m2: number) => () =>
      call('standardize', { x: f32(1, 2), moments: Float64Array.of(count, 0, m2) } as never, {}).now()
    for (const count of [-1, Number.NaN])
      expect(given(count, 0)).toThrow(/^standardize: moments has a count that is negative or NaN$/)
    expect(given(2, -1)).toThrow(/^standardize: moments has a negative m2, but a sum of squares is at least 0$/)
  })
})
