type Numbers = ArrayLike<number>
type Level = 'token' | 'sequence' | 'sequence_mean'
export interface ImportanceInputs {
  oldLogp: Numbers
  rolloutLogp: Numbers
  sequenceStart: Numbers
  mask?: Numbers | undefined
}
export interface ImportanceChoices {
  level?: Level | undefined
  outside?: 'bound' | 'zero' | 'none' | undefined
  low?: number | null | undefined
  high?: number | null | undefined
  gate?: Level | null | undefined
  gateLow?: number | null | undefined
  gateHigh?: number | null | undefined
  normalize?: boolean | undefined
  reject?: string | null | undefined
  rejectLow?: number | null | undefined
  rejectHigh?: number | null | undefined
}

const held = (x: number) => Math.min(Math.max(x, -20), 20)
/** exp(d) - 1 - d by its series where the subtraction would leave few digits. */
function k3(d: number): number {
  if (Math.abs(d) > 0.1) return Math.expm1(d) - d
  let [term, sum] = [d, 0]
  for (let n = 2; n < 16; n++) sum += term *= d / n
  return sum
}
const divergences: Record<string, (d: number) => number> = { k1: (d) => -d, k2: (d) => d ** 2 / 2, k3 }
// A NaN is outside of nothing.
const outsideOf = (x: number, low: number, high: number) => x < low || x > high

/** The definitions, token by token, of log-ratios in float32; with round = Math.fround their plain float32 version. */
export function reference(inputs: ImportanceInputs, options: ImportanceChoices = {}, round = (x: number) => x) {
  const { oldLogp, rolloutLogp, sequenceStart, mask } = inputs
  const { level = 'token', outside = 'bound', high = 3, gate, reject, normalize = false } = options
  const [low, most] = outside === 'none' ? [0, Infinity] : [options.low ?? 0, high ?? Infinity]
  const T = oldLogp.length
  const add = (x: number[]) => x.reduce((sum, v) => round(sum + v), 0)
  const average = (x: number[]) => (x.length === 0 ? 0 : round(add(x) / x.length))
  const sequences = Array.from({ length: sequenceStart.length - 1 }, (_, s) => {
    const all = Array.from({ length: sequenceStart[s + 1]! - sequenceStart[s]! }, (_, i) => sequenceStart[s]! + i)
    return all.filter((t) => mask?.[t] !== 0)
  })
  const live = sequences.flat()
  const d = Array.from({ length: T }, (_, t) => Math.fround(oldLogp[t]! - rolloutLogp[t]!))
  const [weight, kept] = [new Array<number>(T).fill(0), new Array<number>(T).fill(0)]
  const stats = { cutLow: 0, cutHigh: 0, gated: 0, rejected: 0, nonFinite: 0 }
  const ratios: number[] = []
  for (const tokens of sequences) {
    const logs = tokens.map((t) => d[t]!)
    const [sum, mean] = [add(logs), average(logs)]
    const logOf = (of: Level, t: number) => (of === 'token' ? d[t]! : of === 'sequence' ? sum : mean)
    const ratioOf = (of: Level, t: number) => round(Math.exp(held(logOf(of, t))))
    const [scope, kind] = reject ? [reject.slice(0, -3), reject.slice(-2)] : ['', '']
    const estimates = reject ? tokens.map((t) => round(divergences[kind]!(held(d[t]!)))) : []
    const scopes: Record<string, () => number> = {
      seq_sum: () => add(estimates),
      seq_mean: () => average(estimates),
      seq_max: () => estimates.reduce((most, x) => Math.max(most, x), -Infinity),
    }
    const whole = scopes[scope!]?.()
    const { rejectLow, rejectHigh = 0 } = options
    const bounds = kind === 'k1' ? [Math.log(rejectLow ?? 1 / rejectHigh!), Math.log(rejectHigh!)] : [-Infinity, rejectHigh!] // biome-ignore format: one line
    tokens.forEach((t, i) => {
      const ratio = ratioOf(level, t)
      ratios.push(ratio)
      const isGated = gate ? outsideOf(ratioOf(gate, t), options.gateLow ?? 0, options.gateHigh ?? Infinity) : false
      const [isBelow, isAbove] = [ratio < low, ratio > most]
      weight[t] = isGated || ((isBelow || isAbove) && outside === 'zero') ? 0 : isBelow ? low : isAbove ? most : ratio
      stats.gated += Number(isGated)
      stats.cutLow += Number(isBelow && !isGated)
      stats.cutHigh += Number(isAbove && !isGated)
      kept[t] = Number(!reject || !outsideOf(whole ?? estimates[i]!, bounds[0]!, bounds[1]!))
      stats.rejected += Number(kept[t] === 0)
      stats.nonFinite += Number(!Number.isFinite(d[t]!) || !Number.isFinite(weight[t]!))
    })
  }
  const [absolute, counted] = [live.map((t) => Math.abs(d[t]!)), live.map((t) => weight[t]!)]
  const largest = (x: number[], least: number) => x.reduce((most, v) => (v > most ? v : most), least)
  const list = [
    live.length,
    add(absolute),
    largest(absolute, 0),
    add(live.map((t) => -d[t]!)),
    add(ratios),
    -largest(
      ratios.map((x) => -x),
      -Infinity,
    ),
    largest(ratios, -Infinity),
    add(counted),
    add(counted.map((w) => round(w * w))),
    ...[stats.cutLow, stats.cutHigh, stats.gated, stats.rejected, stats.nonFinite],
  ]
  if (!normalize) return { weight, mask: kept, stats: list }
  const means = sequences.filter(({ length }) => length > 0).map((tokens) => average(tokens.map((t) => weight[t]!)))
  const mean = level === 'token' ? average(counted) : average(means)
  return { weight: mean === 0 ? weight : weight.map((w) => round(w / mean)), mask: kept, stats: list }
}
