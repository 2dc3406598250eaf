// What stands before the reinforcement: a policy that is right now and then.
import * as tf from '@tensorflow/tfjs'
import { mean } from './chart.js'
import type { Parameters } from './model.js'
import { drawProblems, type Problem } from './problems.js'
import { progressBar } from './progress.js'
import type { Random } from './random.js'
import { collect, supervisedStep } from './train.js'

/**
 * Supervised steps until one in five sampled answers is right. GRPO learns from the difference between responses to one
 * prompt: a policy that never answers right has nothing to learn from.
 */
export function warmUp(policy: Parameters, heldOut: readonly Problem[], random: Random): void {
  const most = 400
  const optimizer = tf.train.adam(4e-3)
  const bar = progressBar('warm-up', most)
  let reward = 0
  for (let step = 1; step <= most && reward < 0.2; step++) {
    const loss = supervisedStep(policy, optimizer, drawProblems(64, 'training', random))
    if (step % 25 === 0) reward = score(policy, heldOut, random)
    bar.show(step, `supervised, until the reward is 0.20: ${reward.toFixed(2)}, loss ${loss.toFixed(2)}`)
  }
  bar.end()
  optimizer.dispose()
}

/** Mean reward of one response per problem. */
export const score = (policy: Parameters, problems: readonly Problem[], random: Random): number =>
  mean(collect(policy, problems, 1, random).rewards)
