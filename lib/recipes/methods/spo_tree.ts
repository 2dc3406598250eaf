import { sequenceExpand } from '../../sequence_expand.js'
import { edgeTree, nodeValues } from '../parts/edge_tree.js'
import { at, centerOf, standardDeviation, sum } from '../parts/statistics.js'
import { whitened } from '../parts/tokens.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'
import { lowProbability, segmentLoss, segmentLossOptions, totalColumns } from './spo_chain.js'

export const spoTree = recipe(
  {
    name: 'spoTree',
    paper: { title: 'Segment Policy Optimization: Effective Segment-Level Credit Assignment in RL for Large Language Models', arxiv: '2505.23564' }, // biome-ignore format: one title
    source: 'code',
    reads: { step: ['mask', 'oldLogp'] },
    unknown:
      'Which edges of a question are trained on where there are more than maxEdges: here the oldest, then the first. Of equal siblings the mean is exactly their value here, whatever three times 0.1 add up to.',
    equation: `every rollout is an edge of the tree of its group: a segment, after the segments of the edges above it
V(leaf) = its reward,   V(node) = mean of V over its children
A(edge) = V(below) - V(above);   scale children_std: divided by (std of V over it and the edges beside it + 1e-8)
edges with A = 0 are left out;   whitening and loss are those of spoChain`,
    columns: {
      parent: 'integer[N] the edge above each edge, an earlier one of its group; -1 at the prompt',
      ...totalColumns,
    },
    options: {
      scale: ['enum none|children_std', 'of an advantage: the mode "rloo" of the code, or its mode "grpo"'],
      maxAge: ['integer = 8 >= 1', 'of sample.replay: iterations after which an edge is discarded'],
      maxEdges: ['integer = 32 >= 1', 'of sample.replay: edges of a question per iteration'],
      ...segmentLossOptions,
    },
    example: { parent: [-1, -1, 0, 0, -1, -1, 5, 5] },
  },
  ({ scale, maxAge, maxEdges, maxProbability, whiten, ...loss }) => {
    type C = Context<{ readonly parent: Int32Array }>
    const values = (c: C) => nodeValues(edgeTree(c, c.columns.parent), c.rewards, centerOf)
    /**
     * [N] of siblings, whose mean is the value of the node above. In float64: in float32 an edge with that very value
     * would keep a trace of an advantage, and stay.
     */
    const edgeAdvantages = (c: C): Float64Array => {
      const { children, roots } = edgeTree(c, c.columns.parent)
      const value = values(c)
      const advantage = new Float64Array(c.N)
      for (const siblings of [...roots, ...children]) {
        const beside = at(value, siblings)
        const center = centerOf(beside)
        const spread = scale === 'none' ? 1 : standardDeviation(beside, 0) + 1e-8
        for (const [k, i] of siblings.entries()) advantage[i] = ((beside[k] as number) - center) / spread
      }
      return advantage
    }
    const kept = (c: C) => Uint8Array.from(edgeAdvantages(c), (a) => Number(a !== 0))
    /** Edges that are left out are no samples: the KL is not averaged over them. */
    const samples = (c: C) => (c.has('rewards') ? kept(c) : c.rolloutMask)
    return {
      /** The value of the node below each edge; what the batch says of inner nodes is not read. */
      rewards: values,
      advantages(c) {
        const advantage = edgeAdvantages(c)
        if (!whiten) return { advantage }
        const { sequenceStart } = c
        const keep = sequenceExpand({ x: Float32Array.from(kept(c)), sequenceStart }).x.data
        const low = lowProbability(c, maxProbability).map((x, t) => x * (keep[t] as number))
        return { tokenAdvantage: whitened(sequenceExpand({ x: Float32Array.from(advantage), sequenceStart }).x.data, low) } // biome-ignore format: short
      },
      select: (c) => ({
        rollouts: samples(c),
        tokens: lowProbability(c, maxProbability),
      }),
      ...segmentLoss(loss, (c) => sum(samples(c as C) ?? new Uint8Array(c.N).fill(1))),
      sample: {
        /** Places of the stored edges to train on in this iteration: for each the question, and when it was sampled. */
        replay(questions: readonly (string | number)[], born: ArrayLike<number>, iteration: number): number[] {
          const used = new Map<string | number, number>()
          const fresh = Array.from(born, (_, i) => i).filter((i) => iteration - (born[i] as number) < maxAge)
          const oldest = fresh.sort((i, j) => (born[i] as number) - (born[j] as number) || i - j)
          return oldest.filter((i) => {
            const count = (used.get(questions[i] as string | number) ?? 0) + 1
            used.set(questions[i] as string | number, count)
            return count <= maxEdges
          })
        },
      },
    }
  },
)
