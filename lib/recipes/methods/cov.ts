import { moments } from '../../moments.js'
import { policyLoss } from '../../policy_loss.js'
import { selectTokens } from '../../select_tokens.js'
import { randomNumbers, sampleOf } from '../parts/draws.js'
import { float64Map } from '../parts/map_tokens.js'
import { tokenAdvantages } from '../parts/tokens.js'
import type { Context } from '../step/context.js'
import { recipe } from '../step/recipe.js'

const paper = {
  title: 'The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models',
  arxiv: '2505.22617',
}
const covariance = 'cov[t] = (A[t] - mean A) (logp[t] - mean logp), the means over all tokens'
const unknown = 'The advantages: those of GRPO. The share of tokens and the bounds are those of verl.'

/** Of each unmasked token; 0 where masked. */
function covariances({ logp, mask }: Context, advantage: Float32Array): Float64Array {
  const [meanAdvantage, meanLogp] = [moments({ x: advantage, mask }).mean, moments({ x: logp, mask }).mean]
  return float64Map(logp, (x, t) => (mask?.[t] === 0 ? 0 : ((advantage[t] as number) - meanAdvantage) * (x - meanLogp)))
}

const tokensOf = ({ T, mask }: Context): number => mask?.reduce((total, m) => total + m, 0) ?? T

/** How many tokens a share of the unmasked ones is: at least one. */
const shareOf = (c: Context, fraction: number): number => Math.max(1, Math.floor(fraction * tokensOf(c)))

export const clipCov = recipe(
  {
    name: 'clipCov',
    paper,
    source: 'code',
    reads: { update: ['mask', 'oldLogp', 'logp'] },
    unknown,
    equation: `${covariance}
loss = mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A), and 0 with gradient 0, though counted, at
max(1, floor(fraction tokens)) tokens drawn at random from the unclipped ones with covLow < cov < covHigh`,
    options: {
      fraction: ['number = 0.0002 0..1', 'share of all tokens that is drawn'],
      covLow: ['number = 1', 'covariances above it may be drawn'],
      covHigh: ['number = 5', 'and below it'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      seed: ['integer = 0 >= 0', 'of the draws; the step is counted in the state'],
    },
    state: { version: 1, initial: () => ({ step: 0 }), shape: { step: 'integer >= 0' } },
  },
  ({ fraction, covLow, covHigh, clipLow, clipHigh, seed }) => ({
    weights(c) {
      const { logp, oldLogp, mask, sequenceStart, T } = c
      const advantage = tokenAdvantages(c)
      // Clipped is what has an advantage, but no gradient.
      const inputs = { logp, oldLogp, tokenAdvantage: advantage, sequenceStart, mask }
      const gradient = policyLoss(inputs, { clipLow, clipHigh, aggregate: 'token_sum' }).gradLogp.data
      const clipped = (t: number) => advantage[t] !== 0 && gradient[t] === 0
      const candidates: number[] = []
      const all = covariances(c, advantage)
      for (let t = 0; t < T; t++) {
        const cov = all[t] as number
        if (mask?.[t] !== 0 && cov > covLow && cov < covHigh && !clipped(t)) candidates.push(t)
      }
      const weight = new Float32Array(T).fill(1)
      for (const t of sampleOf(candidates, shareOf(c, fraction), randomNumbers(seed, c.state.step))) weight[t] = 0
      return { weight }
    },
    objective: { clipLow, clipHigh },
    update: (c) => ({ step: c.state.step + 1 }),
  }),
)

export const klCov = recipe(
  {
    name: 'klCov',
    paper,
    source: 'code',
    reads: { update: ['mask', 'oldLogp', 'logp'] },
    unknown: `${unknown} Covariances that are all 0 select no token.`,
    equation: `${covariance}
loss = mean over tokens of -r A, without a clip, plus klCoef |logp - oldLogp| at the max(1, floor(fraction tokens))
tokens with the highest cov`,
    options: {
      fraction: ['number = 0.0002 0..1', 'share of all tokens that gets the KL'],
      klCoef: ['number = 0.1 >= 0', 'its factor'],
    },
  },
  ({ fraction, klCoef }) => ({
    objective(c) {
      const { logp, oldLogp, mask, sequenceStart } = c
      const advantage = tokenAdvantages(c)
      const entropy = Float32Array.from(covariances(c, advantage))
      const options = { rule: 'entropy', count: shareOf(c, fraction) } as const
      const chosen = selectTokens({ entropy, sequenceStart, mask }, options).mask.data
      // A reference that is the policy itself: its KL is 0, and so is the gradient.
      const refLogp = oldLogp.map((old, t) => (chosen[t] ? old : (logp[t] as number)))
      const inputs = { logp, oldLogp, refLogp, tokenAdvantage: advantage, sequenceStart, mask }
      const { loss, gradLogp } = policyLoss(inputs, { clipLow: null, clipHigh: null, klCoef, kl: 'abs' })
      return { loss: loss.data[0] as number, gradLogp: gradLogp.data, count: tokensOf(c) }
    },
  }),
)
