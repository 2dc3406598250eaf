// The policy objective in float64, written as the loss that the contract states, stop-gradients included. Its gradient comes
// from differentiating that text backwards, not from formulas: a number remembers what it was computed from.
import type { LossStats, Objective } from '../../lib/index.js'

type Numbers = ArrayLike<number>
type Round = (x: number) => number

export interface PolicyCase {
  logp: Numbers
  oldLogp?: Numbers | undefined
  refLogp?: Numbers | undefined
  advantage?: Numbers | undefined
  tokenAdvantage?: Numbers | undefined
  sequenceStart: Numbers
  mask?: Numbers | undefined
  weight?: Numbers | undefined
  entropy?: Numbers | undefined
  ratioLow?: Numbers | undefined
  ratioHigh?: Numbers | undefined
}

// ---- numbers that remember what they were computed from, and with what slopes ---------------------------------------

interface Traced {
  readonly v: number
  readonly from: readonly (readonly [Traced, number])[]
}

const constant = (v: number): Traced => ({ v, from: [] })
const stop = (a: Traced): Traced => constant(a.v)
const add = (a: Traced, b: Traced): Traced => sum([a, b])
const subtract = (a: Traced, b: Traced): Traced => ({ v: a.v - b.v, from: [[a, 1], [b, -1]] }) // biome-ignore format: short
const multiply = (a: Traced, b: Traced): Traced => ({ v: a.v * b.v, from: [[a, b.v], [b, a.v]] }) // biome-ignore format: short
const apply = (a: Traced, v: number, slope: number): Traced => ({ v, from: [[a, slope]] })
const scale = (a: Traced, factor: number): Traced => apply(a, a.v * factor, factor)
const exp = (a: Traced): Traced => apply(a, Math.exp(a.v), Math.exp(a.v))
const sum = (list: Traced[]): Traced => ({
  v: list.reduce((total, x) => total + x.v, 0),
  from: list.map((x) => [x, 1]),
})

/** The derivative with respect to everything that it was computed from. */
function derivatives(result: Traced, round: Round): Map<Traced, number> {
  const order: Traced[] = []
  const seen = new Set<Traced>()
  const stack: [Traced, number][] = [[result, 0]]
  for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
    const [x, next] = top
    const child = x.from[next]?.[0]
    top[1]++
    if (child === undefined) {
      order.push(x)
      stack.pop()
    } else if (!seen.has(child)) {
      seen.add(child)
      stack.push([child, 0])
    }
  }
  const slopes = new Map([[result, 1]])
  for (const x of order.reverse()) {
    const outer = slopes.get(x) ?? 0
    for (const [child, slope] of x.from) slopes.set(child, round((slopes.get(child) ?? 0) + round(outer * slope)))
  }
  return slopes
}

// At a tie the first argument is the one that counts, and a clamp has derivative 1 on its closed interval.
const min = (a: Traced, b: Traced): Traced => (a.v <= b.v ? a : b)
const max = (a: Traced, b: Traced): Traced => (a.v >= b.v ? a : b)
const clamp = (a: Traced, low: number, high: number): Traced =>
  a.v < low ? constant(low) : a.v > high ? constant(high) : a
const within = (a: Traced, bound: number | null): Traced => (bound === null ? a : clamp(a, -bound, bound))
function sigmoid(a: Traced): Traced {
  const s = 1 / (1 + Math.exp(-a.v))
  return apply(a, s, s / (1 + Math.exp(a.v)))
}

// ---- the objective --------------------------------------------------------------------------------------------------

const defaults = {
  surrogate: 'clip',
  ratio: 'token',
  clipLow: 0.2,
  clipHigh: 0.2,
  dualClip: null,
  logRatioClamp: null,
  klCoef: 0,
  kl: 'k3',
  klGradient: 'exact',
  klWeight: 'none',
  klClamp: null,
  klValueClamp: null,
  entropyCoef: 0,
  entropyAggregate: null,
  tauPositive: 1,
  tauNegative: 1.05,
  aggregate: 'token_mean',
  maxLength: null,
  countEmpty: false,
  normalizer: null,
  powerPositive: 2,
  decayPositive: 3,
  powerNegative: 3,
  decayNegative: 2,
  droBeta: null,
  ratioCap: null,
  klWeightClamp: null,
  klTermClamp: null,
} as const satisfies Required<Objective>

