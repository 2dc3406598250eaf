import { grpoError } from '../../addon/errors.js'
import { sequenceExpand } from '../../sequence_expand.js'
import { prefixTree, segmentValues } from '../parts/prefix_tree.js'
import { standardDeviation, sum } from '../parts/statistics.js'
import { whitened } from '../parts/tokens.js'
import { type Context, masked } from '../step/context.js'
import { recipe } from '../step/recipe.js'

type Path = readonly (number | string)[]

/** Of each rollout its prefixes of 1, 2, ... times `size` tokens, and itself: rollouts that share one share its name. */
function tokenPaths(c: Context, size: number): Path[] {
  const { segment } = prefixTree(c)
  return Array.from({ length: c.N }, (_, i) => {
    const [begin, end] = [c.sequenceStart[i] as number, c.sequenceStart[i + 1] as number]
    const count = Math.ceil((end - begin) / size)
    return Array.from({ length: count }, (_, k) => segment[Math.min(begin + (k + 1) * size, end) - 1] as number)
  })
}

export const treePo = recipe(
  {
    name: 'treePo',
    paper: { title: 'TreePO: Bridging the Gap of Policy Optimization and Efficacy and Inference Efficiency with Heuristic Tree-based Modeling', arxiv: '2508.17445' }, // biome-ignore format: one title
    source: 'code',
    reads: ({ whiten }: { whiten: boolean }) => (whiten ? { step: ['mask'] } : {}),
    unknown: `The estimator is that of the released run, one number per rollout. The separate one of differences between
segments, whose damping is not described in full, is left out.`,
    equation: `S_d(i) = rollouts of the group that share the first d segments of rollout i, d < D, D the longest path
a_d = R[i] - mean(S_d(i)), for d > 0 only where S_d(i) has more than one rollout;   a group of one has a_0 = R[i]
a = mean of the a_d, or weighted by the sizes of S_d;   A = (a - mean) / sqrt(var + 1e-8) over the tokens of the batch
loss = mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A), at most -dualClip A where A < 0`,
    columns: {
      path: 'any? of each rollout the list of names of its segments, numbers or strings; default: from its tokens',
    },
    options: {
      segmentLength: ['integer = 512 >= 1', 'tokens of a segment, where there is no path'],
      weighting: ['enum average|group_size', 'as in the released run; or the default of its code'],
      skipEqual: ['boolean = false', 'whether subgroups, beside the whole group, with equal rewards are left out'],
      whiten: ['boolean = true', 'false: the advantage is a, per rollout'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.28 >= 0', 'upper width'],
      dualClip: ['number? = 10 > 1', 'largest ratio that counts where A < 0'],
    },
    example: { path: [['a', 'c'], ['a', 'd'], ['b', 'e'], ['b', 'f'], ['a'], ['b', 'c'], ['b', 'd'], ['c']] }, // biome-ignore format: a list
  },
  ({ segmentLength, weighting, skipEqual, whiten, clipLow, clipHigh, dualClip }) => ({
    advantages(c) {
      const paths: readonly Path[] = c.columns.path ?? tokenPaths(c, segmentLength)
      if (!Array.isArray(paths) || paths.length !== c.N || !paths.every(Array.isArray)) {
        throw grpoError('shape', c.method, 'path', `is no list of ${c.N} lists, expected the segments of each rollout`)
      }
      const pathStart = [0]
      for (const path of paths) pathStart.push((pathStart.at(-1) as number) + path.length)
      const tree = prefixTree({ token: paths.flat(), sequenceStart: pathStart, groupStart: c.groupStart })
      const value = segmentValues(tree, c.rewards, c.rolloutMask)
      const isCounted = (i: number) => c.rolloutMask?.[i] !== 0
      const members = tree.rollouts.map((list) => list.filter(isCounted))
      const isEqual = members.map((list) => standardDeviation(list.map((i) => c.rewards[i] as number), 1) === 0) // biome-ignore format: short
      const roots = Array.from(tree.parent.keys()).filter((b) => tree.parent[b] === -1)
      const depths = Math.max(0, ...paths.map((path) => path.length))

      const advantage = new Float64Array(c.N)
      for (const { g, begin, end } of c.groups) {
        for (let i = begin; i < end; i++) {
          if (!isCounted(i)) continue
          const path = tree.segment.subarray(pathStart[i], pathStart[i + 1])
          const inner = Array.from(path.subarray(0, Math.max(0, depths - 1))).filter(
            (b) => (members[b]?.length ?? 0) > 1 && !(skipEqual && isEqual[b]),
          )
          const nodes = [roots[g] as number, ...inner]
          const weights = nodes.map((b) => (weighting === 'average' ? 1 : (members[b]?.length ?? 0)))
          const terms = nodes.map((b, k) => {
            const center = members[b]?.length === 1 ? 0 : (value[b] as number)
            return (weights[k] as number) * ((c.rewards[i] as number) - center)
          })
          advantage[i] = sum(terms) / sum(weights)
        }
      }
      if (!whiten) return { advantage }
      const { sequenceStart } = c
      const x = sequenceExpand({ x: Float32Array.from(advantage), sequenceStart }).x.data
      return { tokenAdvantage: whitened(x, masked(c, c.rolloutMask, undefined)) }
    },
    objective: { clipLow, clipHigh, dualClip },
  }),
)
