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
const at = (x: Numbers, i: number) => x[i] as number

export function linearLogits({ hidden, head, D, headBias }: LinearInputs, round: Round = exact): number[] {
  const [R, V] = [hidden.length / D, head.length / D]
  return Array.from({ length: R * V }, (_, i) => {
    const [r, v] = [Math.floor(i / V), i % V]
    let sum = 0
    for (let d = 0; d < D; d++) sum = round(sum + round(at(hidden, r * D + d) * at(head, v * D + d)))
    return headBias === undefined ? sum : round(sum + at(headBias, v))
  })
}

/** A row of gradLogits that is all 0 adds nothing, whatever its hidden state holds. */
export function linearGradients({ hidden, head, D }: LinearInputs, gradLogits: Numbers, round: Round = exact) {
  const [R, V] = [hidden.length / D, head.length / D]
  const gradHidden = Array<number>(R * D).fill(0)
  const gradHead = Array<number>(V * D).fill(0)
  const gradHeadBias = Array<number>(V).fill(0)
  for (let r = 0; r < R; r++) {
    const row = Array.from({ length: V }, (_, v) => at(gradLogits, r * V + v))
    if (row.every((g) => g === 0)) continue
    row.forEach((g, v) => {
      gradHeadBias[v] = round(at(gradHeadBias, v) + g)
      for (let d = 0; d < D; d++) {
        gradHidden[r * D + d] = round(at(gradHidden, r * D + d) + round(g * at(head, v * D + d)))
        gradHead[v * D + d] = round(at(gradHead, v * D + d) + round(g * at(hidden, r * D + d)))
      }
    })
  }
  return { gradHidden, gradHead, gradHeadBias }
}
