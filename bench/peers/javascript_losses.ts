// The peers' side: plain JavaScript, the log-probabilities and the losses.
import type { Arrays, Numbers } from '../cases.js'
import { f32, type Implementation, i32, shape } from './plain.js'

/** Clipped surrogate, k3 and token mean; writes the derivative with respect to logp. */
function clippedLoss(x: Arrays, n: Numbers, logp: Float32Array, gradLogp: Float32Array): number {
  const { clipLow = 0.2, clipHigh = 0.2, klCoef = 0 } = n
  const [oldLogp, advantage, start] = [f32(x, 'oldLogp'), f32(x, 'advantage'), i32(x, 'sequenceStart')]
  const refLogp = klCoef > 0 ? f32(x, 'refLogp') : undefined
  const T = logp.length
  let loss = 0
  for (let s = 0; s + 1 < start.length; s++) {
    const a = advantage[s]!
    for (let t = start[s]!; t < start[s + 1]!; t++) {
      const ratio = Math.exp(logp[t]! - oldLogp[t]!)
      const plain = ratio * a
      const clipped = Math.min(Math.max(ratio, 1 - clipLow), 1 + clipHigh) * a
      loss -= Math.min(plain, clipped)
      let gradient = plain <= clipped ? -plain : 0
      if (refLogp !== undefined) {
        const difference = refLogp[t]! - logp[t]!
        const e = Math.exp(difference)
        loss += klCoef * (e - difference - 1)
        gradient += klCoef * (1 - e)
      }
      gradLogp[t] = gradient / T
    }
  }
  return loss / T
}

/** Log-sum-exp and entropy of a row, and exp(z - max) if there is room for it. */
function rowStatistics(logits: Float32Array, from: number, V: number, inverse: number, e?: Float32Array) {
  let max = Number.NEGATIVE_INFINITY
  for (let v = from; v < from + V; v++) if (logits[v]! > max) max = logits[v]!
  let sum = 0
  let weighted = 0
  for (let v = from; v < from + V; v++) {
    const z = (logits[v]! - max) * inverse
    const p = Math.exp(z)
    if (e !== undefined) e[v] = p
    sum += p
    weighted += p * z
  }
  const logsum = Math.log(sum)
  return { logsumexp: max * inverse + logsum, entropy: logsum - weighted / sum, sum }
}

export const losses: Record<string, Implementation> = {
  tokenLogprob(x, { temperature = 1 }) {
    const [logits, token] = [f32(x, 'logits'), i32(x, 'token')]
    const [R, V] = shape(x, 'logits')
    return () => {
      const [logp, entropy, logsumexp] = [new Float32Array(R), new Float32Array(R), new Float32Array(R)]
      for (let r = 0; r < R; r++) {
        const row = rowStatistics(logits, r * V, V, 1 / temperature)
        logp[r] = logits[r * V + token[r]!]! / temperature - row.logsumexp
        entropy[r] = row.entropy
        logsumexp[r] = row.logsumexp
      }
      return { logp, entropy, logsumexp }
    }
  },

  tokenLogprobBackward(x, { temperature = 1 }) {
    const [logits, token] = [f32(x, 'logits'), i32(x, 'token')]
    const [logsumexp, gradLogp] = [f32(x, 'logsumexp'), f32(x, 'gradLogp')]
    const [R, V] = shape(x, 'logits')
    return () => {
      const gradLogits = new Float32Array(R * V)
      for (let r = 0; r < R; r++) {
        const scale = gradLogp[r]! / temperature
        for (let v = r * V; v < (r + 1) * V; v++)
          gradLogits[v] = -scale * Math.exp(logits[v]! / temperature - logsumexp[r]!)
        gradLogits[r * V + token[r]!]! += scale
      }
      return { gradLogits }
    }
  },

  mergeTokenLogprob(x) {
    const [logp, entropy, logsumexp] = [f32(x, 'logp'), f32(x, 'entropy'), f32(x, 'logsumexp')]
    const [otherLogp, otherEntropy, other] = [f32(x, 'otherLogp'), f32(x, 'otherEntropy'), f32(x, 'otherLogsumexp')]
    const T = logp.length
    const end = other.length
    return () => {
      const whole = { logp: new Float32Array(T), entropy: new Float32Array(T), logsumexp: new Float32Array(T) }
      for (let t = 0; t < T; t++) {
        let largest = logsumexp[t]!
        let mine = logp[t]! + largest
        for (let i = t; i < end; i += T) {
          if (other[i]! > largest) largest = other[i]!
          mine = Math.max(mine, otherLogp[i]! + other[i]!)
        }
        const share = Math.exp(logsumexp[t]! - largest)
        let sum = share
        let weighted = share * (entropy[t]! - logsumexp[t]!)
        for (let i = t; i < end; i += T) {
          const p = Math.exp(other[i]! - largest)
          sum += p
          weighted += p * (otherEntropy[i]! - other[i]!)
        }
        const all = largest + Math.log(sum)
        whole.logsumexp[t] = all
        whole.entropy[t] = all + weighted / sum
        whole.logp[t] = mine - all
      }
      return whole
    }
  },

  policyLoss(x, n) {
    const logp = f32(x, 'logp')
    return () => {
      const gradLogp = new Float32Array(logp.length)
      return { loss: clippedLoss(x, n, logp, gradLogp), gradLogp }
    }
  },

  policyLossFromLogits(x, n) {
    const { temperature = 1 } = n
    const [logits, token] = [f32(x, 'logits'), i32(x, 'token')]
    const [R, V] = shape(x, 'logits')
    return () => {
      const [logp, entropy, sums] = [new Float32Array(R), new Float32Array(R), new Float64Array(R)]
      const gradLogits = new Float32Array(R * V)
      for (let r = 0; r < R; r++) {
        const row = rowStatistics(logits, r * V, V, 1 / temperature, gradLogits)
        logp[r] = logits[r * V + token[r]!]! / temperature - row.logsumexp
        entropy[r] = row.entropy
        sums[r] = row.sum
      }
      const gradLogp = new Float32Array(R)
      const loss = clippedLoss(x, n, logp, gradLogp)
      for (let r = 0; r < R; r++) {
        const scale = gradLogp[r]! / temperature
        for (let v = r * V; v < (r + 1) * V; v++) gradLogits[v]! *= -scale / sums[r]!
        gradLogits[r * V + token[r]!]! += scale
      }
      return { loss, gradLogits, logp, entropy }
    }
  },
}
