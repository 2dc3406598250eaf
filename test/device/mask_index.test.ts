// Masks that begin anywhere in device memory. Run on device arrays only (vitest.config.mts).
import { expect, test } from 'vitest'
import { call } from '../../lib/call/run.js'
import { cuda, maskIndex } from '../../lib/index.js'
import { random } from '../support/random.js'

const bytes = random(3).mask(9_000, 0.3)
const whole = cuda.upload({ dtype: 'u8', shape: [bytes.length], data: bytes })
const places = (mask: Uint8Array) => Array.from(mask.keys()).filter((i) => mask[i] !== 0)
const part = (offset: number, size: number) =>
  cuda.wrap({ pointer: whole.pointer + BigInt(offset), dtype: 'u8', shape: [size] })

test.each([0, 1, 3, 8, 15])('offset %i', (offset) => {
  for (const size of [1, 15, 16, 17, 4_095, 4_096, 8_200]) {
    const { index } = maskIndex({ mask: part(offset, size) })
    expect(Array.from(index.readSync().data)).toEqual(places(bytes.subarray(offset, offset + size)))
  }
})

test('an index of another length: what does not fit is left out, the rest is -1', () => {
  const expected = places(bytes.subarray(0, 5_000))
  for (const M of [0, 5, expected.length + 3_000]) {
    const { index } = call('maskIndex', { mask: part(0, 5_000) }, { out: { count: null } }, { M }).now()
    const read = Array.from((index as never as { readSync(): { data: Int32Array } }).readSync().data)
    expect(read).toEqual(Array.from({ length: M }, (_, m) => expected[m] ?? -1))
  }
})
