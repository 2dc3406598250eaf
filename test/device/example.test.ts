// A few steps of the arithmetic example with attention and loss on device arrays: the parameters that the CPU gives.
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { afterEach, beforeAll, expect, test, vi } from 'vitest'
import { setDevice } from '../../examples/arithmetic/device.js'
import { copyParameters, createParameters } from '../../examples/arithmetic/model.js'
import { drawProblems } from '../../examples/arithmetic/problems.js'
import { seededRandom } from '../../examples/arithmetic/random.js'
import { pack, sample } from '../../examples/arithmetic/rollout.js'
import { grpo, policyStep } from '../../examples/arithmetic/train.js'
import { native } from '../../lib/addon/native.js'

beforeAll(async () => {
  await tf.setBackend('wasm')
})
afterEach(() => {
  setDevice('cpu')
  vi.restoreAllMocks()
})

const groupSize = 4
const steps = 2

test('a policy that is trained on the device is that of the CPU', () => {
  const random = seededRandom(21)
  const onCpu = createParameters(random)
  const onDevice = copyParameters(onCpu)
  const reference = copyParameters(onCpu)
  const before = Object.values(onCpu).map((value) => value.dataSync().slice())
  const sgd = tf.train.sgd(0.05) // its steps are the gradients, where Adam's are nearly their signs
  const run = vi.spyOn(native, 'run')
  for (let step = 0; step < steps; step++) {
    const rollouts = sample(onCpu, drawProblems(3, 'training', random), groupSize, random)
    const rewards = Float32Array.from(rollouts, () => (random() < 0.5 ? 1 : 0))
    const batch = { ...pack(rollouts), rewards }
    setDevice('cpu')
    const expected = policyStep(onCpu, reference, sgd, batch, { method: grpo, updates: 2 })
    setDevice('cuda')
    run.mockClear()
    const actual = policyStep(onDevice, reference, sgd, batch, { method: grpo, updates: 2 })
    // Of each pass two layers forward and, but for the reference's, backward; and the loss: all on the device.
    const streams = run.mock.calls.map(([, , stream]) => stream)
    expect(streams.filter((stream) => stream !== undefined)).toHaveLength(2 + 1 + 2 * (2 + 2 + 1))
    // From equal parameters; later the two drift apart by what rounding makes of them.
    for (const name of ['policyLoss', 'kl', 'ratioMean', 'entropy'] as const) {
      if (step === 0) expect(Math.abs(actual[name] - expected[name]), name).toBeLessThan(2e-5)
    }
    setDevice('cpu')
  }
  Object.entries(onCpu).forEach(([name, value], i) => {
    const [a, b, first] = [onDevice[name]?.dataSync() as Float32Array, value.dataSync(), before[i] as Float32Array]
    const moved = Math.max(...b.map((x, at) => Math.abs(x - (first[at] as number))))
    expect(moved, `${name} moves`).toBeGreaterThan(0)
    const off = Math.max(...b.map((x, at) => Math.abs(x - (a[at] as number))))
    expect(off, name).toBeLessThan(1e-3 * moved + 1e-6)
  })
})
