import { grpoError } from '../../addon/errors.js'
import { roundHalfEven } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

type Tokens = ArrayLike<number>

/** Levenshtein's: insertions, deletions and substitutions, each 1. */
export function editDistance<T>(a: ArrayLike<T>, b: ArrayLike<T>): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1]
    for (let j = 0; j < b.length; j++) {
      next.push(Math.min(row[j + 1]! + 1, next[j]! + 1, row[j]! + Number(a[i] !== b[j])))
    }
    row = next
  }
  return row[b.length]!
}

/** The longest suffix of one that the other has anywhere, over their common length. */
function suffixMatch(child: Tokens, parent: Tokens): number {
  const [a, b] = [Array.from(child), Array.from(parent)]
  const has = (x: readonly number[], part: readonly number[]) => `,${x},`.includes(`,${part},`)
  let n = a.length
  while (n > 0 && !has(b, a.slice(-n)) && !has(a, b.slice(-n))) n--
  return n / a.length
}

/** F1 of the longest common subsequence; of equal lengths it is that length over theirs. */
function rougeL(a: Tokens, b: Tokens): number {
  let row = new Array<number>(b.length + 1).fill(0)
  for (let i = 0; i < a.length; i++) {
    const next = [0]
    for (let j = 0; j < b.length; j++) next.push(a[i] === b[j] ? row[j]! + 1 : Math.max(row[j + 1]!, next[j]!))
    row = next
  }
  return row[b.length]! / a.length
}

const published = {
  countdown: { tauAbs: 0.25, tauRel: 0.15, editBelow: 0.4, suffixAbove: 1, rougeAbove: 1, forceStep: 512, mix: [[0, 1], [10, 0.75], [20, 0.5], [80, 0.25], [200, 0]] }, // biome-ignore format: a table
  math: { tauAbs: 0.15, tauRel: 0.25, editBelow: 0, suffixAbove: 0.2, rougeAbove: 0.5, forceStep: 1024, mix: [[0, 1], [100, 0.75], [200, 0.5], [300, 0.25]] }, // biome-ignore format: a table
} as const
const ages = [20, 30, 50]
const symbols = '+-*/\\<>=()[]{}_^&%$0123456789'

