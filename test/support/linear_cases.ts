// What the tests of the linear operations share.
import { array, type HostArray, toBf16, toF16 } from '../../lib/index.js'
import { type LinearInputs, linearLogits } from '../references/linear.js'
import { tokenLogprobReference } from '../references/token_logprob.js'
import { values } from './compare.js'
import { policyBatch } from './policy_cases.js'
import { random } from './random.js'

export type FloatType = 'f32' | 'bf16' | 'f16'
export interface Types {
  hidden: FloatType
  head: FloatType
  headBias?: FloatType
}

export const floats = (dtype: FloatType, data: Float32Array, shape: number[]): HostArray<FloatType> => {
  if (dtype === 'f32') return array(data, shape)
  return dtype === 'bf16' ? array(toBf16(data), shape, 'bf16') : array(toF16(data), shape, 'f16')
}
export const matrix = (rows: number[][]) => array(Float32Array.from(rows.flat()), [rows.length, rows[0]?.length ?? 0])
export const filled = (n: number, value: number) => new Float32Array(n).fill(value)
export const gradientNames = ['gradHidden', 'gradHead', 'gradHeadBias'] as const
export const [R, D, V] = [19, 24, 700]

/** The 26 tokens of policyBatch on 19 rows, of which row 0 is shared and the last named by nobody. */
export function policyLinearBatch({ hidden, head, headBias }: Types, seed = 3) {
  const r = random(seed)
  const { tokenAdvantage, ratioLow, ratioHigh, entropy, ...policy } = policyBatch(seed)
  const T = policy.logp.length
  const inputs = {
    hidden: floats(hidden, r.normals(R * D), [R, D]),
    head: floats(head, r.normals(V * D, 0.4), [V, D]),
    ...(headBias && { headBias: floats(headBias, r.normals(V), [V]) }),
    token: Int32Array.from({ length: T }, () => r.integer(V)),
    row: Int32Array.from({ length: T }, (_, t) => (t % 6 === 0 ? 0 : r.integer(R - 1))),
  }
  const matrices: LinearInputs = {
    hidden: values(inputs.hidden),
    head: values(inputs.head),
    D,
    headBias: inputs.headBias && values(inputs.headBias),
  }
  const { logp, oldLogp, refLogp, ...rest } = policy
  // Ratios from 0.3 to 3, as policyBatch has them.
  const own = tokenLogprobReference({ logits: linearLogits(matrices), V, token: inputs.token, row: inputs.row }).logp
  const near = (x: Float32Array) => Float32Array.from(x, (y, t) => (own[t] as number) + y - (logp[t] as number))
  return { inputs, matrices, policy: { ...rest, oldLogp: near(oldLogp), refLogp: near(refLogp) }, T }
}
export type PolicyLinearBatch = ReturnType<typeof policyLinearBatch>
