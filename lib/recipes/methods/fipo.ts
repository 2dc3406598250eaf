import { discountedSum } from '../../discounted_sum.js'
import { sequenceExpand } from '../../sequence_expand.js'
import { sequenceSum } from '../../sequence_sum.js'
import { difference, float32Map } from '../parts/map_tokens.js'
import { tokenAdvantages } from '../parts/tokens.js'
import { recipe } from '../step/recipe.js'

const clamp = (x: number, low: number, high: number) => Math.min(Math.max(x, low), high)

export const fipo = recipe(
  {
    name: 'fipo',
    paper: {
      title: 'FIPO: Eliciting Deep Reasoning with Future-KL Influenced Policy Optimization',
      arxiv: '2603.19835',
    },
    source: 'code',
    reads: { update: ['mask', 'oldLogp', 'logp'] },
    unknown:
      'Read in a fork of the authors’ code. Its run script and its fallbacks differ: the defaults are the script’s.',
    equation: `d = logp - oldLogp within ±20, but 0 where d > log(dualClip) or the token is masked
F[t] = d[t] + 2^(-1 / decayRate) F[t+1];   f = sg[clip(exp F, 1, 1 + width)], or from 1 - width without highOnly
where A < 0 and r > safety: f = clip(f, 1 - safetyWidth, 1)
loss = mean over tokens of max(-r f A, -clip(r, 1 - clipLow, 1 + clipHigh) f A), at most -dualClip f A where A < 0,
over the rollouts with fewer than two tokens that have A < 0 and r > dualClip`,
    options: {
      decayRate: ['number = 32 > 0', 'tokens until the influence of the future is halved; 128 in the code’s fallback'],
      width: ['number = 0.2 0..1', 'of the interval of f; 0: f is min(exp F, 10)'],
      highOnly: ['boolean = true', 'whether f is at least 1'],
      safety: [
        'number = 10 > 0',
        'ratio above which a token of negative advantage is not amplified; 4 in the fallback',
      ],
      safetyWidth: ['number = 0.2 0..1', 'how far f may then fall below 1'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.28 >= 0', 'upper width'],
      dualClip: ['number = 10 > 1', 'largest ratio that counts where A < 0'],
      dropRollouts: ['boolean = true', 'whether rollouts with two or more dual-clipped tokens are left out'],
    },
  },
  ({ decayRate, width, highOnly, safety, safetyWidth, clipLow, clipHigh, dualClip, dropRollouts }) => ({
    weights(c) {
      const { logp, oldLogp, mask, sequenceStart } = c
      const advantage = tokenAdvantages(c)
      const shift = difference(logp, oldLogp)
      // A masked token adds nothing, but the discount passes through it: so it is a 0, not a token that is skipped.
      const largest = Math.log(dualClip)
      const counted = float32Map(shift, (d, t) => (mask?.[t] === 0 || d > largest ? 0 : clamp(d, -20, 20)))
      const future = discountedSum({ x: counted, sequenceStart }, { decay: 2 ** (-1 / decayRate) }).x.data
      const negative = (t: number, ratio: number) =>
        (advantage[t] as number) < 0 && (shift[t] as number) > Math.log(ratio)
      const weight = float32Map(future, (sum, t) => {
        const f = width === 0 ? Math.min(Math.exp(sum), 10) : clamp(Math.exp(sum), highOnly ? 1 : 1 - width, 1 + width)
        return negative(t, safety) ? clamp(f, 1 - safetyWidth, 1) : f
      })
      if (!dropRollouts) return { weight }
      const beyond = float32Map(shift, (_, t) => (negative(t, dualClip) ? 1 : 0))
      const count = sequenceSum({ x: beyond, sequenceStart, mask }).x.data
      const kept = sequenceExpand({ x: count.map((n) => (n > 1 ? 0 : 1)), sequenceStart, mask }).x.data
      const keep = new Uint8Array(kept.length)
      for (let t = 0; t < keep.length; t++) keep[t] = kept[t] as number
      return { weight, mask: keep }
    },
    objective: { clipLow, clipHigh, dualClip },
  }),
)
