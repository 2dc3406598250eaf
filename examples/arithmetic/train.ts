// A supervised step and a step of GRPO. What sets GRPO apart from its relatives is in the function `grpo` alone.
import * as tf from '@tensorflow/tfjs'
import {
  groupAdvantage,
  type HostArray,
  lossStats,
  type PolicyLossFromLogitsInputs,
  type PolicyLossFromLogitsOptions,
  policyLossFromLogits,
  tokenLogprob,
} from '../../lib/index.js'
import { compute } from './device.js'
import { outsideLoss, type Parameters, toHost, type Values } from './model.js'
import { type Problem, solution, verify } from './problems.js'
import type { Random } from './random.js'
import { type Batch, pack, packedLogits, sample } from './rollout.js'

export interface ScoredBatch extends Batch {
  /** [N] */
  readonly rewards: Float32Array
}

/** What a policy-gradient method decides: the inputs of the loss that follow from the rewards, and the objective. */
export type Method = (batch: ScoredBatch) => {
  inputs: Pick<PolicyLossFromLogitsInputs, 'advantage' | 'tokenAdvantage' | 'mask' | 'weight'>
  objective: PolicyLossFromLogitsOptions
}

/** DeepSeekMath, arXiv:2402.03300: advantages within the group, PPO's clip, k3 divergence from the reference policy. */
export const grpo: Method = ({ rewards, layout }) => ({
  inputs: { advantage: groupAdvantage({ rewards, groupStart: layout.groupStart }).advantage },
  objective: { clipLow: 0.2, clipHigh: 0.2, klCoef: 0.04, kl: 'k3', aggregate: 'sequence_mean' },
})

/** Runs the policy once over the packed tokens, forward and backward. The caller disposes of the gradients. */
export function gradients<Result extends { loss: HostArray; gradLogits: HostArray }>(
  policy: Parameters,
  batch: Batch,
  loss: (logits: Values) => Result,
) {
  let result: Result | undefined
  const { value, grads } = tf.variableGrads(
    () =>
      outsideLoss(packedLogits(policy, batch), (logits) => {
        result = loss(logits)
        return result
      }),
    Object.values(policy),
  )
  value.dispose()
  return { grads, ...(result as Result) }
}

/** Cross-entropy with written solutions: minus logp of every token, which is REINFORCE with all advantages 1. */
export function supervisedStep(policy: Parameters, optimizer: tf.Optimizer, problems: readonly Problem[]): number {
  const batch = pack(problems.map((problem) => ({ problem, response: solution(problem) })))
  const { token } = batch
  const { row, sequenceStart } = batch.layout
  const advantage = new Float32Array(problems.length).fill(1)
  const { grads, loss } = gradients(policy, batch, (logits) =>
    compute(
      policyLossFromLogits,
      { logits, token, row, sequenceStart, advantage },
      { surrogate: 'reinforce' as const },
    ),
  )
  optimizer.applyGradients(grads)
  tf.dispose(grads)
  return loss.data[0] as number
}

/** Samples `groupSize` responses per problem and lets the verifier score them. */
export function collect(
  policy: Parameters,
  problems: readonly Problem[],
  groupSize: number,
  random: Random,
): ScoredBatch {
  const rollouts = sample(policy, problems, groupSize, random)
  const rewards = Float32Array.from(rollouts, ({ problem, response }) => verify(problem, response))
  return { ...pack(rollouts), rewards }
}

/** Log-probabilities of the response tokens, and the entropy at each, without gradients. */
export function logprobs(policy: Parameters, batch: Batch): { logp: Values; entropy: Values } {
  const logits = tf.tidy(() => packedLogits(policy, batch))
  const inputs = { logits: toHost(logits), token: batch.token, row: batch.layout.row }
  const result = compute(tokenLogprob, inputs, {})
  logits.dispose()
  return result
}

/**
 * Moves the policy by `updates` optimizer steps on one batch of its own rollouts. The KL is measured against `reference`.
 *
 * @returns the statistics of all updates together
 */
export function policyStep(
  policy: Parameters,
  reference: Parameters,
  optimizer: tf.Optimizer,
  batch: ScoredBatch,
  { method, updates }: { method: Method; updates: number },
) {
  const { token } = batch
  const { row, sequenceStart } = batch.layout
  const { inputs, objective } = method(batch)
  const { logp: refLogp } = logprobs(reference, batch)
  const stats: HostArray<'f64'>[] = []
  let oldLogp: Values | undefined
  for (let i = 0; i < updates; i++) {
    const result = gradients(policy, batch, (logits) =>
      compute(policyLossFromLogits, { logits, token, row, sequenceStart, oldLogp, refLogp, ...inputs }, objective),
    )
    // Before the first update the policy is still the one that sampled: these are the old log-probabilities.
    oldLogp ??= result.logp
    optimizer.applyGradients(result.grads)
    tf.dispose(result.grads)
    stats.push(result.stats)
  }
  return lossStats(...stats)
}