type All = Required<Objective>

interface Token {
  t: number
  logp: Traced
  /** logp - oldLogp. */
  logRatio: Traced
  advantage: number
}

/** exp of the log-ratio that the objective names, for each token of a sequence. */
function ratios(tokens: Token[], o: All): Traced[] {
  const n = tokens.length
  if (o.ratio === 'token') return tokens.map(({ logRatio }) => exp(within(logRatio, o.logRatioClamp)))
  const cut = ({ logRatio, advantage }: Token) => {
    if (o.surrogate === 'vespo') return within(logRatio, 20)
    if (o.ratio !== 'geometric') return logRatio
    if (advantage > 0) return o.clipHigh === null ? logRatio : min(logRatio, constant(o.clipHigh))
    return o.clipLow === null ? logRatio : max(logRatio, constant(-o.clipLow))
  }
  const total = sum(tokens.map(cut))
  const whole = o.ratio === 'sequence_product' ? total : scale(total, 1 / n)
  const bounded = within(whole, o.logRatioClamp)
  const clamped = o.surrogate === 'vespo' ? clamp(bounded, Math.log(1e-8), 20) : bounded
  if (o.ratio !== 'sequence_token') return tokens.map(() => exp(clamped))
  const outside = o.logRatioClamp !== null && Math.abs(whole.v) > o.logRatioClamp
  // The value of the sequence's ratio; the gradient goes to the own token alone.
  return tokens.map(({ logRatio }) => {
    const own = outside ? constant(0) : subtract(logRatio, stop(logRatio))
    return multiply(stop(exp(clamped)), exp(own))
  })
}

function interval(t: number, c: PolicyCase, o: All): [number, number] {
  if (o.ratio === 'geometric') return [-Infinity, Infinity]
  return [
    c.ratioLow?.[t] ?? (o.clipLow === null ? -Infinity : 1 - o.clipLow),
    c.ratioHigh?.[t] ?? (o.clipHigh === null ? Infinity : 1 + o.clipHigh),
  ]
}

/** The KL of "this token or another one" from the rollout's log-probability to the policy's. */
export function binaryKl(logp: number, oldLogp: number): number {
  const [p, q] = [Math.min(Math.exp(logp), 1), Math.min(Math.exp(oldLogp), 1)]
  const own = q === 0 ? 0 : q * (oldLogp - logp)
  return own + (1 - q) * Math.log((1 - q + 1e-8) / (1 - p + 1e-8))
}

/** Whether the probability has left that of the rollout on the side where the advantage pushes: below, and above. */
function outsideRegion({ t, logp: { v: logp }, advantage: A }: Token, c: PolicyCase, o: All): [boolean, boolean] {
  const oldLogp = c.oldLogp?.[t] ?? logp
  const [p, q] = [Math.min(Math.exp(logp), 1), Math.min(Math.exp(oldLogp), 1)]
  const [low, high] = [o.clipLow ?? Infinity, o.clipHigh ?? Infinity]
  if (o.surrogate === 'dppo_tv') return [A < 0 && p - q < -low, A > 0 && p - q > high]
  const kl = binaryKl(logp, oldLogp)
  return [A < 0 && p < q && kl > low, A > 0 && p > q && kl > high]
}

