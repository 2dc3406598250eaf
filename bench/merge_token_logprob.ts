import { array, mergeTokenLogprob } from '../lib/index.js'
import { type Case, exponentials, normals, thousands, type Work } from './cases.js'

const T = 1048576

function prepare(count: number): Work {
  // The tokens lie in the parts in turn.
  const parts = Array.from({ length: count }, (_, part) => ({
    logp: array(exponentials(T, 2).map((x, t) => (t % count === part ? -x : Number.NEGATIVE_INFINITY))),
    entropy: array(exponentials(T, 1, part)),
    logsumexp: array(normals(T, 1, 10, part)),
  }))
  const out = mergeTokenLogprob(parts)
  const others = (name: 'logp' | 'entropy' | 'logsumexp') => {
    const all = new Float32Array((count - 1) * T)
    for (const [i, part] of parts.slice(1).entries()) all.set(part[name].data, i * T)
    return array(all, [count - 1, T])
  }
  return {
    inputs: {
      ...(parts[0] as (typeof parts)[number]),
      otherLogp: others('logp'),
      otherEntropy: others('entropy'),
      otherLogsumexp: others('logsumexp'),
    },
    variants: [{ name: 'into out', run: () => ({ ...mergeTokenLogprob(parts, { out }) }) }],
  }
}

export const cases: Case[] = [
  {
    operation: 'mergeTokenLogprob',
    size: `two halves of a vocabulary, ${thousands(T)} tokens`,
    prepare: () => prepare(2),
  },
  {
    operation: 'mergeTokenLogprob',
    size: `eight parts of a vocabulary, ${thousands(T)} tokens`,
    prepare: () => prepare(8),
  },
]
