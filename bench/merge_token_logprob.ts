import { array, mergeTokenLogprob } from '../lib/index.js'
import { type Case, exponentials, normals, thousands } from './cases.js'

const T = 1048576

export const cases: Case[] = [
  {
    operation: 'mergeTokenLogprob',
    size: `two halves of a vocabulary, ${thousands(T)} tokens`,
    prepare() {
      // Every other token lies in the other half.
      const half = (part: number) => ({
        logp: array(exponentials(T, 2).map((x, t) => (t % 2 === part ? -x : Number.NEGATIVE_INFINITY))),
        entropy: array(exponentials(T, 1, part)),
        logsumexp: array(normals(T, 1, 10, part)),
      })
      const [a, b] = [half(0), half(1)]
      const out = mergeTokenLogprob([a, b])
      return {
        inputs: { ...a, otherLogp: b.logp, otherEntropy: b.entropy, otherLogsumexp: b.logsumexp },
        variants: [{ name: 'into out', run: () => ({ ...mergeTokenLogprob([a, b], { out }) }) }],
      }
    },
  },
]