function surrogate(token: Token, r: Traced, c: PolicyCase, o: All): Traced {
  const { t, logp, logRatio, advantage: A } = token
  const clipped = clamp(r, ...interval(t, c, o))
  if (o.surrogate === 'reinforce') return scale(logp, -A)
  if (o.surrogate === 'cispo') return scale(multiply(stop(clipped), logp), -A)
  if (o.surrogate === 'sapo') {
    const tau = A > 0 ? o.tauPositive : o.tauNegative
    return scale(sigmoid(scale(subtract(r, constant(1)), tau)), (-A * 4) / tau)
  }
  if (o.surrogate === 'vespo') {
    const [power, decay] = A >= 0 ? [o.powerPositive, o.decayPositive] : [o.powerNegative, o.decayNegative]
    const phi = r.v ** power * Math.exp(decay * (1 - r.v))
    return scale(logp, Number.isFinite(phi) ? -A * phi : 0)
  }
  if (o.surrogate === 'dro') return add(scale(logp, -A), scale(multiply(logRatio, logRatio), (o.droBeta as number) / 2))
  if (o.surrogate === 'dppo_tv' || o.surrogate === 'dppo_kl') {
    if (outsideRegion(token, c, o).includes(true)) return constant(0)
    return scale(multiply(stop(min(r, constant(o.ratioCap ?? Infinity))), logp), -A)
  }
  const worse = max(scale(r, -A), scale(clipped, -A)) // -min(r A, clip(r) A)
  return o.dualClip !== null && A < 0 ? min(worse, constant(-o.dualClip * A)) : worse
}

function klTerm(logp: Traced, refLogp: number, o: All): Traced {
  const x = subtract(logp, constant(refLogp))
  const y = within(x, o.klClamp)
  const estimates = {
    k1: () => y,
    k2: () => scale(multiply(y, y), 0.5),
    k3: () => add(subtract(exp(scale(y, -1)), constant(1)), y),
    abs: () => apply(y, Math.abs(y.v), Math.sign(y.v)),
  }
  const value = within(estimates[o.kl](), o.klValueClamp)
  return o.klGradient === 'exact' ? value : apply(logp, value.v, x.v)
}

/** The KL times its weight: r, or the token's own ratio. */
function weightedKl(kl: Traced, ratio: Traced, logRatio: Traced, o: All): Traced {
  const weight = {
    none: () => constant(1),
    ratio: () => ratio,
    token_ratio: () => exp(within(logRatio, o.logRatioClamp)),
  }[o.klWeight]()
  const cut = o.klWeightClamp === null ? weight : min(weight, constant(o.klWeightClamp))
  return within(multiply(cut, kl), o.klTermClamp)
}

/**
 * With round = Math.fround the sums over tokens and the chain rule are those of float32. What a choice depends on (a clip, a
 * gate) is float64 always: rounded, it would be another objective.
 */
