// The peers' side: plain JavaScript, loops over typed arrays as one would write them without a library.
import type { Arrays, Numbers, Outputs } from '../cases.js'
import { fingerprints } from '../fingerprint.js'
import type { Peer } from './peer.js'

type Implementation = (x: Arrays, n: Numbers) => () => Outputs

const f32 = (x: Arrays, name: string) => x[name]!.data as Float32Array
const i32 = (x: Arrays, name: string) => x[name]!.data as Int32Array
const shape = (x: Arrays, name: string) => x[name]!.shape as [number, number]

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

const implementations: Record<string, Implementation> = {
  groupAdvantage(x, { eps = 1e-4 }) {
    const [rewards, start] = [f32(x, 'rewards'), i32(x, 'groupStart')]
    return () => {
      const advantage = new Float32Array(rewards.length)
      for (let g = 0; g + 1 < start.length; g++) {
        const [from, to] = [start[g]!, start[g + 1]!]
        let sum = 0
        for (let i = from; i < to; i++) sum += rewards[i]!
        const mean = sum / (to - from)
        let squares = 0
        for (let i = from; i < to; i++) squares += (rewards[i]! - mean) ** 2
        const std = to - from > 1 ? Math.sqrt(squares / (to - from - 1)) : 0
        for (let i = from; i < to; i++) advantage[i] = std === 0 ? 0 : (rewards[i]! - mean) / (std + eps)
      }
      return { advantage }
    }
  },

  moments(x) {
    const values = f32(x, 'x')
    return () => {
      let sum = 0
      for (let i = 0; i < values.length; i++) sum += values[i]!
      const mean = sum / values.length
      let m2 = 0
      for (let i = 0; i < values.length; i++) m2 += (values[i]! - mean) ** 2
      return { count: values.length, mean, m2 }
    }
  },

  standardize(x, { mean = 0, std = 1, eps = 1e-8 }) {
    const values = f32(x, 'x')
    return () => ({ x: values.map((value) => (value - mean) / (std + eps)) })
  },

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
    return () => {
      const whole = { logp: new Float32Array(T), entropy: new Float32Array(T), logsumexp: new Float32Array(T) }
      for (let t = 0; t < T; t++) {
        const [a, b] = [logsumexp[t]!, other[t]!]
        const sum = Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)))
        const [p, q] = [Math.exp(a - sum), Math.exp(b - sum)]
        whole.logsumexp[t] = sum
        whole.entropy[t] = sum + p * (entropy[t]! - a) + q * (otherEntropy[t]! - b)
        const [mine, others] = [logp[t]! + a, otherLogp[t]! + b]
        whole.logp[t] = Math.max(mine, others) - sum
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

  selectRollouts(x, { count = 1 }) {
    const [score, start] = [f32(x, 'score'), i32(x, 'groupStart')]
    return () => {
      const mask = new Uint8Array(score.length)
      for (let g = 0; g + 1 < start.length; g++) {
        const order = Array.from({ length: start[g + 1]! - start[g]! }, (_, i) => start[g]! + i)
        order.sort((a, b) => score[b]! - score[a]!)
        const lowest = order.slice(order.length - count)
        let best = Number.NEGATIVE_INFINITY
        let chosen = lowest
        for (let k = 0; k <= count; k++) {
          const subset = [...order.slice(0, k), ...lowest.slice(k)]
          const mean = subset.reduce((sum, i) => sum + score[i]!, 0) / count
          const squares = subset.reduce((sum, i) => sum + (score[i]! - mean) ** 2, 0)
          if (squares > best) [best, chosen] = [squares, subset]
        }
        for (const i of chosen) mask[i] = 1
      }
      return { mask }
    }
  },

  selectTokens(x, { fraction = 1 }) {
    const [advantage, entropy, start] = [f32(x, 'advantage'), f32(x, 'entropy'), i32(x, 'sequenceStart')]
    return () => {
      const score = new Float32Array(entropy.length)
      for (let s = 0; s + 1 < start.length; s++)
        for (let t = start[s]!; t < start[s + 1]!; t++) score[t] = Math.abs(advantage[s]!) * entropy[t]!
      const sorted = score.toSorted()
      const threshold = sorted[score.length - Math.ceil(fraction * score.length)]!
      const mask = new Uint8Array(score.length)
      for (let t = 0; t < mask.length; t++) mask[t] = score[t]! >= threshold ? 1 : 0
      return { mask }
    }
  },

  maskIndex(x) {
    const mask = x.mask!.data as Uint8Array
    return () => {
      let count = 0
      for (let i = 0; i < mask.length; i++) if (mask[i] !== 0) count++
      const index = new Int32Array(count)
      for (let i = 0, at = 0; i < mask.length; i++) if (mask[i] !== 0) index[at++] = i
      return { index }
    }
  },

  gatherRows(x) {
    const [rows, index] = [f32(x, 'x'), i32(x, 'index')]
    const D = shape(x, 'x')[1]
    return () => {
      const gathered = new Float32Array(index.length * D)
      for (let m = 0; m < index.length; m++) gathered.set(rows.subarray(index[m]! * D, (index[m]! + 1) * D), m * D)
      return { x: gathered }
    }
  },

  scatterRows(x, { rows = 0 }) {
    const [values, index] = [f32(x, 'x'), i32(x, 'index')]
    const D = shape(x, 'x')[1]
    return () => {
      const scattered = new Float32Array(rows * D)
      for (let m = 0; m < index.length; m++)
        for (let d = 0; d < D; d++) scattered[index[m]! * D + d]! += values[m * D + d]!
      return { x: scattered }
    }
  },

  sequenceSum(x) {
    const [values, start] = [f32(x, 'x'), i32(x, 'sequenceStart')]
    return () => {
      const sums = new Float32Array(start.length - 1)
      for (let s = 0; s < sums.length; s++) {
        let sum = 0
        for (let t = start[s]!; t < start[s + 1]!; t++) sum += values[t]!
        sums[s] = sum
      }
      return { x: sums }
    }
  },

  sequenceExpand(x) {
    const [values, start] = [f32(x, 'x'), i32(x, 'sequenceStart')]
    return () => {
      const expanded = new Float32Array(start.at(-1)!)
      for (let s = 0; s < values.length; s++) expanded.fill(values[s]!, start[s]!, start[s + 1]!)
      return { x: expanded }
    }
  },

  groupBy(x) {
    const ids = i32(x, 'ids')
    return () => {
      const members = new Map<number, number[]>()
      for (let i = 0; i < ids.length; i++) {
        const group = members.get(ids[i]!)
        if (group === undefined) members.set(ids[i]!, [i])
        else group.push(i)
      }
      const groups = [...members].sort(([a], [b]) => a - b)
      const order = new Int32Array(ids.length)
      const groupStart = new Int32Array(groups.length + 1)
      groups.forEach(([, group], g) => {
        order.set(group, groupStart[g]!)
        groupStart[g + 1] = groupStart[g]! + group.length
      })
      return { order, groupStart }
    }
  },

  convert(x) {
    const values = f32(x, 'x')
    return () => {
      const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
      const rounded = new Uint16Array(bits.length)
      for (let i = 0; i < bits.length; i++) rounded[i] = (bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) >>> 16
      return { x: { dtype: 'bf16', shape: [rounded.length], data: rounded } }
    }
  },
}

/** GFLOP/s of the usual three loops, the inner one over contiguous memory. */
function multiplyRate(n: number): number {
  const [a, b, c] = [new Float32Array(n * n).fill(1), new Float32Array(n * n).fill(1), new Float32Array(n * n)]
  const multiply = () => {
    for (let i = 0; i < n; i++)
      for (let k = 0; k < n; k++) {
        const factor = a[i * n + k]!
        for (let j = 0; j < n; j++) c[i * n + j]! += factor * b[k * n + j]!
      }
  }
  multiply()
  const start = performance.now()
  multiply()
  return (2 * n ** 3) / (performance.now() - start) / 1e6
}

export async function javascript(): Promise<Peer> {
  return {
    name: 'plain JavaScript',
    version: `Node ${process.version}`,
    gflops: multiplyRate(512),
    bf16: false,
    reasons: {},
    ways: (operation) => (operation in implementations ? [''] : []),
    async prepare(operation, _way, inputs, numbers) {
      const compute = implementations[operation]!(inputs, numbers)
      let outputs: Outputs = {}
      return {
        run: () => void (outputs = compute()),
        results: async () => fingerprints(outputs),
        dispose: () => void (outputs = {}),
      }
    },
    close() {},
  }
}
