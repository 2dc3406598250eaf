// What the loss operations compute only together, term by term: the entropy bonus of each token with a weight of its own,
// and a KL whose weight is another ratio than the surrogate's.
import type { HostArray } from '../../arrays/array.js'
import { statNames } from '../../loss_stats.js'
import type { Objective } from '../../objective.js'
import { type PolicyLossInputs, policyLoss } from '../../policy_loss.js'
import type { Weights } from './recipe.js'

type Separate = Pick<Weights, 'entropyWeight' | 'klOldLogp'>
type Inputs = PolicyLossInputs & { readonly sequenceStart: Int32Array }

const hasBonus = ({ entropyCoef = 0 }: Objective) => entropyCoef !== 0
const hasKl = ({ klCoef = 0 }: Objective) => klCoef !== 0

/** Whether the weights ask for terms of their own, and the objective has them. */
export const isSeparate = (objective: Objective, { entropyWeight, klOldLogp }: Separate): boolean =>
  (entropyWeight !== undefined && hasBonus(objective)) || (klOldLogp !== undefined && hasKl(objective))

interface Terms {
  loss: number
  readonly stats: HostArray<'f64'>
  readonly gradLogp: HostArray<'f32'>
  readonly gradEntropy?: HostArray<'f32'> | undefined
}

function termsOf(inputs: Inputs, objective: Objective): Terms {
  const done = policyLoss(inputs, objective)
  return { ...(done as unknown as Terms), loss: (done.loss as HostArray<'f32'>).data[0] as number }
}

/** Weighs the bonus, of which the loss has the whole. */
function weighBonus(terms: Terms, entropy: Float32Array, weight: Float32Array): void {
  const gradient = (terms.gradEntropy as HostArray<'f32'>).data
  for (let t = 0; t < gradient.length; t++) {
    const share = gradient[t] as number
    if (share === 0) continue // masked: its entropy may be NaN
    gradient[t] = share * (weight[t] as number)
    terms.loss += ((gradient[t] as number) - share) * (entropy[t] as number)
  }
}

/** The KL alone, as the surrogate of a policy without advantage. */
function addKl(terms: Terms, inputs: Inputs, objective: Objective, oldLogp: Float32Array): void {
  const { logp, refLogp, sequenceStart, mask } = inputs
  const advantage = new Float32Array(sequenceStart.length - 1)
  const { klCoef, kl, klGradient, klWeight, klWeightClamp, klTermClamp, klClamp, klValueClamp } = objective
  const { logRatioClamp, aggregate, maxLength, countEmpty, normalizer } = objective
  const given = {
    ...{ klCoef, kl, klGradient, klWeight, klWeightClamp, klTermClamp, klClamp, klValueClamp },
    ...{ logRatioClamp, aggregate, maxLength, countEmpty, normalizer },
  }
  const asked = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  const term = termsOf({ logp, oldLogp, refLogp, sequenceStart, mask, advantage }, asked)
  terms.loss += term.loss
  const gradient = terms.gradLogp.data
  for (let t = 0; t < gradient.length; t++) {
    gradient[t] = (gradient[t] as number) + (term.gradLogp.data[t] as number)
  }
  const [klLoss, nonFinite] = [statNames.indexOf('klLoss'), statNames.indexOf('nonFinite')]
  const [stats, own] = [terms.stats.data, term.stats.data]
  stats[klLoss] = own[klLoss] as number
  // A token may be in both counts.
  stats[nonFinite] = Math.max(stats[nonFinite] as number, own[nonFinite] as number)
}

/** The loss of log-probabilities, with these weights. */
export function separateLoss(inputs: Inputs, objective: Objective, { entropyWeight, klOldLogp }: Separate): Terms {
  const own = klOldLogp !== undefined && hasKl(objective) ? klOldLogp : undefined
  const terms = termsOf(inputs, own ? { ...objective, klCoef: 0 } : objective)
  if (entropyWeight && hasBonus(objective)) weighBonus(terms, inputs.entropy as Float32Array, entropyWeight)
  if (own) addKl(terms, inputs, objective, own)
  return terms
}
