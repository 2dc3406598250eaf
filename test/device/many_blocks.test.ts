// Grids that take their size from the number of multiprocessors, on a simulated GPU that has as many as a real one: some
// blocks then look at what more blocks left than they have threads.
import process from 'node:process'
import { expect, test } from 'vitest'
import { cuda, type DeviceArray, selectTokens } from '../../lib/index.js'
import { backend } from '../support/backend_kind.js'

process.env.GRPO_SIMT_MULTIPROCESSORS = '132'

test.skipIf(backend !== 'simt')('selectTokens over 260 blocks: the first of equal scores are kept', () => {
  const T = 260 * 4096 - 7
  const entropy = new Float32Array(T).fill(1)
  entropy[2] = 2
  const inputs = { entropy: cuda.upload(entropy), sequenceStart: Int32Array.of(0, T) }
  const { mask } = selectTokens(inputs, { count: T - 5, rule: 'entropy' }) // the last of them lies in the last block
  const { data } = (mask as DeviceArray).readSync()
  expect([data.indexOf(0), data.lastIndexOf(1)]).toEqual([T - 5, T - 6])
})
