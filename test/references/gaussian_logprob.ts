type Numbers = ArrayLike<number>
export interface Case {
  x: Numbers
  mean: Numbers
  std: Numbers
  oldMean: Numbers
  mask?: Numbers | undefined
}

/** The definitions, a row at a time; with round = Math.fround their plain float32 version. */
export function reference(c: Case, D: number, gradLogp: Numbers, gradLogRatio: Numbers, round = (v: number) => v) {
  const T = c.std.length
  const results = { logp: Array(T).fill(0), logRatio: Array(T).fill(0), gradMean: Array(T * D).fill(0) }
  for (let t = 0; t < T; t++) {
    if (c.mask?.[t] === 0) continue
    const std = c.std[t] as number
    let [squares, products] = [0, 0]
    for (let i = t * D; i < t * D + D; i++) {
      const [x, mean, oldMean] = [c.x[i] as number, c.mean[i] as number, c.oldMean[i] as number]
      const [off, offOld, moved] = [round(x - mean), round(x - oldMean), round(mean - oldMean)]
      squares = round(squares + round(off * off))
      products = round(products + round(offOld * moved))
      const ofLogp = round(round((gradLogp[t] as number) * off) / round(round(std * std) * D))
      const ofRatio = round(round((gradLogRatio[t] as number) * offOld) / round(std * D))
      results.gradMean[i] = round(ofLogp + ofRatio)
    }
    const exponent = round(-squares / D / round(2 * round(std * std)))
    results.logp[t] = round(round(exponent - round(Math.log(std))) - round(Math.log(2 * Math.PI) / 2))
    results.logRatio[t] = round(round(products / D) / std)
  }
  return results
}
