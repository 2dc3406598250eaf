// The peers' side: jax-js on its WASM backend, jitted where that is faster, as a user of it would write the same work.
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Arrays, Numbers } from '../cases.js'
import { type Fingerprint, fingerprint } from '../fingerprint.js'
import type { Peer } from './peer.js'

type Jax = typeof import('@jax-js/jax')
type Tensor = InstanceType<Jax['Array']>
type Tensors = Record<string, Tensor>
/** Makes the function that is jitted. Every use of an array but the last needs `.ref`: jax-js counts references. */
type Implementation = (jax: Jax, n: Numbers) => (x: Tensors) => Tensors

/** x[r, index[r]] as a sum: the gradient of a gather would be a scatter, and nn.oneHot builds an identity of V x V. */
const pick = ({ numpy: np }: Jax, x: Tensor, index: Tensor) => {
  const chosen = np.equal(np.arange(x.shape[1]!).reshape([1, -1]), index.reshape([-1, 1]))
  return np.sum(np.where(chosen, x, 0), -1)
}

function clippedLoss({ numpy: np }: Jax, logp: Tensor, x: Tensors, n: Numbers): Tensor {
  const { clipLow = 0.2, clipHigh = 0.2, klCoef = 0, sequences = 1 } = n
  const advantage = x.advantage!.reshape([sequences, 1])
  const difference = klCoef === 0 ? undefined : x.refLogp!.sub(logp.ref)
  const ratio = np.exp(logp.sub(x.oldLogp!)).reshape([sequences, -1])
  const clipped = np.clip(ratio.ref, 1 - clipLow, 1 + clipHigh)
  const loss = np.minimum(ratio.mul(advantage.ref), clipped.mul(advantage)).mean().neg()
  if (difference === undefined) return loss
  return loss.add(np.exp(difference.ref).sub(difference).sub(1).mean().mul(klCoef))
}

/** Causal attention over [B,L,H,D]. nn.dotProductAttention would do the same, but needs Node 22. */
const attention = ({ numpy: np, nn }: Jax, ...qkv: [Tensor, Tensor, Tensor]) => {
  const [, length, , width] = qkv[0].shape as [number, number, number, number]
  const [q, k, v] = qkv.map((x) => np.swapaxes(x, 1, 2)) as [Tensor, Tensor, Tensor]
  const place = np.arange(length)
  const visible = np.lessEqual(place.ref.reshape([1, -1]), place.reshape([-1, 1]))
  const scores = np.matmul(q, np.swapaxes(k, 2, 3)).mul(1 / Math.sqrt(width))
  return np.swapaxes(np.matmul(nn.softmax(np.where(visible, scores, -1e9), -1), v), 1, 2)
}

const entropyOf = ({ numpy: np }: Jax, logProbabilities: Tensor) =>
  np.sum(np.exp(logProbabilities.ref).mul(logProbabilities), -1).neg()