export const latr = recipe(
  {
    name: 'latr',
    paper: {
      title:
        'Lookahead Tree-Based Rollouts for Enhanced Trajectory-Level Exploration in Reinforcement Learning with Verifiable Rewards',
      arxiv: '2510.24302',
    },
    source: 'code',
    unknown:
      'Tokens of the tree are chosen greedily, yet trained with the policy’s ordinary log-probabilities: no correction is published. Pairs that start with a mathematical symbol are skipped as intended; the released code then mixes up the others. White space alone counts as such a symbol, as it does there.',
    equation: `tree rollouts of a group of G: k = round(G eta(step)), ties to even; the others are ordinary samples
a branch goes on with its likeliest token; candidate j >= 2 opens another iff p_j > tauAbs and p_1 - p_j < tauRel;
  candidates are kept in the order of (j, branch) up to k in all
at the ages 20, 30, 50 a child is dropped, with its descendants, if its last tokens are too near its parent's:
  edit distance / age < editBelow, or suffix match > suffixAbove, or ROUGE-L > rougeAbove
the tree ends when branches >= round(k prompts (stopShare - stopDecay step / maxTokens)) and all are past these ages`,
    options: {
      task: ['enum math|countdown', 'whose published thresholds and schedule; those below are in place of them'],
      tauAbs: ['number? = null 0..1', 'probability above which a candidate may branch: 0.15 (math), 0.25 (countdown)'],
      tauRel: ['number? = null 0..1', 'its largest distance to the likeliest: 0.25, 0.15'],
      editBelow: ['number? = null >= 0', '0 switches it off: 0, 0.4'],
      suffixAbove: ['number? = null 0..1', '1 switches it off: 0.2, 1'],
      rougeAbove: ['number? = null 0..1', '1 switches it off: 0.5, 1'],
      forceStep: ['integer? = null >= 1', 'the tree ends after so many tokens at the latest: 1024, 512'],
      maxBranch: ['integer = 2 >= 1', 'candidates per token'],
      stopShare: ['number = 0.98 0..1', 'share of the branches that is enough, at the beginning'],
      stopDecay: ['number = 0.05 >= 0', 'what it loses until the longest generation'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      klCoef: ['number = 0.01 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    state: { version: 1, initial: () => ({ step: 0 }), shape: { step: 'integer >= 0' } },
  },
  ({ task, maxBranch, stopShare, stopDecay, clipLow, clipHigh, klCoef, ...given }) => {
    const chosen = Object.entries(given).filter(([, value]) => value !== null)
    const { mix, ...own } = published[task]
    const rule = { ...own, ...Object.fromEntries(chosen) } as Record<keyof typeof own, number>
    /** Share of tree rollouts at a step, counted from 1. */
    const mixRatio = (step: number): number => mix.findLast(([from]) => from <= step)?.[1] ?? 1
    return {
      advantages: { eps: 1e-6 },
      objective: { clipLow, clipHigh, klCoef },
      update: (c) => ({ step: c.state.step + 1 }),
      sample: {
        mixRatio,
        treeRollouts: (step: number, size: number): number => roundHalfEven(size * mixRatio(step)),
        /**
         * The tokens that the branches of one prompt take next: `rank` 0 goes on, others open a branch. `probabilities` of
         * each branch begin with its likeliest candidates in their order; a branch that has ended is null, and stays.
         */
        branch: (probabilities: readonly (Tokens | null)[], room: number): { rank: number; row: number }[] => {
          const candidates = []
          for (let rank = 0; rank < maxBranch; rank++) {
            for (const [row, p] of probabilities.entries()) {
              const far = (p?.[0] ?? 0) - (p?.[rank] ?? 0)
              if (rank === 0 || (p && p[rank]! > rule.tauAbs && far < rule.tauRel)) candidates.push({ rank, row })
            }
          }
          return candidates.slice(0, Math.max(room, probabilities.length))
        },
        /**
         * Whether a child is dropped. Its tokens and its parent's, from the one at which they part, whose text in the parent
         * is `parentText`. A pair in which one has ended (`eos`), or that parts at a mathematical symbol, is kept.
         */
        prune: (child: Tokens, parent: Tokens, eos: number, parentText = 'text'): boolean => {
          const age = child.length
          if (parent.length !== age) {
            throw grpoError('shape', 'latr', 'parent', `has ${parent.length} tokens, expected ${age} as child`)
          }
          const ended = [child, parent].some((tokens) => Array.from(tokens).includes(eos))
          if (!ages.includes(age) || ended || symbols.includes(parentText.trim())) return false
          if (editDistance(child, parent) / age < rule.editBelow) return true
          return suffixMatch(child, parent) > rule.suffixAbove || rougeL(child, parent) > rule.rougeAbove
        },
        /** With all descendants: parent[i] is the branch from which i comes, or null; it precedes i. */
        withDescendants: (dropped: readonly number[], parent: readonly (number | null)[]): number[] => {
          const gone = new Set(dropped)
          for (const [i, from] of parent.entries()) if (from !== null && gone.has(from)) gone.add(i)
          return [...gone].sort((i, j) => i - j)
        },
        /** Whether the tree ends after this token, counted from 0. `branches` of each prompt; all ended counts as k. */
        stop: (step: number, maxTokens: number, k: number, branches: Tokens, births: Tokens): boolean => {
          const enough = k * branches.length * (stopShare - (stopDecay * step) / maxTokens)
          const many = Array.from(branches).reduce((sum, n) => sum + n, 0) >= roundHalfEven(enough)
          const old = Array.from(births).every((birth) => birth + Math.max(...ages) < step)
          return step + 1 >= rule.forceStep || (many && old)
        },
        /** The rows of a prompt with which its k places are filled: its branches, then its first one again. */
        fill: (rows: readonly number[], k: number): number[] =>
          rows.concat(new Array<number>(Math.max(0, k - rows.length)).fill(rows[0]!)),
        next: (c) => ({ step: c.state.step + 1, mixRatio: mixRatio(c.state.step + 1) }),
      },
    }
  },
)
