// Small calls of every operation with numbers that a reader can check by hand: what `check` computes.
import * as lib from '../index.js'

/** An array on the side that is checked. */
export type Place = (values: ArrayLike<number>, shape?: number[], dtype?: 'f32' | 'bf16' | 'u8' | 'i32') => never

export interface Case {
  /** The public function, and the dtype where another has a kernel of its own. */
  readonly name: string
  readonly run: (place: Place) => object
  /** What outputs have to be, but for rounding. */
  readonly known: Readonly<Record<string, readonly number[]>>
  /** What the outputs are rounded to: 2^-23 of float32, 2^-8 of bfloat16. */
  readonly unit: number
}

const kinds = { f32: Float32Array, bf16: Float32Array, u8: Uint8Array, i32: Int32Array }
const hostArray: (...given: Parameters<Place>) => lib.HostArray = (values, shape, dtype = 'f32') => {
  const data = kinds[dtype].from(values)
  return dtype === 'bf16' ? lib.array(lib.toBf16(data as Float32Array), shape, 'bf16') : lib.array(data, shape)
}
export const onHost = hostArray as Place
export const onDevice =
  (device: number): Place =>
  (...given) =>
    lib.cuda.upload(hostArray(...given), { device }) as never

const f32 = 2 ** -23
const one = (name: string, run: Case['run'], known: Case['known'], unit = f32): Case => ({
  name,
  run,
  known,
  unit,
})
const i32 = (...values: number[]) => Int32Array.from(values)

// Logits whose probabilities are 1, 2 and 5 eighths, twice; as products of hidden states of size 1 and a head.
const p = [1 / 8, 2 / 8, 5 / 8]
const z = [Math.log(1), Math.log(2), Math.log(5)]
const entropy = -p.reduce((sum, x) => sum + x * Math.log(x), 0)
const logp = [Math.log(5 / 8), Math.log(1 / 8)]
const token = i32(2, 0)
const lse = Math.log(8)
/** The derivative of logp by each logit, times the coefficients. */
const slopes = (first: number, second: number) => [
  ...p.map((x, v) => first * ((v === 2 ? 1 : 0) - x)),
  ...p.map((x, v) => second * ((v === 0 ? 1 : 0) - x)),
]
const ofHead = (slope: number[]) => [0, 1, 2].map((v) => (slope[v] as number) + (slope[3 + v] as number))
const ofHidden = (slope: number[]) =>
  [0, 3].map((r) => z.reduce((sum, logit, v) => sum + logit * (slope[r + v] as number), 0))
const logits = (place: Place) => place([...z, ...z], [2, 3])
const linear = (place: Place) => ({ hidden: place([1, 1], [2, 1]), head: place(z, [3, 1]), token })
const policy = (place: Place) => ({ advantage: place([1, -1]), sequenceStart: i32(0, 1, 2) })
// On-policy, the loss is minus the mean of the advantages, and its gradient minus half of each.
const onPolicy = slopes(-0.5, 0.5)

// A prompt of two tokens with two answers of one. All scores are 0: a token has the mean of the values that it sees.
const layout = lib.prefixLayout([{ prefix: 2, responses: [1, 1] }])
const columns = 8
const repeated = (values: number[]) => values.flatMap((x) => Array<number>(columns).fill(x))
const shape = [4, 1, columns]
const seen = [Math.log(1), Math.log(2), Math.log(3), Math.log(3)]
const means = [3, 9, 10, 12]
const attention = (place: Place, dtype: 'f32' | 'bf16') => ({
  q: place(repeated([0, 0, 0, 0]), shape, dtype),
  k: place(repeated([1, 2, 3, 4]), shape, dtype),
  v: place(repeated([3, 15, 12, 18]), shape, dtype),
  layout,
})
const attentionOf = (dtype: 'f32' | 'bf16', unit: number) => [
  one(
    `prefixAttention, ${dtype}`,
    (place) => lib.prefixAttention(attention(place, dtype)),
    { out: repeated(means), logsumexp: seen },
    unit,
  ),
  one(
    `prefixAttentionBackward, ${dtype}`,
    (place) =>
      lib.prefixAttentionBackward({
        ...attention(place, dtype),
        gradOut: place(repeated([6, 6, 6, 6]), shape, dtype),
        out: place(repeated(means), shape, dtype),
        logsumexp: place(seen, [4, 1]),
      }),
    { gradV: repeated([6 + 3 + 2 + 2, 3 + 2 + 2, 2, 2]), gradK: repeated([0, 0, 0, 0]) },
    unit,
  ),
]

