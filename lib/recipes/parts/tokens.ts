// Numbers per token that several methods need.
import { grpoError } from '../../addon/errors.js'
import { moments } from '../../moments.js'
import { sequenceExpand } from '../../sequence_expand.js'
import { standardize } from '../../standardize.js'
import type { Context } from '../step/context.js'

/** The advantage of each token: the method's own, or that of its rollout. */
export function tokenAdvantages({ method, tokenAdvantage, advantage, sequenceStart, mask }: Context): Float32Array {
  if (tokenAdvantage !== undefined) return tokenAdvantage
  if (advantage === undefined) {
    throw grpoError('missing', method, 'advantage', 'is missing: the method has none, and this needs their signs')
  }
  return sequenceExpand({ x: Float32Array.from(advantage), sequenceStart, mask }).x.data
}

/** The reward of each rollout at its last unmasked token, and at every token the KL to the reference with a minus. [T] */
export function tokenRewards(c: Context, rewards: ArrayLike<number>, klCoef: number): Float32Array {
  const x = new Float32Array(c.T)
  if (klCoef !== 0) {
    const { oldLogp, refLogp } = c
    for (let t = 0; t < c.T; t++) x[t] = -klCoef * ((oldLogp[t] as number) - (refLogp[t] as number))
  }
  for (let i = 0; i < c.N; i++) {
    const begin = c.sequenceStart[i] as number
    let last = (c.sequenceStart[i + 1] as number) - 1
    while (last >= begin && c.mask?.[last] === 0) last--
    if (last >= begin) x[last] = (x[last] as number) + (rewards[i] as number)
  }
  return x
}

/** (x - mean) / sqrt(var + 1e-8) over the unmasked tokens, with Bessel's correction; 0 where masked. */
export const whitened = (x: Float32Array, mask: Uint8Array | undefined): Float32Array =>
  standardize({ x, mask }, { moments: moments({ x, mask }), eps: 1e-8, epsUnderRoot: true }).x.data
