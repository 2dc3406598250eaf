// Attention and its gradients in the contract's words: a mask of who sees whom, and plain loops. With round = Math.fround
// it is the plain float32 formula; the backward pass starts from what the forward pass hands over, rounded as it is.
export interface AttentionArrays {
  q: ArrayLike<number>
  k: ArrayLike<number>
  v: ArrayLike<number>
}
export interface AttentionShape {
  P: number
  H: number
  K: number
  D: number
  E: number
  scale?: number
  softcap?: number | null | undefined
  /** [H] */
  sink?: ArrayLike<number> | undefined
  /** What probabilities and slopes are rounded to before they are multiplied with inputs. */
  factor?: Round
}

type Round = (x: number) => number
const exact: Round = (x) => x
// One kind of array in the loops below: with several, each access asks which one it is.
const wide = (x: ArrayLike<number>) => (x instanceof Float64Array ? x : Float64Array.from(x))

/** probability[p][j] for one head, and the logsumexp of each row. */
function probabilities(arrays: AttentionArrays, sees: boolean[][], h: number, s: AttentionShape, round: Round) {
  const { P, H, K, D } = s
  const [q, k] = [wide(arrays.q), wide(arrays.k)]
  const scale = s.scale ?? 1 / Math.sqrt(D)
  const head = Math.floor((h * K) / H)
  const cap = s.softcap ?? undefined
  const isExact = round(1 / 3) === 1 / 3
  const slopes = Array.from({ length: P }, () => Array<number>(P).fill(1))
  const logsumexp: number[] = []
  const scores = Array.from({ length: P }, (_, p) =>
    Array.from({ length: P }, (_, j) => {
      if (!(sees[p] as boolean[])[j]) return Number.NEGATIVE_INFINITY
      let dot = 0
      for (let d = 0; d < D; d++) {
        dot = round(dot + round((q[(p * H + h) * D + d] as number) * (k[(j * K + head) * D + d] as number)))
      }
      const score = round(scale * dot)
      if (cap === undefined) return score
      const tangent = round(Math.tanh(round(score / cap)))
      // In float64 by the cosine: of a tangent near 1 the difference has no digits.
      const slope = isExact ? Math.cosh(score / cap) ** -2 : round(1 - round(tangent * tangent))
      ;(slopes[p] as number[])[j] = slope
      return round(cap * tangent)
    }),
  )
  const sink = s.sink?.[h]
  const probability = scores.map((row) => {
    const logits = sink === undefined ? row : [...row, sink]
    const max = Math.max(...logits)
    const sum = logits.reduce((total, x) => round(total + round(Math.exp(round(x - max)))), 0)
    logsumexp.push(round(max + round(Math.log(sum))))
    return row.map((x) => round(round(Math.exp(round(x - max))) / sum))
  })
  return { scores, slopes, probability, logsumexp, head, scale }
}

export function attentionReference(arrays: AttentionArrays, sees: boolean[][], s: AttentionShape, round = exact) {
  const { P, H, K, E, factor = exact } = s
  const v = wide(arrays.v)
  const wider = { q: wide(arrays.q), k: wide(arrays.k), v }
  const out = new Float64Array(P * H * E)
  const logsumexp = new Float64Array(P * H)
  for (let h = 0; h < H; h++) {
    const row = probabilities(wider, sees, h, s, round)
    for (let p = 0; p < P; p++) {
      logsumexp[p * H + h] = row.logsumexp[p] as number
      for (let j = 0; j < P; j++) {
        if (!(sees[p] as boolean[])[j]) continue
        for (let e = 0; e < E; e++) {
          const at = (p * H + h) * E + e
          const weight = factor((row.probability[p] as number[])[j] as number)
          const term = weight * (v[(j * K + row.head) * E + e] as number)
          out[at] = round((out[at] as number) + round(term))
        }
      }
    }
  }
  return { out, logsumexp }
}

export function attentionGradients(
  arrays: AttentionArrays & { gradOut: ArrayLike<number>; out: ArrayLike<number>; logsumexp: ArrayLike<number> },
  sees: boolean[][],
  s: AttentionShape,
  round = exact,
) {
  const { P, H, K, D, E, factor = exact } = s
  const [q, k, v, gradOut, out] = [arrays.q, arrays.k, arrays.v, arrays.gradOut, arrays.out].map(wide) as [
    Float64Array, Float64Array, Float64Array, Float64Array, Float64Array,
  ] // biome-ignore format: a line
  const gradQ = new Float64Array(P * H * D)
  const gradK = new Float64Array(P * K * D)
  const gradV = new Float64Array(P * K * E)
  const gradSink = new Float64Array(H)
  const add = (x: Float64Array, at: number, value: number) => {
    x[at] = round((x[at] as number) + round(value))
  }
  for (let h = 0; h < H; h++) {
    const { scores, slopes, head, scale } = probabilities({ q, k, v }, sees, h, s, round)
    for (let p = 0; p < P; p++) {
      const row = (scores[p] as number[]).map((x) =>
        round(Math.exp(round(x - (arrays.logsumexp[p * H + h] as number)))),
      )
      const dots = row.map((_, j) => {
        if (!(sees[p] as boolean[])[j]) return 0
        let dot = 0
        for (let e = 0; e < E; e++)
          dot = round(dot + round((gradOut[(p * H + h) * E + e] as number) * (v[(j * K + head) * E + e] as number)))
        return dot
      })
      const seen = row.map((_, j) => j).filter((j) => (sees[p] as boolean[])[j])
      let delta = 0
      for (let e = 0; e < E; e++) {
        const at = (p * H + h) * E + e
        delta = round(delta + round((gradOut[at] as number) * (out[at] as number)))
      }
      if (s.sink !== undefined) {
        const weight = round(Math.exp(round((s.sink[h] as number) - (arrays.logsumexp[p * H + h] as number))))
        add(gradSink, h, -weight * delta)
      }
      for (const j of seen) {
        const weight = row[j] as number
        const unscaled = round(round(weight * round((dots[j] as number) - delta)) * (slopes[p] as number[])[j]!)
        const gradScore = factor(round(scale * unscaled))
        for (let e = 0; e < E; e++)
          add(gradV, (j * K + head) * E + e, factor(weight) * (gradOut[(p * H + h) * E + e] as number))
        for (let d = 0; d < D; d++) {
          add(gradQ, (p * H + h) * D + d, gradScore * (k[(j * K + head) * D + d] as number))
          add(gradK, (j * K + head) * D + d, gradScore * (q[(p * H + h) * D + d] as number))
        }
      }
    }
  }
  return { gradQ, gradK, gradV, gradSink }
}
