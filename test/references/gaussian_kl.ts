type Numbers = ArrayLike<number>
export interface Case {
  mean: Numbers
  refMean: Numbers
  std: Numbers
  mask?: Numbers | undefined
}

/** The definitions, a row at a time; with round = Math.fround their plain float32 version. */
export function reference(c: Case, D: number, gradKl: Numbers, round = (v: number) => v) {
  const T = c.std.length
  const results = { kl: Array<number>(T).fill(0), gradMean: Array<number>(T * D).fill(0) }
  for (let t = 0; t < T; t++) {
    if (c.mask?.[t] === 0 || D === 0) continue
    const variance = round((c.std[t] as number) * (c.std[t] as number))
    let squares = 0
    for (let i = t * D; i < t * D + D; i++) {
      const off = round((c.mean[i] as number) - (c.refMean[i] as number))
      squares = round(squares + round(off * off))
      results.gradMean[i] = round(round((gradKl[t] as number) * off) / round(variance * D))
    }
    results.kl[t] = round(round(squares / D) / round(2 * variance))
  }
  return results
}
