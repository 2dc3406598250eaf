// The peers' side: TensorFlow.js on its WASM backend, as a user of it would write the same work.
import type { Rank, Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core'
import type { Arrays, Numbers } from '../cases.js'
import { type Fingerprint, fingerprint } from '../fingerprint.js'
import type { Peer } from './peer.js'

type Tensors = Record<string, Tensor>
type TensorFlow = typeof import('@tensorflow/tfjs-core')
type Implementation = (tf: TensorFlow, x: Tensors, n: Numbers) => Tensors

/** The last axis of x at `index`. The gradient of tf.gather along rows needs an operation that the WASM backend lacks. */
const pick = (tf: TensorFlow, x: Tensor, index: Tensor) =>
  tf.sum(tf.mul(x, tf.oneHot(index as Tensor1D, x.shape[1]!)), -1)

function clippedLoss(tf: TensorFlow, logp: Tensor, x: Tensors, n: Numbers): Tensor {
  const { clipLow = 0.2, clipHigh = 0.2, klCoef = 0, sequences = 1 } = n
  const perSequence = (values: Tensor) => tf.reshape(values, [sequences, -1])
  const advantage = tf.expandDims(x.advantage!, 1)
  const ratio = perSequence(tf.exp(tf.sub(logp, x.oldLogp!)))
  const clipped = tf.clipByValue(ratio, 1 - clipLow, 1 + clipHigh)
  const loss = tf.neg(tf.mean(tf.minimum(tf.mul(ratio, advantage), tf.mul(clipped, advantage))))
  if (klCoef === 0) return loss
  const difference = tf.sub(x.refLogp!, logp)
  return tf.add(loss, tf.mul(klCoef, tf.mean(tf.sub(tf.sub(tf.exp(difference), difference), 1))))
}

const entropyOf = (tf: TensorFlow, logProbabilities: Tensor) =>
  tf.neg(tf.sum(tf.mul(tf.exp(logProbabilities), logProbabilities), -1))

// The WASM backend multiplies two matrices fast where neither is transposed, and batches or transposed ones 20 times slower.

/** x y^T of matrices. */
const timesTransposed = (tf: TensorFlow, x: Tensor, y: Tensor) => tf.matMul(x as Tensor2D, tf.transpose(y) as Tensor2D)

/** Causal attention over [B,L,H,D], a matrix product per head. */
function attention(tf: TensorFlow, ...qkv: [Tensor, Tensor, Tensor]): Tensor {
  const [batch, length, heads, width] = qkv[0].shape as [number, number, number, number]
  const perHead = (x: Tensor) => tf.unstack(tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [-1, length, width]))
  const [q, k, v] = qkv.map(perHead) as [Tensor[], Tensor[], Tensor[]]
  const hidden = tf.mul(tf.sub(tf.linalg.bandPart(tf.ones([length, length]), -1, 0), 1), 1e9)
  const outputs = q.map((rows, i) => {
    const scores = tf.mul(timesTransposed(tf, rows, k[i]!), 1 / Math.sqrt(width))
    return tf.matMul(tf.softmax(tf.add(scores, hidden)) as Tensor2D, v[i] as Tensor2D)
  })
  return tf.transpose(tf.reshape(tf.stack(outputs), [batch, heads, length, width]), [0, 2, 1, 3])
}

