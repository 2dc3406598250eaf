// A causal transformer in TensorFlow.js. The library differentiates all of it by itself but for two places: attention and
// loss come from outside, and tf.customGrad tells it their gradients.
import * as tf from '@tensorflow/tfjs'
import { array, type HostArray, type Layout, prefixAttention, prefixAttentionBackward } from '../../lib/index.js'
import { compute } from './device.js'
import { maxPrompt, maxResponse, vocabulary } from './problems.js'
import { normal, type Random } from './random.js'

/** How many tokens each layer's attention sees: the first has a sliding window, shorter than prompt and response together. */
const windows = [5, null] as const
const hiddenSize = 64
const heads = 4
/** Grouped-query attention: two query heads share one head of keys and values. */
const keyHeads = 2
const headSize = hiddenSize / heads
const innerSize = 4 * hiddenSize
/** With 1, as large as what the layers add to it, warm-up takes twice the steps. */
const embeddingDeviation = 0.3

type Matrix = tf.Tensor2D
type Heads = tf.Tensor3D
export type Values = HostArray<'f32'>
export type Parameters = Record<string, tf.Variable<tf.Rank.R2>>
/** From q [P,H,D], k and v [P,K,D] and the sinks [H] of one layer to [P,H,D]; `window` null sees all tokens before. */
export type Attention = (q: Heads, k: Heads, v: Heads, sink: tf.Tensor1D, window: number | null) => Heads
export type Product = (a: Matrix, b: Matrix) => Matrix

export function createParameters(random: Random): Parameters {
  const parameters: Parameters = {}
  const create = (name: string, rows: number, columns: number, deviation = 1 / Math.sqrt(rows)) => {
    const values = Float32Array.from({ length: rows * columns }, () => deviation * normal(random))
    parameters[name] = tf.tidy(() => tf.variable(tf.tensor2d(values, [rows, columns])))
  }
  create('token', vocabulary, hiddenSize, embeddingDeviation)
  create('position', maxPrompt + maxResponse, hiddenSize, embeddingDeviation)
  windows.forEach((_, layer) => {
    create(`query${layer}`, hiddenSize, heads * headSize)
    create(`key${layer}`, hiddenSize, keyHeads * headSize)
    create(`value${layer}`, hiddenSize, keyHeads * headSize)
    create(`sink${layer}`, 1, heads, 0)
    create(`mix${layer}`, heads * headSize, hiddenSize)
    create(`expand${layer}`, hiddenSize, innerSize)
    create(`contract${layer}`, innerSize, hiddenSize)
  })
  create('head', hiddenSize, vocabulary)
  return parameters
}

export function copyParameters(parameters: Parameters): Parameters {
  return Object.fromEntries(Object.entries(parameters).map(([name, value]) => [name, tf.variable(value)]))
}

/** Logits [P,V] of packed tokens. Only the attention knows which tokens see each other. */
export function forward(
  parameters: Parameters,
  tokens: Int32Array,
  positions: Int32Array,
  attention: Attention,
  product: Product = fastProduct,
): Matrix {
  const parameter = (name: string) => parameters[name] as Matrix
  // A product with one-hot rows looks rows up, and its gradient is one more product.
  const lookUp = (rows: Int32Array, table: Matrix) =>
    product(tf.oneHot(rows, table.shape[0]).toFloat() as Matrix, table)
  let x: Matrix = lookUp(tokens, parameter('token')).add(lookUp(positions, parameter('position')))
  windows.forEach((window, layer) => {
    const input = normalize(x)
    const project = (name: string, count: number): Heads =>
      product(input, parameter(`${name}${layer}`)).reshape([tokens.length, count, headSize])
    const sink = parameter(`sink${layer}`).as1D()
    const [q, k, v] = [project('query', heads), project('key', keyHeads), project('value', keyHeads)]
    const attended = attention(q, k, v, sink, window)
    x = x.add(product(attended.reshape([tokens.length, hiddenSize]), parameter(`mix${layer}`)))
    const inner = product(normalize(x), parameter(`expand${layer}`))
    x = x.add(product(inner.mul(inner.sigmoid()), parameter(`contract${layer}`)))
  })
  return product(normalize(x), parameter('head'))
}

/** Each row divided by the root of its mean square. */
const normalize = (x: Matrix): Matrix => x.mul(x.square().mean(-1, true).add(1e-5).rsqrt())

/** `prefixAttention` as an operation of TensorFlow.js, with `prefixAttentionBackward` as its gradient. */
export function packedAttention(layout: Layout): Attention {
  return (q, k, v, sink, window) => {
    const attention = tf.customGrad((...tensors) => {
      const [q, k, v, sink] = (tensors as tf.Tensor[]).slice(0, 4).map(toHost) as [Values, Values, Values, Values]
      const inputs = { q, k, v, sink, layout }
      const { out, logsumexp } = compute(prefixAttention, inputs, { window })
      const gradFunc = (gradient: tf.Tensor) => {
        const gradOut = toHost(gradient)
        const given = { ...inputs, gradOut, out, logsumexp }
        const { gradQ, gradK, gradV, gradSink } = compute(prefixAttentionBackward, given, { window })
        return [gradQ, gradK, gradV, gradSink as HostArray].map(toTensor)
      }
      return { value: toTensor(out), gradFunc }
    })
    return attention(q, k, v, sink) as Heads
  }
}

/** A loss that comes with its gradient of the logits, as an operation of TensorFlow.js. */
export function outsideLoss(
  logits: Matrix,
  evaluate: (logits: Values) => { loss: HostArray; gradLogits: HostArray },
): tf.Scalar {
  const operation = tf.customGrad((tensor) => {
    const { loss, gradLogits } = evaluate(toHost(tensor as tf.Tensor))
    return { value: toTensor(loss).asScalar(), gradFunc: (gradient: tf.Tensor) => toTensor(gradLogits).mul(gradient) }
  })
  return operation(logits) as tf.Scalar
}

// The gradient that TensorFlow.js has for a product hands transposed matrices to its WASM kernel, which is six to twelve
// times slower with them: a training step took 240 ms with it and takes 55 ms with these explicit transpositions.
const fastProduct = tf.customGrad((...inputs) => {
  const [a, b, save] = inputs as unknown as [Matrix, Matrix, tf.GradSaveFunc]
  save([a, b])
  const gradFunc = (gradient: tf.Tensor, saved: tf.Tensor[]) => {
    const [a, b] = saved as [Matrix, Matrix]
    return [tf.matMul(gradient, b.transpose()), tf.matMul(a.transpose(), gradient)]
  }
  return { value: tf.matMul(a, b), gradFunc }
}) as Product

export const toHost = (tensor: tf.Tensor): Values => array(tensor.dataSync<'float32'>(), tensor.shape)
const toTensor = ({ data, shape }: HostArray): tf.Tensor => tf.tensor(data as Float32Array, [...shape])
