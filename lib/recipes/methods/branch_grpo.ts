import { grpoError } from '../../addon/errors.js'
import { selectRollouts } from '../../select_rollouts.js'
import { sequenceSum } from '../../sequence_sum.js'
import { behindLastSplit, edgeTree, nodeValues } from '../parts/edge_tree.js'
import { advantagesBy, pairIds } from '../parts/regroup.js'
import { at, descending, sum } from '../parts/statistics.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

export const branchGrpo = recipe(
  {
    name: 'branchGrpo',
    paper: { title: 'BranchGRPO: Stable and Efficient GRPO with Structured Branching in Diffusion Models', arxiv: '2509.06040' }, // biome-ignore format: one title
    source: 'code',
    reads: ({ fusion }: { fusion: string }) => ({ step: fusion === 'mean' ? ['mask'] : ['mask', 'oldLogp'] }),
    unknown: `Width "branch" and "extremes" rank the edges of a tree's deepest depth, among the leaves of the last split
too: they are ours. The released code knows as last layer the edges behind the last split alone, "chain" and "batch" here.
The released script draws at splits with a larger noise than its log-probabilities are of. The code skips edges whose ratio
is not finite; here NaN shows in the loss.`,
    equation: `every rollout is an edge of the tree of its group: one denoising step, or one segment
V(leaf) = its reward,   V(node) = sum over children of softmax(alpha logp(edge)) V(child), or mean of V over its leaves
A(edge) = (V(below) - mean_d) / (std_d + 1e-8) over the edges of its depth d in its tree, 0 where std_d < 1e-6
A within -maxAdvantage ... maxAdvantage
loss = sum over edges of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) / (mean number of kept edges of a tree)`,
    columns: {
      parent: 'integer[N] the edge above each edge, an earlier one of its group; -1 at the root',
      prunedDepth: 'integer[D]? depths whose edges are left out, 1 below the root',
    },
    options: {
      fusion: [
        'enum path_probability|mean',
        'value of a node: as the paper says, by the formula of the code, where it is an option with alpha 1; or as in the released script',
      ],
      alpha: ['number = 1 >= 0', 'factor of the log-probabilities of edges in their softmax'],
      width: [
        'enum none|branch|extremes|chain|batch',
        'edges kept of the last depth: all, the best of each last split, best and worst of a tree; or of the edges behind the last split, as in the code: the best of each branch (mode 1), best and worst of the batch (mode 2)',
      ],
      widthRatio: ['number = 0.5 0..1', 'share of the edges that width keeps'],
      clipLow: ['number = 0.001 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.001 >= 0', 'upper width'],
      maxAdvantage: ['number = 5 > 0', 'largest size of an advantage'],
    },
    example: { parent: [-1, -1, 0, 0, -1, -1, 4, 4] },
  },
  ({ fusion, alpha, width, widthRatio, clipLow, clipHigh, maxAdvantage }) => {
    type C = Context<{ readonly parent: Int32Array; readonly prunedDepth?: Int32Array | undefined }>
    const groupOf = (c: C) => c.groups.flatMap(({ g, begin, end }) => Array<number>(end - begin).fill(g))
    /** What width pruning keeps of the edges of each tree's last depth, by advantage. */
    const pruneDeepest = (c: C, advantage: ArrayLike<number>, rollouts: Uint8Array): void => {
      const { depth, children } = edgeTree(c, c.columns.parent)
      /** The node of the last split above an edge: the edge that leads to it, or -1. */
      const lastSplit = (i: number): number => {
        const above = c.columns.parent[i] as number
        return above === -1 || (children[above] as readonly number[]).length > 1 ? above : lastSplit(above)
      }
      for (const { begin, end } of c.groups) {
        const last = Math.max(...depth.subarray(begin, end))
        const deepest = Array.from({ length: end - begin }, (_, k) => begin + k).filter((i) => depth[i] === last)
        const edges = deepest.filter((i) => rollouts[i] === 1 && c.rolloutMask?.[i] !== 0)
        // A rejected edge takes no place of those that are kept, and counts in no denominator.
        for (const i of deepest) rollouts[i] = 0
        const splits = width === 'extremes' ? [] : [...new Set(edges.map(lastSplit))]
        const sets = width === 'extremes' ? [edges] : splits.map((b) => edges.filter((i) => lastSplit(i) === b))
        for (const set of sets) {
          const least = width === 'extremes' ? 2 : 1
          const count = Math.max(least, Math.floor(set.length * widthRatio))
          // top_bottom gives the odd one to the top; of the best and the worst it is one of the worst.
          const sign = width === 'extremes' ? -1 : 1
          const score = Float32Array.from(at(advantage, set), (a) => sign * a)
          const rule = width === 'extremes' ? 'top_bottom' : 'top'
          const { mask } = selectRollouts({ score, groupStart: Int32Array.of(0, set.length) }, { count, rule })
          set.forEach((i, k) => (rollouts[i] = mask.data[k] as number))
        }
      }
    }
    /** The same of the edges behind the last split of their tree: of a tree whose last edges are those of a split, none. */
    const pruneBehindSplit = (c: C, advantage: ArrayLike<number>, rollouts: Uint8Array): void => {
      const sets = new Map<number, number[]>()
      for (const { edge: i, branch } of behindLastSplit(c, c.columns.parent)) {
        const set = width === 'batch' ? -1 : branch
        if (rollouts[i] === 1 && c.rolloutMask?.[i] !== 0) sets.set(set, [...(sets.get(set) ?? []), i])
        rollouts[i] = 0
      }
      for (const set of sets.values()) {
        const order = descending(at(advantage, set))
        const count = Math.max(width === 'batch' ? 2 : 1, Math.floor(set.length * widthRatio))
        const best = width === 'batch' ? Math.floor(count / 2) : count
        for (const k of order.slice(0, best)) rollouts[set[k] as number] = 1
        for (const k of order.slice(Math.max(0, order.length - (count - best)))) rollouts[set[k] as number] = 1
      }
    }
    return {
      gaussian: 'logp',
      /** The value of the node below each edge; what the batch says of inner nodes is not read. */
      rewards(c) {
        const tree = edgeTree(c, c.columns.parent)
        if (fusion === 'mean') {
          const leaves = nodeValues(tree, new Float64Array(c.N).fill(1), sum)
          const totals = nodeValues(tree, c.rewards, sum)
          return totals.map((total, i) => total / (leaves[i] as number))
        }
        const { oldLogp, sequenceStart, mask } = c
        const logp = sequenceSum({ x: oldLogp, sequenceStart, mask }, { mean: true }).x.data
        return nodeValues(tree, c.rewards, (values, edges) => {
          const scores = at(logp, edges).map((x) => alpha * x)
          const top = Math.max(...scores)
          const weights = scores.map((x) => Math.exp(x - top))
          return sum(weights.map((w, k) => w * (values[k] as number))) / sum(weights)
        })
      },
      advantages(c) {
        const { depth } = edgeTree(c, c.columns.parent)
        const advantage = advantagesBy(pairIds(groupOf(c), depth), c.rewards, { eps: 1e-8 }, c.rolloutMask, 1e-6)
        return { advantage: advantage.map((a) => Math.min(Math.max(a, -maxAdvantage), maxAdvantage)) }
      },
      select(c) {
        const { depth } = edgeTree(c, c.columns.parent)
        const rollouts = new Uint8Array(c.N).fill(1)
        depth.forEach((d, i) => {
          if (c.columns.prunedDepth?.includes(d)) rollouts[i] = 0
        })
        if (width === 'none') return { rollouts }
        const { advantage } = c
        if (advantage === undefined) throw grpoError('missing', c.method, 'advantage', 'of edges is missing, but width pruning ranks them by it') // biome-ignore format: one text
        const prune = width === 'chain' || width === 'batch' ? pruneBehindSplit : pruneDeepest
        prune(c, advantage, rollouts)
        return { rollouts }
      },
      objective(c) {
        const kept = Array.from({ length: c.N }, (_, i) => {
          return c.mask?.subarray(c.sequenceStart[i], c.sequenceStart[i + 1]).includes(1) ? 1 : 0
        })
        const trees = c.groups.filter(({ begin, end }) => end > begin).length
        return { clipLow, clipHigh, aggregate: 'sequence_mean', normalizer: trees === 0 ? 0 : sum(kept) / trees }
      },
      sample: {
        /** Depths to prune after so many steps: one shallower every `every` steps, until the shallowest is `lastSplit`. */
        prunedDepths(depths: readonly number[], step: number, lastSplit: number, every = 30): number[] {
          const room = Math.max(0, Math.min(...depths) - lastSplit)
          const moved = Math.min(Math.floor(step / every), room)
          return depths.map((d) => d - moved)
        },
      },
    }
  },
)
