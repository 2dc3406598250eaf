// npm run example                      about a minute on two cores
// npm run example -- --steps 3         a glance; options.ts has the other options
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { mean, rewardChart } from './chart.js'
import { type Device, setDevice } from './device.js'
import { copyParameters, createParameters } from './model.js'
import type { Options } from './options.js'
import { drawProblems } from './problems.js'
import { progressBar } from './progress.js'
import { seededRandom } from './random.js'
import { collect, grpo, policyStep } from './train.js'
import { score, warmUp } from './warm_up.js'

export async function run({ seed, steps, prompts, group, updates, device, rate, out }: Options): Promise<void> {
  setDevice(device as Device)
  const begin = performance.now()
  await tf.setBackend('wasm')
  const random = seededRandom(seed)
  const policy = createParameters(random)
  const heldOut = drawProblems(512, 'held-out', random)

  warmUp(policy, heldOut, random)

  const reference = copyParameters(policy)
  const before = score(policy, heldOut, random)
  // Rewards near 1 leave small gradients. With Adam's usual 0.999 its divisor would remember the large ones of the
  // beginning and then forget them all at once, which shows as a dip in the reward.
  const optimizer = tf.train.adam(rate, 0.9, 0.99)
  const curves = { reward: [] as number[], kl: [] as number[], entropy: [] as number[] }
  const bar = progressBar('GRPO   ', steps)
  for (let step = 1; step <= steps; step++) {
    const batch = collect(policy, drawProblems(prompts, 'training', random), group, random)
    const { kl, entropy } = policyStep(policy, reference, optimizer, batch, { method: grpo, updates })
    const reward = mean(batch.rewards)
    curves.reward.push(reward)
    curves.kl.push(kl)
    curves.entropy.push(entropy)
    bar.show(step, `reward ${reward.toFixed(2)}  KL ${kl.toFixed(3)}  entropy ${entropy.toFixed(2)}`)
  }
  bar.end()
  const after = score(policy, heldOut, random)

  mkdirSync(dirname(out), { recursive: true })
  writeFileSync(out, rewardChart({ ...curves, heldOut: [before, after] }, `GRPO on addition, seed ${seed}`))
  const [from, to, gain] = [before, after, after - before].map((reward) => reward.toFixed(2))
  const seconds = Math.round((performance.now() - begin) / 1000)
  console.log(
    `Mean reward on 512 held-out problems: ${from} before GRPO, ${to} after (gain ${gain}). ${seconds} s in all.`,
  )
  console.log(`The curve is in ${out}`)
}