const implementations: Record<string, Implementation> = {
  groupAdvantage:
    ({ numpy: np }, { group = 0, eps = 1e-4 }) =>
    ({ rewards }) => {
      if (group === 0) throw new Error('groups of different sizes')
      const groups = rewards!.reshape([-1, group])
      const centred = groups.ref.sub(np.mean(groups, 1, { keepdims: true }))
      const variance = np.sum(np.square(centred.ref), 1, { keepdims: true }).div(group - 1)
      return { advantage: centred.div(np.sqrt(variance).add(eps)) }
    },

  moments:
    ({ numpy: np }) =>
    ({ x }) => {
      const size = x!.size
      return { mean: np.mean(x!.ref), m2: np.var_(x!).mul(size) }
    },

  standardize:
    (_jax, { mean = 0, std = 1, eps = 1e-8 }) =>
    ({ x }) => ({ x: x!.sub(mean).div(std + eps) }),

  tokenLogprob:
    (jax, { temperature = 1 }) =>
    ({ logits, token }) => {
      const logProbabilities = jax.nn.logSoftmax(logits!.div(temperature), -1)
      return { logp: pick(jax, logProbabilities.ref, token!), entropy: entropyOf(jax, logProbabilities) }
    },

  policyLoss: (jax, n) => (x) => {
    const { logp, ...rest } = x
    const [loss, gradLogp] = jax.valueAndGrad((y: Tensor) => clippedLoss(jax, y, rest, n))(logp!)
    return { loss, gradLogp }
  },

  policyLossFromLogits: (jax, n) => (x) => {
    const { logits, ...rest } = x
    const [loss, gradLogits] = jax.valueAndGrad((y: Tensor) => {
      const logp = pick(jax, jax.nn.logSoftmax(y.div(n.temperature ?? 1), -1), rest.token!)
      return clippedLoss(jax, logp, rest, n)
    })(logits!)
    return { loss, gradLogits }
  },

  linearPolicyLoss: (jax, n) => (x) => {
    const { hidden, head, ...rest } = x
    const lossOf = (h: Tensor, w: Tensor) => {
      const logits = jax.numpy.matmul(h, jax.numpy.transpose(w))
      const logp = pick(jax, jax.nn.logSoftmax(logits.div(n.temperature ?? 1), -1), rest.token!)
      return clippedLoss(jax, logp, rest, n)
    }
    const [loss, [gradHidden, gradHead]] = jax.valueAndGrad(lossOf, { argnums: [0, 1] })(hidden!, head!) as unknown as [
      Tensor,
      [Tensor, Tensor],
    ]
    return { loss, gradHidden, gradHead }
  },

  linearTokenLogprob:
    (jax, { temperature = 1 }) =>
    ({ hidden, head, token }) => {
      const logits = jax.numpy.matmul(hidden!, jax.numpy.transpose(head!))
      const logProbabilities = jax.nn.logSoftmax(logits.div(temperature), -1)
      return { logp: pick(jax, logProbabilities.ref, token!), entropy: entropyOf(jax, logProbabilities) }
    },

  prefixAttention:
    (jax) =>
    ({ q, k, v }) => ({ out: attention(jax, q!, k!, v!) }),

  prefixAttentionBackward:
    (jax) =>
    ({ q, k, v, gradOut }) => {
      const loss = (...qkv: [Tensor, Tensor, Tensor]) =>
        attention(jax, ...qkv)
          .mul(gradOut!)
          .sum()
      const [gradQ, gradK, gradV] = jax.grad(loss, { argnums: [0, 1, 2] })(q!, k!, v!) as unknown as Tensor[]
      return { gradQ: gradQ!, gradK: gradK!, gradV: gradV! }
    },

  gatherRows:
    ({ numpy: np }) =>
    ({ x, index }) => ({ x: np.take(x!, index!, 0) }),

  sequenceSum:
    ({ numpy: np }, { sequences = 1 }) =>
    ({ x }) => ({ x: np.sum(x!.reshape([sequences, -1]), 1) }),

  sequenceExpand:
    ({ numpy: np }, { length = 1 }) =>
    ({ x }) => ({ x: np.repeat(x!, length) }),
}

export async function jaxjs(): Promise<Peer> {
  // Node 20 has no navigator, at which jax-js looks when it is imported.
  ;(globalThis as { navigator?: object }).navigator ??= {}
  const jax = await import('@jax-js/jax')
  const manifest = readFileSync(join(dirname(require.resolve('@jax-js/jax')), '..', 'package.json'), 'utf8')
  const { version } = JSON.parse(manifest) as { version: string }
  const { numpy: np, blockUntilReady } = jax
  await jax.init()
  jax.defaultDevice('wasm')

  const tensorsOf = (inputs: Arrays): Tensors =>
    Object.fromEntries(
      Object.entries(inputs).map(([name, { data, shape, dtype }]) => {
        const kind = dtype === 'f32' ? np.float32 : np.int32
        const values = dtype === 'u8' ? Int32Array.from(data) : (data as Float32Array)
        return [name, np.array(values as never, { dtype: kind }).reshape([...shape])]
      }),
    )
  const release = (x: Tensors) => {
    for (const tensor of Object.values(x)) tensor.dispose()
  }
  const multiplyRate = async () => {
    const x = np.ones([512, 512])
    let seconds = Number.POSITIVE_INFINITY
    for (let i = 0; i < 3; i++) {
      const start = performance.now()
      const product = np.matmul(x.ref, x.ref)
      await blockUntilReady(product)
      product.dispose()
      seconds = Math.min(seconds, (performance.now() - start) / 1e3)
    }
    x.dispose()
    return (2 * 512 ** 3) / seconds / 1e9
  }
  return {
    name: 'jax-js',
    version: `${version}, WASM backend, jit`,
    gflops: await multiplyRate(),
    bf16: false,
    reasons: {},
    ways: (operation) => (operation in implementations ? [''] : []),
    async prepare(operation, _way, inputs, numbers) {
      const x = tensorsOf(inputs)
      const compute = jax.jit(implementations[operation]!(jax, numbers) as never) as unknown as (x: Tensors) => Tensors
      let outputs: Tensors = {}
      return {
        async run() {
          release(outputs)
          outputs = compute(Object.fromEntries(Object.entries(x).map(([name, tensor]) => [name, tensor.ref])))
          await blockUntilReady(outputs)
        },
        async results() {
          const named: Record<string, Fingerprint> = {}
          for (const [name, tensor] of Object.entries(outputs))
            named[name] = fingerprint((await tensor.ref.data()) as Float32Array)
          return named
        },
        dispose() {
          release(outputs)
          release(x)
        },
      }
    },
    close() {},
  }
}
