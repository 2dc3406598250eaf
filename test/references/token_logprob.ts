// Log-probability and entropy of tokens, and the gradient of both with respect to the logits, in float64 from the
// definition. With round = Math.fround every operation is rounded: the plain float32 formula.
type Numbers = ArrayLike<number>
type Round = (x: number) => number

export interface LogitsInputs {
  /** Row-major, V columns. */
  logits: Numbers
  V: number
  token: Numbers
  row?: Numbers | undefined
  mask?: Numbers | undefined
  temperature?: number | undefined
  /** Before the temperature a logit z is softcap tanh(z / softcap). */
  softcap?: number | null | undefined
  /** Multiplies the temperature, row by row. */
  rowTemperature?: Numbers | undefined
  /** Columns from there on have probability 0. */
  validVocab?: number | null | undefined
  /** The columns are those of tokens from there on. */
  vocabStart?: number | null | undefined
  /** kept[keptStart[r]].. are the ids that row r was sampled from; none: all of them. */
  keptStart?: Numbers | undefined
  kept?: Numbers | undefined
}

const exact: Round = (x) => x

const tanhOf = (x: number, softcap: number, round: Round) => round(Math.tanh(round(x / softcap)))
/** A logit of -Infinity is masked, and stays. */
const cap = (x: number, softcap: number | null | undefined, round: Round) =>
  softcap == null || x === -Infinity ? x : round(softcap * tanhOf(x, softcap, round))
const capSlope = (x: number, softcap: number | null | undefined, round: Round) => {
  if (softcap == null) return 1
  const t = tanhOf(x, softcap, round)
  return round(1 - round(t * t))
}

function softmax(
  inputs: LogitsInputs,
  r: number,
  round: Round,
  whole?: { t: number; logsumexp: Numbers; entropy: Numbers },
) {
  const { logits, V, validVocab } = inputs
  const u = new Float64Array(V).fill(-Infinity)
  const divisor = temperatureOf(inputs, r, round)
  const set = setOf(inputs, r)
  const start = inputs.vocabStart ?? 0
  for (let v = 0; v < (validVocab ?? V); v++)
    if (set?.has(v + start) ?? true) u[v] = round(cap(logits[r * V + v] as number, inputs.softcap, round) / divisor)
  // A part of a vocabulary in which no id of the set lies.
  if (set !== undefined && inputs.vocabStart != null && u.every((x) => x === -Infinity)) {
    return { logp: u, p: new Float64Array(V), entropy: 0, logsumexp: -Infinity }
  }
  const max = u.reduce((most, x) => Math.max(most, x), -Infinity)
  const sum = u.reduce((total, x) => round(total + round(Math.exp(round(x - max)))), 0)
  const logsumexp = (whole?.logsumexp[whole.t] as number | undefined) ?? round(max + round(Math.log(sum)))
  const logp = u.map((x) => round(x - logsumexp))
  const p = logp.map((x) => round(Math.exp(x)))
  const entropy = -p.reduce((total, x, v) => (x === 0 ? total : round(total + round(x * (logp[v] as number)))), 0)
  return { logp, p, entropy: (whole?.entropy[whole.t] as number | undefined) ?? entropy + 0, logsumexp }
}

const temperatureOf = ({ temperature = 1, rowTemperature }: LogitsInputs, r: number, round: Round) =>
  rowTemperature ? round(round(temperature) * (rowTemperature[r] as number)) : round(temperature)

const setOf = ({ keptStart, kept }: LogitsInputs, r: number) => {
  const ids = keptStart && kept && Array.from(kept).slice(keptStart[r], keptStart[r + 1])
  return ids === undefined || ids.length === 0 ? undefined : new Set(ids)
}

const tokensOf = ({ token, row, mask }: LogitsInputs) =>
  Array.from({ length: token.length }, (_, t) => ({ t, r: row?.[t] ?? t })).filter(({ t }) => mask?.[t] !== 0)

export function tokenLogprobReference(inputs: LogitsInputs, round: Round = exact) {
  const zeros = () => Array<number>(inputs.token.length).fill(0)
  const result = { logp: zeros(), entropy: zeros(), logsumexp: zeros() }
  const rows = new Map<number, ReturnType<typeof softmax>>()
  for (const { t, r } of tokensOf(inputs)) {
    const row = rows.get(r) ?? softmax(inputs, r, round)
    rows.set(r, row)
    result.logp[t] = row.logp[(inputs.token[t] as number) - (inputs.vocabStart ?? 0)] ?? -Infinity
    result.entropy[t] = row.entropy
    result.logsumexp[t] = row.logsumexp
  }
  return result
}

/** `whole`: what belongs to a vocabulary of which the logits are columns `vocabStart`.. */
export function tokenLogprobBackwardReference(
  inputs: LogitsInputs & { whole?: { logsumexp: Numbers; entropy: Numbers; vocabStart: number } | undefined },
  gradLogp: Numbers,
  gradEntropy?: Numbers,
  round: Round = exact,
): Float64Array {
  const { V, token, whole, validVocab } = inputs
  const start = whole?.vocabStart ?? inputs.vocabStart ?? 0
  const gradient = new Float64Array(inputs.logits.length)
  const rows = new Map<number, ReturnType<typeof softmax>>()
  for (const { t, r } of tokensOf(inputs)) {
    const row = rows.get(r) ?? softmax(inputs, r, round, whole && { t, ...whole })
    rows.set(r, row)
    const set = setOf(inputs, r)
    // Outside its row's set the logp of a token is a constant.
    const a = (set?.has(token[t] as number) ?? true) ? (gradLogp[t] as number) : 0
    const b = gradEntropy?.[t] ?? 0
    if (a === 0 && b === 0) continue
    const divisor = temperatureOf(inputs, r, round)
    for (let v = 0; v < (validVocab ?? V); v++) {
      const p = row.p[v] as number
      const onehot = v + start === token[t] ? 1 : 0
      const spread = p === 0 ? 0 : round(round(b * p) * round((row.logp[v] as number) + row.entropy))
      const ofCapped = round(round(round(a * round(onehot - p)) - spread) / divisor)
      // A logit outside the row's set, which is not looked at, has no gradient.
      const slope = ofCapped === 0 ? 1 : capSlope(inputs.logits[r * V + v] as number, inputs.softcap, round)
      const own = round(ofCapped * slope)
      gradient[r * V + v] = round((gradient[r * V + v] as number) + own)
    }
  }
  return gradient
}