const implementations: Record<string, Implementation> = {
  groupAdvantage(tf, { rewards }, { group = 0, eps = 1e-4 }) {
    if (group === 0) throw new Error('groups of different sizes')
    const groups = tf.reshape(rewards!, [-1, group])
    const centred = tf.sub(groups, tf.mean(groups, 1, true))
    const std = tf.sqrt(tf.div(tf.sum(tf.square(centred), 1, true), group - 1))
    return { advantage: tf.div(centred, tf.add(std, eps)) }
  },

  moments(tf, { x }) {
    const { mean, variance } = tf.moments(x!)
    return { mean, m2: tf.mul(variance, x!.size) }
  },

  standardize: (tf, { x }, { mean = 0, std = 1, eps = 1e-8 }) => ({ x: tf.div(tf.sub(x!, mean), std + eps) }),

  tokenLogprob(tf, { logits, token }, { temperature = 1 }) {
    const logProbabilities = tf.logSoftmax(tf.div(logits!, temperature))
    return { logp: pick(tf, logProbabilities, token!), entropy: entropyOf(tf, logProbabilities) }
  },

  policyLoss(tf, x, n) {
    const { value, grad } = tf.valueAndGrad((logp: Tensor) => clippedLoss(tf, logp, x, n))(x.logp!)
    return { loss: value, gradLogp: grad }
  },

  policyLossFromLogits(tf, x, n) {
    const { value, grad } = tf.valueAndGrad((logits: Tensor) => {
      const logp = pick(tf, tf.logSoftmax(tf.div(logits, n.temperature ?? 1)), x.token!)
      return clippedLoss(tf, logp, x, n)
    })(x.logits!)
    return { loss: value, gradLogits: grad }
  },

  linearTokenLogprob(tf, { hidden, head, token }, { temperature = 1 }) {
    const logits = timesTransposed(tf, hidden!, head!)
    const logProbabilities = tf.logSoftmax(tf.div(logits, temperature))
    return { logp: pick(tf, logProbabilities, token!), entropy: entropyOf(tf, logProbabilities) }
  },

  prefixAttention: (tf, { q, k, v }) => ({ out: attention(tf, q!, k!, v!) }),

  prefixAttentionBackward(tf, { q, k, v, gradOut }) {
    const loss = (...qkv: Tensor[]) => tf.sum(tf.mul(attention(tf, qkv[0]!, qkv[1]!, qkv[2]!), gradOut!))
    const [gradQ, gradK, gradV] = tf.grads(loss as never)([q!, k!, v!])
    return { gradQ: gradQ!, gradK: gradK!, gradV: gradV! }
  },

  selectTokens(tf, { advantage, entropy }, { fraction = 1, sequences = 1 }) {
    const score = tf.reshape(tf.mul(tf.reshape(entropy!, [sequences, -1]), tf.expandDims(tf.abs(advantage!), 1)), [-1])
    const { values } = tf.topk(score, Math.ceil(fraction * score.size), true)
    return { mask: tf.cast(tf.greaterEqual(score, tf.min(values)), 'int32') }
  },

  gatherRows: (tf, { x, index }) => ({ x: tf.gather(x!, index as Tensor1D) }),

  scatterRows: (tf, { x, index }, { rows = 0 }) => ({ x: tf.unsortedSegmentSum(x!, index as Tensor1D, rows) }),

  sequenceSum: (tf, { x }, { sequences = 1 }) => ({ x: tf.sum(tf.reshape(x!, [sequences, -1]), 1) }),

  sequenceExpand(tf, { x }, { length = 1 }) {
    return { x: tf.reshape(tf.tile(tf.expandDims(x!, 1), [1, length]), [-1]) }
  },
}

export async function tensorflow(): Promise<Peer> {
  const tf = await import('@tensorflow/tfjs-core')
  const { version_wasm } = await import('@tensorflow/tfjs-backend-wasm')
  // Without these, which the 294 MB package @tensorflow/tfjs would register, tf.grad knows no derivative.
  require('@tensorflow/tfjs-core/dist/register_all_gradients')
  await tf.setBackend('wasm')
  await tf.ready()

  const tensorsOf = (inputs: Arrays): Tensors =>
    Object.fromEntries(
      Object.entries(inputs).map(([name, { data, shape, dtype }]) => [
        name,
        tf.tensor(data as Float32Array, [...shape], dtype === 'f32' ? 'float32' : 'int32'),
      ]),
    )
  const multiplyRate = () => {
    const x = tf.ones<Rank.R2>([512, 512])
    let seconds = Number.POSITIVE_INFINITY
    for (let i = 0; i < 3; i++) {
      const start = performance.now()
      tf.matMul(x, x).dispose()
      seconds = Math.min(seconds, (performance.now() - start) / 1e3)
    }
    tf.dispose(x)
    return (2 * 512 ** 3) / seconds / 1e9
  }
  const simd = tf.env().get('WASM_HAS_SIMD_SUPPORT') ? 'SIMD' : 'no SIMD'
  return {
    name: 'TensorFlow.js',
    version: `${version_wasm}, WASM backend, ${simd}, 1 thread`,
    gflops: multiplyRate(),
    bf16: false,
    reasons: { linearPolicyLoss: 'its products with a head of 32,000 tokens take 73 s forward and backward' },
    ways: (operation) => (operation in implementations ? [''] : []),
    async prepare(operation, _way, inputs, numbers) {
      const x = tensorsOf(inputs)
      let outputs: Tensors = {}
      return {
        run() {
          tf.dispose(outputs)
          outputs = tf.tidy(() => implementations[operation]!(tf, x, numbers))
        },
        async results() {
          const named: Record<string, Fingerprint> = {}
          for (const [name, tensor] of Object.entries(outputs))
            named[name] = fingerprint((await tensor.data()) as Float32Array)
          return named
        },
        dispose() {
          tf.dispose(outputs)
          tf.dispose(x)
        },
      }
    },
    close() {},
  }
}
