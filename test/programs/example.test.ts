// The example's gradients, of all parameters, against TensorFlow.js alone: every rollout a row of its own with its prompt
// repeated, padded, under ordinary masked attention, and the loss written in the operations of the library.
//
//   loss = mean over rollouts i of mean over tokens t of -min(r A_i, clip(r, 0.8, 1.2) A_i) + 0.04 (exp(-x) - 1 + x)
//   r = exp(logp - oldLogp), x = logp - refLogp, A_i = (reward_i - mean) / (std + 1e-4), std with n - 1
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  type Attention,
  copyParameters,
  createParameters,
  forward,
  type Parameters,
} from '../../examples/arithmetic/model.js'
import {
  drawProblems,
  encode,
  maxPrompt,
  maxResponse,
  solution,
  verify,
  vocabulary,
} from '../../examples/arithmetic/problems.js'
import { type Random, seededRandom } from '../../examples/arithmetic/random.js'
import { pack, type Rollout, sample } from '../../examples/arithmetic/rollout.js'
import { grpo, policyStep } from '../../examples/arithmetic/train.js'

beforeAll(async () => {
  await tf.setBackend('wasm')
})

const groupSize = 6
const L = maxPrompt + maxResponse

/** One row per rollout. Each value stands at the place that predicts its token; other places have weight 0. */
interface Padded {
  tokens: Int32Array // [N L]
  positions: Int32Array
  target: Int32Array
  weight: Float32Array
  advantage: Float32Array
}

function padded(rollouts: readonly Rollout[], rewards: Float32Array): Padded {
  const N = rollouts.length
  const integers = () => new Int32Array(N * L)
  const floats = () => new Float32Array(N * L)
  const rows = { tokens: integers(), positions: integers(), target: integers(), weight: floats(), advantage: floats() }
  rollouts.forEach(({ problem, response }, i) => {
    rows.positions.forEach((_, place) => (rows.positions[place] = place % L))
    rows.tokens.set([...problem.prompt, ...Array.from(response)], i * L)
    const first = i - (i % groupSize)
    const group = Array.from(rewards.subarray(first, first + groupSize))
    const mean = group.reduce((sum, reward) => sum + reward) / groupSize
    const std = Math.sqrt(group.reduce((sum, reward) => sum + (reward - mean) ** 2, 0) / (groupSize - 1))
    Array.from(response).forEach((token, t) => {
      const place = i * L + problem.prompt.length + t - 1
      rows.target[place] = token
      rows.weight[place] = 1 / (response.length * N)
      rows.advantage[place] = ((rewards[i] as number) - mean) / (std + 1e-4)
    })
  })
  return rows
}

const ordinaryAttention: Attention = (q, k, v, sink, window) => {
  const [places, H, D] = q.shape
  const N = places / L
  const hidden = tf.linalg
    .bandPart(tf.ones([L, L]), window === null ? -1 : window - 1, 0)
    .sub(1)
    .mul(1e9)
  const head = (x: tf.Tensor3D, h: number): tf.Tensor3D => x.slice([0, h, 0], [places, 1, D]).reshape([N, L, D])
  const outputs = Array.from({ length: H }, (_, h) => {
    const shared = Math.floor((h * k.shape[1]) / H)
    const scores = tf.matMul(head(q, h), head(k, shared), false, true).div(Math.sqrt(D)).add(hidden)
    // The sink is a key without a value.
    const column = sink.slice(h, 1).reshape([1, 1, 1]).tile([N, L, 1])
    const weights = tf.concat([scores, column], 2).softmax().slice([0, 0, 0], [N, L, L]) as tf.Tensor3D
    return tf.matMul(weights, head(v, shared)).reshape([places, 1, D])
  })
  return tf.concat(outputs, 1) as tf.Tensor3D
}

/** [N L] log-probabilities, with the library's own product and its own gradient. */
function ordinaryLogp(policy: Parameters, { tokens, positions, target }: Padded): tf.Tensor1D {
  const logits = forward(policy, tokens, positions, ordinaryAttention, (a, b) => tf.matMul(a, b))
  return tf.sum(logits.logSoftmax().mul(tf.oneHot(target, vocabulary)), 1) as tf.Tensor1D
}

