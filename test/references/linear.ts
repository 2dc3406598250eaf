// Logits from hidden states, logits = hidden headᵀ + headBias, and what a gradient of the logits means for the three, in
// float64 from the definition. With round = Math.fround every operation is rounded: the plain float32 formula.
type Numbers = ArrayLike<number>
type Round = (x: number) => number

export interface LinearInputs {
  /** Row-major, D columns; head too. */
  hidden: Numbers
  head: Numbers
  D: number
  headBias?: Numbers | undefined
}

const exact: Round = (x) => x
// One kind of array in the loops below: with several, each access asks which one it is.
const wide = (x: Numbers) => Float64Array.from(x)
const at = (x: Float64Array, i: number) => x[i] as number

export function linearLogits({ hidden, head, D, headBias }: LinearInputs, round: Round = exact): Float64Array {
  const [R, V] = [hidden.length / D, head.length / D]
  const [x, w, bias] = [wide(hidden), wide(head), headBias && wide(headBias)]
  const logits = new Float64Array(R * V)
  for (let r = 0; r < R; r++) {
    for (let v = 0; v < V; v++) {
      let sum = 0
      for (let d = 0; d < D; d++) sum = round(sum + round(at(x, r * D + d) * at(w, v * D + d)))
      logits[r * V + v] = bias === undefined ? sum : round(sum + at(bias, v))
    }
  }
  return logits
}

/** A row of gradLogits that is all 0 adds nothing, whatever its hidden state holds. */
export function linearGradients({ hidden, head, D }: LinearInputs, gradLogits: Numbers, round: Round = exact) {
  const [R, V] = [hidden.length / D, head.length / D]
  const [x, w, gradient] = [wide(hidden), wide(head), wide(gradLogits)]
  const gradHidden = new Float64Array(R * D)
  const gradHead = new Float64Array(V * D)
  const gradHeadBias = new Float64Array(V)
  for (let r = 0; r < R; r++) {
    if (gradient.subarray(r * V, (r + 1) * V).every((g) => g === 0)) continue
    for (let v = 0; v < V; v++) {
      const g = at(gradient, r * V + v)
      gradHeadBias[v] = round(at(gradHeadBias, v) + g)
      for (let d = 0; d < D; d++) {
        gradHidden[r * D + d] = round(at(gradHidden, r * D + d) + round(g * at(w, v * D + d)))
        gradHead[v * D + d] = round(at(gradHead, v * D + d) + round(g * at(x, r * D + d)))
      }
    }
  }
  return { gradHidden, gradHead, gradHeadBias }
}
