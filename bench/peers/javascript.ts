// The peers' side: plain JavaScript, loops over typed arrays as one would write them without a library.
import type { Arrays, Outputs } from '../cases.js'
import { fingerprints } from '../fingerprint.js'
import { losses } from './javascript_losses.js'
import type { Peer } from './peer.js'
import { f32, type Implementation, i32, shape } from './plain.js'

/** Any forest; prompts with their responses are one of depth two. */
function layout(x: Arrays) {
  const [length, parent] = [i32(x, 'length'), i32(x, 'parent')]
  const B = length.length
  return () => {
    const [segmentStart, base] = [new Int32Array(B + 1), new Int32Array(B)]
    const isParent = new Uint8Array(B)
    for (let b = 0; b < B; b++) {
      const up = parent[b]!
      segmentStart[b + 1] = segmentStart[b]! + length[b]!
      if (up >= 0) [base[b], isParent[up]] = [base[up]! + length[up]!, 1]
    }
    const position = new Int32Array(segmentStart[B]!)
    for (let b = 0; b < B; b++) for (let i = 0; i < length[b]!; i++) position[segmentStart[b]! + i] = base[b]! + i
    const [place, row, sequenceStart]: number[][] = [[], [], [0]]
    for (let leaf = 0; leaf < B; leaf++) {
      if (isParent[leaf] === 1 || parent[leaf]! < 0) continue
      const path: number[] = []
      let root = leaf
      for (; parent[root]! >= 0; root = parent[root]!) path.unshift(root)
      let before = segmentStart[root + 1]! - 1
      for (const b of path)
        for (let p = segmentStart[b]!; p < segmentStart[b + 1]!; p++) {
          place!.push(p)
          row!.push(before)
          before = p
        }
      sequenceStart!.push(place!.length)
    }
    return {
      segmentStart,
      position,
      sequenceStart: Int32Array.from(sequenceStart!),
      row: Int32Array.from(row!),
      place: Int32Array.from(place!),
    }
  }
}

