import { describe, expect, test } from 'vitest'
import { array, logRatio } from '../lib/index.js'
import { identical, refuses } from './support/compare.js'
import { random } from './support/random.js'

type Numbers = ArrayLike<number>

/** x - y, 0 where masked. Math.fround: one rounding, of a difference that float64 holds to more digits than it needs. */
const reference = (x: Numbers, y: Numbers, mask?: Numbers) =>
  Float32Array.from(x, (value, t) => (mask?.[t] === 0 ? 0 : Math.fround(value - y[t]!)))

describe('logRatio', () => {
  test.each([1, 7, 33, 2048, 65_601])('of %d tokens', (T) => {
    const r = random(T)
    // Of sizes from 2^-140, which float32 holds a few digits of, to 2^20.
    const values = () => Float32Array.from({ length: T }, () => r.normal() * 2 ** (r.integer(160) - 140))
    const [x, y, mask] = [values(), values(), r.mask(T)]
    identical(logRatio({ x, y }).logRatio, array(reference(x, y)))
    identical(logRatio({ x, y, mask }).logRatio, array(reference(x, y, mask)))
    identical(logRatio({ x, y: x }).logRatio, array(new Float32Array(T)))
  })

  test('NaN and infinities', () => {
    const x = Float32Array.of(Number.NaN, 1, Infinity, -Infinity, -Infinity, 3e38)
    const y = Float32Array.of(1, Number.NaN, 1, -1, -Infinity, -3e38)
    expect([...logRatio({ x, y }).logRatio.data]).toEqual([
      Number.NaN,
      Number.NaN,
      Infinity,
      -Infinity,
      Number.NaN,
      Infinity,
    ])
  })

  test('what stands under the mask goes no further', () => {
    const [x, y] = [Float32Array.of(Number.NaN, 2, -Infinity, -1), Float32Array.of(1, -1, -Infinity, 3e38)]
    const { logRatio: masked } = logRatio({ x, y, mask: Uint8Array.of(0, 255, 0, 0) })
    expect(masked.data).toEqual(Float32Array.of(0, 3, 0, 0)) // toEqual tells 0 from -0
  })

  test('no tokens; nothing wanted', () => {
    const none = new Float32Array(0)
    expect(logRatio({ x: none, y: none, mask: new Uint8Array(0) }).logRatio.shape).toEqual([0])
    expect(logRatio({ x: none, y: none }, { out: { logRatio: null } })).toEqual({})
  })

  test('lengths and dtypes that differ', () => {
    const x = Float32Array.of(1, 2)
    const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE' }
    refuses(() => logRatio({ x, y: new Float32Array(3) }), { ...shape, argument: 'y' })
    refuses(() => logRatio({ x, y: x, mask: new Uint8Array(1) }), { ...shape, argument: 'mask' })
    refuses(() => logRatio({ x, y: x }, { out: { logRatio: new Float32Array(1) } }), { ...shape, argument: 'logRatio' })
    refuses(() => logRatio({ x, y: array(new Uint16Array(2), [2], 'bf16') as never }), { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'y' }) // biome-ignore format: one call
    refuses(() => logRatio({ x } as never), { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'y' })
  })
})
