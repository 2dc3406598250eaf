import { describe, expect, test } from 'vitest'
import { maskIndex } from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { cpuTest } from './support/backend_kind.js'
import { refuses } from './support/compare.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

const reference = (mask: Uint8Array) => Array.from(mask.keys()).filter((i) => mask[i] !== 0)

describe('maskIndex', () => {
  test('is what a filter gives', () => {
    fc.assert(
      fc.property(fc.uint8Array({ max: 2, maxLength: 40 }), (mask) => {
        expect(Array.from(maskIndex({ mask }).index.data)).toEqual(reference(mask))
      }),
    )
  })
  test('several blocks', async () => {
    const mask = random(1).mask(200_001, 0.3)
    expect(Array.from(maskIndex({ mask }).index.data)).toEqual(reference(mask))
    expect(Array.from((await promises.maskIndex({ mask })).index.data)).toEqual(reference(mask))
  })
  test('into memory of the caller, which has to fit', () => {
    const mask = Uint8Array.of(0, 1, 1)
    const index = new Int32Array(2)
    expect(maskIndex({ mask }, { out: { index } }).index.data).toBe(index)
    expect(Array.from(index)).toEqual([1, 2])
  })
  // A kernel cannot refuse: it leaves out what does not fit, and fills the rest with -1.
  cpuTest('memory of the caller that does not fit', () => {
    const mask = Uint8Array.of(0, 1, 2)
    for (const length of [1, 3])
      refuses(() => maskIndex({ mask }, { out: { index: new Int32Array(length) } }), {
        error: RangeError,
        code: 'ERR_GRPO_SHAPE',
        argument: 'index',
        message: new RegExp(`has length ${length}, expected 2, the number of values in mask that are not 0`),
      })
  })
  test('nothing, and nothing kept', () => {
    expect(maskIndex({ mask: new Uint8Array(0) }).index.data.length).toBe(0)
    expect(maskIndex({ mask: new Uint8Array(9) }).index.data.length).toBe(0)
  })
})
