import { test } from 'vitest'
import { array, linearTokenLogprob, linearTokenLogprobBackward } from '../lib/index.js'
import { linearGradients, linearLogits } from './references/linear.js'
import { tokenLogprobBackwardReference } from './references/token_logprob.js'
import { accurate } from './support/compare.js'
import { random } from './support/random.js'

// Rows with a gradient are listed 256 at a time, and those of one turn begin where the turn before ended.
test('700 rows of a chunk, of which some have no gradient', () => {
  const [R, D, V] = [700, 4, 6]
  const r = random(14)
  const [hidden, head] = [array(r.normals(R * D), [R, D]), array(r.normals(V * D), [V, D])]
  const token = Int32Array.from({ length: R }, () => r.integer(V))
  const gradLogp = r.normals(R).map((x) => (r.uniform() < 0.3 ? 0 : x))
  const { logsumexp } = linearTokenLogprob({ hidden, head, token })
  const gradients = linearTokenLogprobBackward({ hidden, head, token, logsumexp, gradLogp }, { chunkRows: 1024 })
  const [exact, plain] = [undefined, Math.fround].map((round) => {
    const inputs = { hidden: hidden.data, head: head.data, D }
    const logits = linearLogits(inputs, round)
    return linearGradients(
      inputs,
      tokenLogprobBackwardReference({ logits, V, token }, gradLogp, undefined, round),
      round,
    )
  })
  for (const name of ['gradHidden', 'gradHead'] as const) accurate(gradients[name], exact![name], plain![name])
})