function ordinaryLoss(policy: Parameters, rows: Padded, oldLogp: tf.Tensor, refLogp: tf.Tensor): tf.Scalar {
  const logp = ordinaryLogp(policy, rows)
  const ratio = logp.sub(oldLogp).exp()
  const surrogate = tf.minimum(ratio.mul(rows.advantage), ratio.clipByValue(0.8, 1.2).mul(rows.advantage))
  const x = logp.sub(refLogp)
  const kl = x.neg().exp().sub(1).add(x)
  return kl.mul(0.04).sub(surrogate).mul(rows.weight).sum() as tf.Scalar
}

function relativeError(actual: tf.Tensor, expected: tf.Tensor): number {
  const [a, e] = [actual.dataSync(), expected.dataSync()]
  const norm = (values: ArrayLike<number>) => Math.sqrt(Array.from(values).reduce((sum, x) => sum + x * x, 0))
  return norm(Array.from(a, (x, i) => x - (e[i] as number))) / norm(e)
}

/** Prompts of different lengths, and responses of an untrained policy, which end anywhere or not at all. */
function untrainedRollouts(policy: Parameters, random: Random): Rollout[] {
  const short = { left: 3, right: 14, prompt: encode('3+14=') }
  return sample(
    policy,
    [...drawProblems(2, 'training', random), short, ...drawProblems(2, 'training', random)],
    groupSize,
    random,
  )
}

describe('the gradients of three steps', () => {
  test('are those of the library alone on repeated prompts', () => {
    const random = seededRandom(7)
    const policy = createParameters(random)
    const reference = copyParameters(policy)
    const adam: tf.Optimizer = tf.train.adam(0.01)
    const names = Object.keys(policy)
    let compared = 0
    let clipped = 0
    let kl = 0
    for (let step = 0; step < 3; step++) {
      const rollouts = untrainedRollouts(policy, random)
      // An untrained policy earns nothing: rewards by lot give its responses advantages.
      const rewards = Float32Array.from(rollouts, (_, i) => (i % groupSize === 0 || random() < 0.3 ? 1 : 0))
      const rows = padded(rollouts, rewards)
      const oldLogp = tf.tidy(() => ordinaryLogp(policy, rows))
      const refLogp = tf.tidy(() => ordinaryLogp(reference, rows))
      const comparing = {
        applyGradients(grads: tf.NamedTensorMap) {
          const own = tf.variableGrads(() => ordinaryLoss(policy, rows, oldLogp, refLogp), Object.values(policy)).grads
          expect(Object.keys(grads)).toHaveLength(names.length)
          for (const name of names) {
            const key = (policy[name] as tf.Variable).name
            const error = relativeError(grads[key] as tf.Tensor, own[key] as tf.Tensor)
            expect(error, `${name} in step ${step}`).toBeLessThan(1e-4)
            compared++
          }
          adam.applyGradients(grads)
        },
      } as unknown as tf.Optimizer
      const stats = policyStep(
        policy,
        reference,
        comparing,
        { ...pack(rollouts), rewards },
        { method: grpo, updates: 2 },
      )
      clipped += stats.clipFraction
      kl += stats.kl
    }
    expect(compared).toBe(3 * 2 * names.length)
    expect(clipped).toBeGreaterThan(0)
    expect(kl).toBeGreaterThan(0)
  })

  test('have the same bits in a second run', () => {
    const run = () => {
      const random = seededRandom(8)
      const policy = createParameters(random)
      const reference = copyParameters(policy)
      const adam: tf.Optimizer = tf.train.adam(0.01)
      for (let step = 0; step < 3; step++) {
        const rollouts = untrainedRollouts(policy, random)
        const rewards = Float32Array.from(rollouts, () => (random() < 0.5 ? 1 : 0))
        policyStep(policy, reference, adam, { ...pack(rollouts), rewards }, { method: grpo, updates: 2 })
      }
      return Object.values(policy).map((value) => Array.from(value.dataSync()))
    }
    expect(run()).toEqual(run())
  })
})

describe('the verifier', () => {
  const [problem] = drawProblems(1, 'held-out', seededRandom(9)) as [ReturnType<typeof drawProblems>[number]]
  const sum = problem.left + problem.right
  test.each([
    ['the sum', `${sum}.`, 1],
    ['another number', `${sum + 1}.`, 0],
    ['the sum without its end', `${sum}`, 0],
    ['something before the sum', `+${sum}.`, 0],
    ['no digits', '.', 0],
  ])('%s', (_, text, reward) => {
    expect(verify(problem, encode(text))).toBe(reward)
  })
  test('takes what the warm-up teaches', () => {
    expect(verify(problem, solution(problem))).toBe(1)
  })
})