export function policyObjective(c: PolicyCase, objective: Objective = {}, round: Round = (x) => x) {
  const o: All = { ...defaults, ...objective } as All
  const T = c.logp.length
  const logps: Traced[] = []
  const entropies: Traced[] = []
  const sequences = Array.from({ length: c.sequenceStart.length - 1 }, (_, s) => {
    const [begin, end] = [c.sequenceStart[s] as number, c.sequenceStart[s + 1] as number]
    const places = Array.from({ length: end - begin }, (_, i) => begin + i).filter((t) => c.mask?.[t] !== 0)
    return places.map((t): Token => {
      const logp = (logps[t] = constant(c.logp[t] as number))
      const oldLogp = c.oldLogp === undefined ? stop(logp) : constant(c.oldLogp[t] as number)
      const advantage = (c.tokenAdvantage?.[t] ?? c.advantage?.[s]) as number
      return { t, logp, logRatio: subtract(logp, oldLogp), advantage }
    })
  })
  const tokenCount = sequences.flat().length
  const sequenceCount = o.countEmpty ? sequences.length : sequences.filter((tokens) => tokens.length > 0).length

  const factor = (aggregate: NonNullable<Objective['aggregate']>, normalizer: number | null, n: number) => {
    const denominator = {
      token_mean: tokenCount,
      sequence_mean: sequenceCount,
      sequence_sum: sequenceCount,
      constant: sequenceCount * (o.maxLength ?? Number.NaN),
      token_sum: 1,
    }[aggregate]
    const whole = normalizer ?? denominator
    return whole === 0 ? 0 : 1 / whole / (aggregate === 'sequence_mean' ? n : 1)
  }

  const totals = {
    policyLoss: 0, klLoss: 0, entropy: 0, clipFractionLow: 0, clipFractionHigh: 0, dualClipFraction: 0, ratioMean: 0,
    approxKl: 0, kl: 0, ratioMin: Infinity, ratioMax: -Infinity,
  } // biome-ignore format: a table
  const count = (name: keyof typeof totals, x: number) => {
    totals[name] = round(totals[name] + round(x))
  }
  const terms: Traced[] = []
  for (const tokens of sequences) {
    const r = ratios(tokens, o)
    tokens.forEach((token, i) => {
      const { t, logp, logRatio, advantage: A } = token
      const weight = c.weight?.[t] ?? 1
      const ratio = r[i] as Traced
      const acts = weight !== 0 && (A !== 0 || o.surrogate === 'dro')
      const policy = acts ? scale(surrogate(token, ratio, c, o), weight) : constant(0)
      const kl = c.refLogp === undefined ? constant(0) : klTerm(logp, c.refLogp[t] as number, o)
      const klLoss = o.klCoef === 0 ? constant(0) : scale(weightedKl(kl, ratio, logRatio, o), o.klCoef)
      const f = factor(o.aggregate, o.normalizer, tokens.length)
      terms.push(scale(add(policy, klLoss), f))
      if (c.entropy !== undefined) {
        const g = o.entropyAggregate === null ? f : factor(o.entropyAggregate, null, tokens.length)
        const entropy = (entropies[t] = constant(c.entropy[t] as number))
        terms.push(scale(entropy, -o.entropyCoef * g))
        count('entropy', c.entropy[t] as number)
      }
      count('policyLoss', policy.v)
      count('klLoss', klLoss.v)
      count('kl', kl.v)
      count('ratioMean', ratio.v)
      totals.ratioMin = Math.min(totals.ratioMin, ratio.v)
      totals.ratioMax = Math.max(totals.ratioMax, ratio.v)
      count('approxKl', -logRatio.v)
      if (o.surrogate === 'clip' || o.surrogate === 'cispo') {
        const geometric = o.ratio === 'geometric'
        const [low, high] = geometric ? [-(o.clipLow ?? Infinity), o.clipHigh ?? Infinity] : interval(t, c, o)
        const x = geometric ? logRatio.v : ratio.v
        totals.clipFractionLow += Number(A < 0 && x < low)
        totals.clipFractionHigh += Number(A > 0 && x > high)
        totals.dualClipFraction += Number(A < 0 && o.dualClip !== null && x > o.dualClip)
      } else if (o.surrogate === 'dppo_tv' || o.surrogate === 'dppo_kl') {
        const [low, high] = outsideRegion(token, c, o)
        totals.clipFractionLow += Number(low)
        totals.clipFractionHigh += Number(high)
      }
    })
  }
  const { ratioMin, ratioMax, ...sums } = totals
  const loss = terms.reduce((total, x) => round(total + round(x.v)), 0)
  const slopes = derivatives(sum(terms), round)
  const at = (list: Traced[]) => Array.from({ length: T }, (_, t) => (list[t] && slopes.get(list[t])) ?? 0)
  const means = Object.fromEntries(
    Object.entries(sums).map(([name, x]) => [name, tokenCount === 0 ? 0 : x / tokenCount]),
  ) as typeof sums
  const stats: LossStats = {
    ...means,
    clipFraction: means.clipFractionLow + means.clipFractionHigh,
    ratioMin,
    ratioMax,
    tokens: tokenCount,
    sequences: sequenceCount,
    nonFinite: 0,
    badIndex: 0,
  }
  return { loss, gradLogp: at(logps), gradEntropy: at(entropies), stats, totals }
}