const implementations: Record<string, Implementation> = {
  ...losses,

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

  gaussianLogprob(x) {
    const [sampled, mean, std, oldMean] = [f32(x, 'x'), f32(x, 'mean'), f32(x, 'std'), f32(x, 'oldMean')]
    const [T, D] = shape(x, 'x')
    return () => {
      const [logp, logRatio] = [new Float32Array(T), new Float32Array(T)]
      for (let t = 0; t < T; t++) {
        let [squares, products] = [0, 0]
        for (let i = t * D; i < (t + 1) * D; i++) {
          squares += (sampled[i]! - mean[i]!) ** 2
          products += (sampled[i]! - oldMean[i]!) * (mean[i]! - oldMean[i]!)
        }
        logp[t] = -squares / D / (2 * std[t]! ** 2) - Math.log(std[t]!) - Math.log(2 * Math.PI) / 2
        logRatio[t] = products / D / std[t]!
      }
      return { logp, logRatio }
    }
  },

  gaussianLogprobBackward(x) {
    const [sampled, mean, std, oldMean] = [f32(x, 'x'), f32(x, 'mean'), f32(x, 'std'), f32(x, 'oldMean')]
    const [gradLogp, gradLogRatio] = [f32(x, 'gradLogp'), f32(x, 'gradLogRatio')]
    const [T, D] = shape(x, 'x')
    return () => {
      const gradMean = new Float32Array(T * D)
      for (let t = 0; t < T; t++) {
        const [a, b] = [gradLogp[t]! / (std[t]! ** 2 * D), gradLogRatio[t]! / (std[t]! * D)]
        for (let i = t * D; i < (t + 1) * D; i++)
          gradMean[i] = a * (sampled[i]! - mean[i]!) + b * (sampled[i]! - oldMean[i]!)
      }
      return { gradMean }
    }
  },

  gaussianKl(x) {
    const [mean, refMean, std] = [f32(x, 'mean'), f32(x, 'refMean'), f32(x, 'std')]
    const [T, D] = shape(x, 'mean')
    return () => {
      const kl = new Float32Array(T)
      for (let t = 0; t < T; t++) {
        let squares = 0
        for (let i = t * D; i < (t + 1) * D; i++) squares += (mean[i]! - refMean[i]!) ** 2
        kl[t] = squares / D / (2 * std[t]! ** 2)
      }
      return { kl }
    }
  },

  gaussianKlBackward(x) {
    const [mean, refMean, std, gradKl] = [f32(x, 'mean'), f32(x, 'refMean'), f32(x, 'std'), f32(x, 'gradKl')]
    const [T, D] = shape(x, 'mean')
    return () => {
      const gradMean = new Float32Array(T * D)
      for (let t = 0; t < T; t++) {
        const factor = gradKl[t]! / (std[t]! ** 2 * D)
        for (let i = t * D; i < (t + 1) * D; i++) gradMean[i] = factor * (mean[i]! - refMean[i]!)
      }
      return { gradMean }
    }
  },

  logRatio(x) {
    const [left, right, mask] = [f32(x, 'x'), f32(x, 'y'), x.mask!.data]
    return () => {
      const logRatio = new Float32Array(left.length)
      for (let t = 0; t < left.length; t++) if (mask[t] !== 0) logRatio[t] = left[t]! - right[t]!
      return { logRatio }
    }
  },

  treeLayout: layout,

  prefixLayout: layout,

  tokenTree(x) {
    const [token, start, groupStart] = [i32(x, 'token'), i32(x, 'sequenceStart'), i32(x, 'groupStart')]
    interface Node {
      place: number
      children: Map<number, Node>
    }
    return () => {
      const place = new Int32Array(token.length)
      const position: number[] = []
      for (let g = 0; g + 1 < groupStart.length; g++) {
        const root: Node = { place: -1, children: new Map() }
        const paths: Node[][] = []
        for (let i = groupStart[g]!; i < groupStart[g + 1]!; i++) {
          const path: Node[] = []
          let node = root
          for (let t = start[i]!; t < start[i + 1]!; t++) {
            let child = node.children.get(token[t]!)
            if (child === undefined) node.children.set(token[t]!, (child = { place: -1, children: new Map() }))
            path.push(child)
            node = child
          }
          paths.push(path)
        }
        // Depth first, by a list: the paths are longer than a stack of calls.
        const waiting: [Node, number][] = [[root, -1]]
        while (waiting.length > 0) {
          const [node, depth] = waiting.pop()!
          if (depth >= 0) node.place = position.push(depth) - 1
          for (const child of [...node.children.values()].reverse()) waiting.push([child, depth + 1])
        }
        for (const [k, path] of paths.entries())
          for (const [j, node] of path.entries()) place[start[groupStart[g]! + k]! + j] = node.place
      }
      return { position: Int32Array.from(position), place }
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

  importanceWeight(x, { form }) {
    const [oldLogp, rolloutLogp] = [f32(x, 'oldLogp'), f32(x, 'rolloutLogp')]
    const start = i32(x, 'sequenceStart')
    const held = (log: number) => Math.min(Math.max(log, -20), 20)
    return () => {
      const weight = new Float32Array(oldLogp.length)
      const mask = new Uint8Array(oldLogp.length).fill(1)
      let [total, sequences] = [0, 0]
      for (let s = 0; s + 1 < start.length; s++) {
        let [sum, k3] = [0, 0]
        const [begin, end] = [start[s]!, start[s + 1]!]
        for (let t = begin; t < end; t++) {
          const log = oldLogp[t]! - rolloutLogp[t]!
          if (form !== 1) weight[t] = Math.min(Math.exp(held(log)), 3)
          if (form !== 0) sum += log
          if (form === 2) k3 += Math.expm1(held(log)) - held(log)
        }
        const own = Math.min(Math.exp(held(sum)), 3)
        const mean = Math.exp(held(sum / (end - begin)))
        if (form === 1) weight.fill(own, begin, end)
        if (form === 2 && (mean < 0.5 || mean > 2)) weight.fill(0, begin, end)
        if (form === 2 && k3 / (end - begin) > 1) mask.fill(0, begin, end)
        total += own
        sequences += 1
      }
      if (form === 1) for (let t = 0; t < weight.length; t++) weight[t] = (weight[t]! * sequences) / total
      return { weight, mask }
    }
  },

  discountedSum(x, { decay = 1 }) {
    const [values, start] = [f32(x, 'x'), i32(x, 'sequenceStart')]
    return () => {
      const sums = new Float32Array(values.length)
      for (let s = 0; s + 1 < start.length; s++) {
        let after = 0
        for (let t = start[s + 1]! - 1; t >= start[s]!; t--) sums[t] = after = values[t]! + decay * after
      }
      return { x: sums }
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

  toBf16(x) {
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