export const cases: readonly Case[] = [
  one(
    'groupAdvantage',
    (place) => lib.groupAdvantage({ rewards: place([1, 3, 5, 7]), groupStart: i32(0, 1, 4) }, { eps: 0 }),
    { advantage: [0, -1, 0, 1], mean: [1, 5], std: [0, 2] },
  ),
  one('moments', (place) => lib.moments({ x: place([1, 2, 3, 6]) }), { count: [4], mean: [3], m2: [14] }),
  one(
    'mergeMoments',
    () =>
      lib.mergeMoments([
        { count: 3, mean: 2, m2: 2 },
        { count: 1, mean: 6, m2: 0 },
      ]),
    { mean: [3], m2: [14] },
  ),
  one(
    'standardize',
    (place) => lib.standardize({ x: place([1, 3, 5]) }, { moments: { count: 3, mean: 3, m2: 8 }, eps: 0 }),
    { x: [-1, 0, 1] },
  ),
  one('tokenLogprob', (place) => lib.tokenLogprob({ logits: logits(place), token }), {
    logp,
    entropy: [entropy, entropy],
    logsumexp: [lse, lse],
  }),
  one(
    'tokenLogprobBackward',
    (place) =>
      lib.tokenLogprobBackward({
        logits: logits(place),
        token,
        logsumexp: place([lse, lse]),
        gradLogp: place([1, 2]),
      }),
    { gradLogits: slopes(1, 2) },
  ),
  one(
    'mergeTokenLogprob',
    (place) =>
      lib.mergeTokenLogprob([
        { logp: place([-Infinity]), entropy: place([0]), logsumexp: place([Math.log(3)]) },
        { logp: place([0]), entropy: place([0]), logsumexp: place([Math.log(5)]) },
      ] as never),
    { logp: [Math.log(5 / 8)], logsumexp: [lse] },
  ),
  one('policyLoss', (place) => lib.policyLoss({ logp: place(logp), ...policy(place) }), {
    loss: [0],
    gradLogp: [-0.5, 0.5],
  }),
  one('policyLossFromLogits', (place) => lib.policyLossFromLogits({ logits: logits(place), token, ...policy(place) }), {
    loss: [0],
    logp,
    entropy: [entropy, entropy],
    gradLogits: onPolicy,
  }),
  one('linearPolicyLoss', (place) => lib.linearPolicyLoss({ ...linear(place), ...policy(place) }), {
    loss: [0],
    logp,
    gradHidden: ofHidden(onPolicy),
    gradHead: ofHead(onPolicy),
  }),
  one('linearTokenLogprob', (place) => lib.linearTokenLogprob(linear(place)), {
    logp,
    entropy: [entropy, entropy],
    logsumexp: [lse, lse],
  }),
  one(
    'linearTokenLogprobBackward',
    (place) =>
      lib.linearTokenLogprobBackward({ ...linear(place), logsumexp: place([lse, lse]), gradLogp: place([1, 2]) }),
    { gradHidden: ofHidden(slopes(1, 2)), gradHead: ofHead(slopes(1, 2)) },
  ),
  one('treeLayout', () => lib.treeLayout({ length: [2, 1, 2], parent: [-1, 0, 0] }), {
    position: [0, 1, 2, 2, 3],
    row: [1, 1, 3],
    place: [2, 3, 4],
  }),
  one('tokenTree', () => ({ ...lib.tokenTree([i32(5, 6, 7), i32(5, 6, 8)]) }), {
    token: [5, 6, 7, 8],
    position: [0, 1, 2, 2],
    place: [0, 1, 2, 0, 1, 3],
  }),
  ...attentionOf('f32', f32),
  ...attentionOf('bf16', 2 ** -8),
  one(
    'selectRollouts',
    (place) => lib.selectRollouts({ score: place([1, 5, 2, 4]), groupStart: i32(0, 4) }, { count: 2 }),
    { mask: [1, 1, 0, 0] },
  ),
  one(
    'selectTokens',
    (place) =>
      lib.selectTokens({ advantage: place([1]), entropy: place([1, 4, 2, 3]), sequenceStart: i32(0, 4) }, { count: 2 }),
    { mask: [0, 1, 0, 1] },
  ),
  one('maskIndex', (place) => lib.maskIndex({ mask: place([1, 0, 1, 1], [4], 'u8') }), { index: [0, 2, 3] }),
  one('gatherRows', (place) => lib.gatherRows({ x: place([1, 2, 3, 4, 5, 6], [3, 2]), index: i32(2, 0) }) as object, {
    x: [5, 6, 1, 2],
  }),
  one(
    'scatterRows',
    (place) => lib.scatterRows({ x: place([1, 2, 3, 4], [2, 2]), index: i32(2, 2) }, { rows: 3 }) as object,
    { x: [0, 0, 0, 0, 4, 6] },
  ),
  one('sequenceSum', (place) => lib.sequenceSum({ x: place([1, 2, 4]), sequenceStart: i32(0, 2, 3) }), { x: [3, 4] }),
  one(
    'sequenceExpand',
    (place) => lib.sequenceExpand({ x: place([1, 2]), sequenceStart: i32(0, 2, 3), mask: place([1, 1, 1], [3], 'u8') }),
    { x: [1, 1, 2] },
  ),
  one(
    'importanceWeight',
    (place) =>
      lib.importanceWeight(
        { oldLogp: place([-1, -2, -3]), rolloutLogp: place([-2, -1, -1]), sequenceStart: i32(0, 2, 3) },
        { level: 'sequence', low: 0.5, reject: 'token_k2', rejectHigh: 1 },
      ),
    { weight: [1, 1, 0.5], mask: [1, 1, 0] },
  ),
  one('groupBy', (place) => lib.groupBy(place([7, 3, 7], [3], 'i32')), { order: [1, 0, 2], groupStart: [0, 1, 3] }),
  one('convert', () => ({ x: lib.fromBf16(lib.toBf16(Float32Array.of(1, 1.00390625, -3.5))) }), { x: [1, 1, -3.5] }),
  one(
    'discountedSum',
    (place) => lib.discountedSum({ x: place([1, 2, 4]), sequenceStart: i32(0, 3) }, { decay: 0.5 }),
    { x: [3, 4, 4] },
  ),
  one(
    'gaussianLogprob',
    (place) => lib.gaussianLogprob({ x: place([1, 2], [1, 2]), mean: place([1, 0], [1, 2]), std: place([2]) }),
    { logp: [-0.25 - Math.log(2) - Math.log(2 * Math.PI) / 2] },
  ),
  one(
    'gaussianLogprobBackward',
    (place) =>
      lib.gaussianLogprobBackward({
        x: place([1, 2], [1, 2]),
        mean: place([1, 0], [1, 2]),
        std: place([2]),
        gradLogp: place([1]),
      }),
    { gradMean: [0, 0.25] },
  ),
  one(
    'gaussianKl',
    (place) => lib.gaussianKl({ mean: place([1, 3], [1, 2]), refMean: place([0, 1], [1, 2]), std: place([0.5]) }),
    { kl: [5] },
  ),
  one(
    'gaussianKlBackward',
    (place) =>
      lib.gaussianKlBackward({
        mean: place([1, 3], [1, 2]),
        refMean: place([0, 1], [1, 2]),
        std: place([0.5]),
        gradKl: place([1]),
      }),
    { gradMean: [2, 4] },
  ),
  one('logRatio', (place) => lib.logRatio({ x: place([-1, -2]), y: place([-3, 1]), mask: place([1, 0], [2], 'u8') }), {
    logRatio: [2, 0],
  }),
]
