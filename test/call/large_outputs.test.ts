// Outputs that fit no cache are written past the caches, by other stores, in other pieces: the bits stay, and so does what
// lies around them.
import { describe, expect, test } from 'vitest'
import { array, policyLossFromLogits, tokenLogprob, tokenLogprobBackward } from '../../lib/index.js'
import { identical } from '../support/compare.js'
import { random } from '../support/random.js'

// 17 MiB of gradients, whose rows begin at every multiple of 4 bytes.
const [R, V] = [37, 120_001]

function batch(softcap: number | null) {
  const r = random(5)
  const some = r.normals(7919, 3)
  const logits = new Float32Array(R * V).map((_, i) => some[i % 7919] as number)
  logits[V + 5] = Number.NaN
  logits.fill(-Infinity, 2 * V + 100, 2 * V + 9000)
  const token = Int32Array.from({ length: R }, () => r.integer(V))
  return { inputs: { logits: array(logits, [R, V]), token }, options: { softcap }, gradLogp: r.normals(R) }
}

describe.each([null, 30])('softcap %s', (softcap) => {
  const { inputs, options, gradLogp } = batch(softcap)
  const copy = () => array(Float32Array.from(inputs.logits.data), [R, V])

  test('a gradient in its own memory has the bits of the one over the logits', () => {
    const given = { ...inputs, gradLogp, logsumexp: tokenLogprob(inputs, options).logsumexp }
    const memory = new Float32Array(R * V + 9).fill(7)
    const out = { gradLogits: array(memory.subarray(5, 5 + R * V), [R, V]) }
    const there = tokenLogprobBackward(given, { ...options, out }).gradLogits
    const logits = copy()
    identical(there, tokenLogprobBackward({ ...given, logits }, { ...options, out: { gradLogits: logits } }).gradLogits)
    identical(there, tokenLogprobBackward(given, options).gradLogits)
    expect([...memory.subarray(0, 5), ...memory.subarray(5 + R * V)]).toEqual(Array(9).fill(7))
  })

  test('that of the loss likewise, and nothing is written between rows that lie apart', () => {
    const given = { ...inputs, advantage: gradLogp, sequenceStart: Int32Array.from({ length: R + 1 }, (_, s) => s) }
    const width = V + 3
    const memory = new Float32Array(R * width).fill(7)
    const gradLogits = array(memory, [R, V], 'f32', { stride: width })
    policyLossFromLogits(given, { ...options, out: { gradLogits } })
    const logits = copy()
    policyLossFromLogits({ ...given, logits }, { ...options, out: { gradLogits: logits } })
    for (let r = 0; r < R; r++) {
      const row = memory.subarray(r * width, (r + 1) * width)
      identical(array(row.slice(0, V)), array(logits.data.slice(r * V, (r + 1) * V)))
      expect([...row.subarray(V)]).toEqual([7, 7, 7])
    }
  })
})

test('short rows whose length is a multiple of 64 bytes, which begin at none', () => {
  const [R, V] = [9000, 512]
  const some = random(6).normals(7919)
  const logits = array(
    new Float32Array(R * V).map((_, i) => some[i % 7919] as number),
    [R, V],
  )
  const token = new Int32Array(R).map((_, r) => r % V)
  const given = {
    logits,
    token,
    gradLogp: new Float32Array(R).fill(1),
    logsumexp: tokenLogprob({ logits, token }).logsumexp,
  }
  const out = { gradLogits: array(new Float32Array(R * V + 1).fill(7).subarray(1), [R, V]) }
  identical(tokenLogprobBackward(given, { out }).gradLogits, tokenLogprobBackward(given).gradLogits)
})
