// Threads that are at work at the same time share no memory: each piece of work takes so long that they meet in it.
// What threads have to themselves is scratch, which no output shows while one of them is ahead of the others.
import { afterEach, expect, test } from 'vitest'
import { native } from '../../lib/addon/native.js'
import {
  array,
  cpu,
  groupAdvantage,
  type HostArray,
  policyLossFromLogits,
  prefixAttention,
  prefixAttentionBackward,
  selectRollouts,
  selectTokens,
  tokenLogprob,
  tokenLogprobBackward,
  treeLayout,
} from '../../lib/index.js'
import { identical } from '../support/compare.js'
import { random } from '../support/random.js'

const { threads, instructionSet } = cpu
afterEach(() => {
  cpu.threads = threads
  cpu.instructionSet = instructionSet
})

const r = random(71)
/** [G+1] offsets of sets of 40 to 80, and as many values. */
function sets(G: number) {
  const start = new Int32Array(G + 1)
  for (let g = 0; g < G; g++) start[g + 1] = start[g]! + 40 + r.integer(40)
  return { start, values: r.normals(start[G]!) }
}

const [R, V] = [48, 16_384]
const logits = array(r.normals(R * V, 3), [R, V])
const token = Int32Array.from({ length: R }, () => r.integer(V))
const softcap = 5
const gradients = { gradLogp: r.normals(R), gradEntropy: r.normals(R) }
// A set of the first 100 columns for every other row.
const keptStart = Int32Array.from({ length: R + 1 }, (_, row) => 100 * Math.ceil(row / 2))
const kept = Int32Array.from({ length: keptStart[R]! }, (_, i) => i % 100)
const groups = sets(5_000)
const tree = Array.from({ length: 60 }, (_, b) => (b % 5 === 0 ? [150, -1] : [40, b - (b % 5)]))
const layout = treeLayout({ length: Int32Array.from(tree, ([n]) => n!), parent: Int32Array.from(tree, ([, p]) => p!) })
const P = 12 * 150 + 48 * 40
const rows = (heads: number) => array(r.normals(P * heads * 8), [P, heads, 8])
const [q, k, v, gradOut] = [rows(4), rows(2), rows(2), rows(4)]

const calls: Record<string, () => Record<string, HostArray>> = {
  'the others of each rollout': () =>
    groupAdvantage(
      { rewards: groups.values, groupStart: groups.start },
      { center: 'leave_one_out', scale: 'leave_one_out_std' },
    ),
  'scores of a group': () =>
    selectRollouts({ score: groups.values, groupStart: groups.start }, { fraction: 0.3, rule: 'max_variance' }),
  'keys of a sequence': () =>
    selectTokens({ entropy: groups.values, sequenceStart: groups.start }, { fraction: 0.3, scope: 'sequence', rule: 'entropy' }), // biome-ignore format: one line
  'keys of a batch': () =>
    selectTokens({ entropy: groups.values, sequenceStart: groups.start }, { fraction: 0.3, rule: 'entropy' }),
  'rows with a soft-cap': () => tokenLogprob({ logits, token }, { softcap }),
  'whole rows beside sets': () => tokenLogprob({ logits, token, keptStart, kept }, { softcap, full: true }) as never,
  'gradients of rows with a soft-cap': () => {
    const { logsumexp, entropy } = tokenLogprob({ logits, token }, { softcap })
    return tokenLogprobBackward({ logits, token, logsumexp, entropy, ...gradients }, { softcap })
  },
  'a loss of rows with a soft-cap': () => {
    const policy = { advantage: Float32Array.of(1), sequenceStart: Int32Array.of(0, R) }
    return policyLossFromLogits({ logits, token, ...policy }, { softcap, entropyCoef: 0.1 }) // biome-ignore format: one line
  },
  'tiles of queries': () => prefixAttention({ q, k, v, layout }),
  'tiles of queries and keys': () => {
    const { out, logsumexp } = prefixAttention({ q, k, v, layout })
    return prefixAttentionBackward({ q, k, v, gradOut, out, logsumexp, layout })
  },
}

test.each(Object.entries(calls))('%s', (_, call) => {
  native.setInstructionSet('baseline') // the slowest, where there is a choice
  cpu.threads = 1
  const alone = call()
  cpu.threads = 4
  // A machine that is busy lets threads meet in one run of a few.
  for (let run = 0, start = performance.now(); run < 3 || (run < 100 && performance.now() - start < 150); run++) {
    const together = call()
    for (const [name, x] of Object.entries(alone)) identical(together[name]!, x)
  }
  expect(Object.keys(alone).length).toBeGreaterThan(0)
})
