import { float32Map } from '../parts/map_tokens.js'
import { tokenAdvantages } from '../parts/tokens.js'
import { recipe } from '../step/recipe.js'

export const ipo = recipe(
  {
    name: 'ipo',
    paper: { title: 'prime-rl: INTELLECT Policy Optimization; its mask DPPO, arXiv:2602.04879' },
    source: 'code',
    reads: { update: ['mask', 'rolloutLogp', 'logp'] },
    unknown: 'The advantages: those of GRPO. Not the IPO of preference learning, which is another method.',
    equation: `q = exp(logp - rolloutLogp), p and p' the probabilities of a token now and in the rollout
loss = mean over tokens of -sg[keep] advantageTau A q + klTau log(q)^2
keep: |p - p'| <= threshold;   form 'dppo': p - p' <= threshold where A > 0, p - p' >= -threshold where A < 0`,
    options: {
      form: ['enum ipo|dppo', 'a mask for both directions, whatever the advantage; or prime-rl’s default'],
      threshold: ['number? = null > 0', 'on the difference of probabilities; null: 0.1 for ipo, 0.2 for dppo'],
      advantageTau: ['number = 1 >= 0', 'factor of the policy term'],
      klTau: ['number = 0.001 >= 0', 'factor of the squared log-ratio, which the mask leaves alone'],
    },
  },
  ({ form, threshold, advantageTau, klTau }) => ({
    weights(c) {
      const limit = threshold ?? (form === 'ipo' ? 0.1 : 0.2)
      const { rolloutLogp } = c
      const advantage = tokenAdvantages(c)
      const weight = float32Map(c.logp, (now, t) => {
        const [up, a] = [Math.exp(now) - Math.exp(rolloutLogp[t] as number), advantage[t] as number]
        const outside = form === 'ipo' ? Math.abs(up) > limit : a > 0 ? up > limit : a < 0 && up < -limit
        return outside ? 0 : advantageTau
      })
      return { weight, oldLogp: rolloutLogp, refLogp: rolloutLogp }
    },
    // log(q)^2 is twice k2.
    objective: { clipLow: null, clipHigh: null, klCoef: 2 * klTau, kl: 'k2' },
  }),
)
