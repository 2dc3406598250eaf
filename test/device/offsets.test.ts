// Indices beyond 2^31 and 2^32. The interpreter gives a large allocation only the pages that something touches, so that
// arrays of many gigabytes can be tried where an operation reads few of their rows; a GPU has to have the memory.
//
// Not here, and read instead, since they read or write every element of what is large: prefixAttention and its gradient,
// gaussianLogprobBackward, gaussianKlBackward, gradHidden of the linear operations, gradHead where V D > 2^31, the outputs
// of gatherRows and scatterRows. Arrays of one axis have less than 2^31 elements.
import { afterEach, describe, expect, test } from 'vitest'
import { type DType, elementBytes } from '../../lib/addon/dtypes.js'
import { array, type HostArray } from '../../lib/arrays/array.js'
import * as lib from '../../lib/index.js'
import { backend } from '../support/backend_kind.js'
import { identical } from '../support/compare.js'
import { type FloatType, floats } from '../support/linear_cases.js'
import { random } from '../support/random.js'
import { few } from '../support/sweep.js'

process.env.GRPO_SIMT_MEMORY = String(2 ** 37) // read at the first use of a device

const { cuda } = lib
type Device = lib.DeviceArray
const made: Device[] = []
afterEach(() => {
  for (const x of made.splice(0)) x.dispose()
})
const kept = <X extends Device>(x: X): X => {
  made.push(x)
  return x
}
const up = <D extends DType>(x: HostArray<D>) => kept(cuda.upload(x))
const i32 = (...x: number[]) => up(array(Int32Array.from(x)))
const f32 = (...x: number[]) => up(array(Float32Array.from(x)))

/** An array of that many elements, of which nothing is written. */
const reserve = (dtype: DType, elements: number) =>
  kept(cuda.empty(dtype, [Math.ceil(elements / 2 ** 20), 2 ** 20] as const))

/** Part of an array, as an array. */
const part = <D extends DType>(of: Device, dtype: D, first: number, shape: number[]) =>
  kept(
    cuda.wrap({ pointer: of.pointer + BigInt(first) * BigInt(elementBytes(dtype)), dtype, shape, device: of.device }),
  )

/** Writes a row from an element on. */
function write(to: Device, first: number, row: HostArray) {
  const n = row.data.length
  const view = part(to, row.dtype, first, [1, n])
  lib.gatherRows({ x: up({ ...row, shape: [1, n] } as HostArray), index: i32(0) }, { out: { x: view } })
}

const rowsOf = (x: HostArray, n: number): HostArray[] =>
  Array.from({ length: x.data.length / n }, (_, r) => {
    return { ...x, shape: [n], data: x.data.slice(r * n, (r + 1) * n) } as HostArray
  })

/** Outputs on the device, the same bits as those of a call on small arrays. */
function same(actual: object, expected: object, names: readonly string[]) {
  for (const x of [...Object.values(actual), ...Object.values(expected)]) kept(x)
  for (const name of names) {
    const [a, e] = [actual, expected].map((x) => (x as Record<string, Device>)[name] as Device) as [Device, Device]
    expect(Array.from(a.readSync().data).some(Number.isNaN), name).toBe(false)
    identical(a.readSync(), e.readSync())
  }
}

// Up to 30 million threads are simulated, which begin and end: minutes on a machine that is busy.
describe.skipIf(backend === 'cpu')('beyond 2^31', { timeout: 300_000 }, () => {
  const r = random(21)

  // Rows read twice, once by one block, and once by a cluster of blocks.
  describe.each([
    ['bf16', 2 ** 32 + 8],
    ['bf16', 2 ** 32 + 7],
    ['f32', 2 ** 31 + 8],
  ] as const)('elements between two rows of %s logits: %d', (dtype, stride) => {
    test.each(few(dtype === 'f32' ? [1001, 70_000] : [1001], dtype === 'f32' ? [8200] : [8200, 70_000]))(
      '%d columns',
      (V) => {
        const [R, T] = [3, 4]
        const dense = floats(dtype, r.normals(R * V), [R, V])
        const tokens = { token: i32(5, V - 1, 0, 7), row: i32(0, 2, 1, 2) }
        const whole = reserve(dtype, 2 * stride + V)
        const apart = part(whole, dtype, 0, [R, V])
        const fill = () => rowsOf(dense, V).forEach((row, i) => write(whole, i * stride, row))
        const gradient = () => rowsOf(dense, V).map((_, i) => part(whole, dtype, i * stride, [V]).readSync())
        const check = (expected: Device) => {
          const rows = rowsOf(expected.readSync(), V)
          gradient().forEach((row, i) => identical(row, rows[i] as HostArray))
        }
        const logits = up(dense)

        fill()
        const forward = lib.tokenLogprob({ logits, ...tokens })
        same(lib.tokenLogprob({ logits: apart, ...tokens }, { stride }), forward, ['logp', 'entropy', 'logsumexp'])

        const gradLogp = f32(...r.normals(T))
        const given = { ...tokens, logsumexp: forward.logsumexp, gradLogp }
        const backward = lib.tokenLogprobBackward({ logits, ...given })
        same(
          lib.tokenLogprobBackward({ logits: apart, ...given }, { stride, out: { gradLogits: apart } }),
          backward,
          [],
        )
        check(backward.gradLogits as unknown as Device)

        const policy = { ...tokens, sequenceStart: i32(0, 1, 4), advantage: f32(0.5, -2) }
        for (const ratio of ['token', 'sequence'] as const) {
          fill()
          const expected = lib.policyLossFromLogits({ logits, ...policy }, { ratio })
          const out = { gradLogits: apart }
          same(lib.policyLossFromLogits({ logits: apart, ...policy }, { ratio, stride, out }), expected, [
            'loss',
            'logp',
          ])
          check(expected.gradLogits as unknown as Device)
        }
      },
    )
  })

  test.each(few([['rows read twice', 2 ** 20 + 8] as const], [['rows read once', 400_000] as const]))(
    'logits: %s',
    (_, V) => {
      const R = Math.floor(2 ** 31 / V) + 3
      const whole = reserve('bf16', R * V)
      const logits = part(whole, 'bf16', 0, [R, V])
      const row = floats('bf16', r.normals(V), [1, V])
      write(whole, (R - 1) * V, row)
      const tokens = { token: i32(3, V - 1) }
      const expected = lib.tokenLogprob({ logits: up(row), ...tokens, row: i32(0, 0) })
      same(lib.tokenLogprob({ logits, ...tokens, row: i32(R - 1, R - 1) }), expected, ['logp', 'entropy', 'logsumexp'])
    },
  )

  test.each([
    ['u8', 65_537, 65_538],
    ['i32', 65_536, 2 ** 17 + 2],
  ] as const)('gatherRows and scatterRows of %s[%d]', (dtype, D, R) => {
    const whole = reserve(dtype, R * D)
    const x = part(whole, dtype, 0, [R, D])
    const bytes = Array.from({ length: D }, () => r.integer(256))
    const row = array(dtype === 'u8' ? Uint8Array.from(bytes) : Int32Array.from(bytes)) as HostArray
    write(whole, (R - 1) * D, row)
    const gathered = kept(lib.gatherRows({ x, index: i32(R - 1) }).x as unknown as Device)
    identical({ ...gathered.readSync(), shape: [D] } as HostArray, row)
    const index = new Int32Array(R).fill(-1)
    index[R - 1] = 1
    const scattered = kept(lib.scatterRows({ x, index: up(array(index)) }, { rows: 2 }).x as unknown as Device)
    const [first, second] = rowsOf(scattered.readSync(), D) as [HostArray, HostArray]
    expect(first.data.every((byte) => byte === 0)).toBe(true)
    identical(second, row)
  })

  // Every thread of the empty rows is simulated, which takes half a minute each.
  const inSweep = few([], [0])

  test.each(inSweep)('gaussianLogprob', () => {
    const [T, D] = [2050, 2 ** 20]
    const names = ['x', 'mean', 'oldMean'] as const
    const row = names.map(() => r.normals(D))
    const whole = names.map(() => reserve('f32', T * D))
    whole.forEach((x, i) => write(x, (T - 1) * D, array(row[i] as Float32Array)))
    const inputs = (of: (i: number) => Device) => ({ x: of(0), mean: of(1), oldMean: of(2) })
    const mask = new Uint8Array(T)
    mask[T - 1] = 1
    const all = { ...inputs((i) => part(whole[i] as Device, 'f32', 0, [T, D])), mask: up(array(mask)) }
    const actual: object = lib.gaussianLogprob({ ...all, std: up(array(new Float32Array(T).fill(0.5))) })
    const expected: object = lib.gaussianLogprob({
      ...inputs((i) => up(array(row[i] as Float32Array, [1, D]))),
      std: f32(0.5),
    })
    for (const name of ['logp', 'logRatio']) {
      const [a, e] = [actual, expected].map((x) => kept((x as Record<string, Device>)[name] as Device))
      expect(a?.readSync().data[T - 1]).toBe(e?.readSync().data[0])
    }
  })

  /** Rows of hidden states of which the last one has the only token, and that row alone. */
  function hiddenStates(dtype: FloatType) {
    const [R, D, V] = [2 ** 16 + 2, 2 ** 15, 3]
    const whole = reserve(dtype, R * D)
    const row = floats(dtype, r.normals(D, 0.01), [1, D])
    write(whole, (R - 1) * D, row)
    const tokens = { head: up(floats(dtype, r.normals(V * D), [V, D])), token: i32(1) }
    const large = { hidden: part(whole, dtype, 0, [R, D]), ...tokens, row: i32(R - 1) }
    return { large, small: { hidden: up(row), ...tokens } }
  }
  test.each(inSweep)('linearTokenLogprob', () => {
    const { large, small } = hiddenStates('bf16')
    same(lib.linearTokenLogprob(large), lib.linearTokenLogprob(small), ['logp', 'entropy', 'logsumexp'])
  })
  test.each(inSweep)('linearPolicyLoss', () => {
    const { large, small } = hiddenStates('f32')
    const policy = { sequenceStart: i32(0, 1), advantage: f32(2) }
    const out = { gradHidden: null }
    const expected = lib.linearPolicyLoss({ ...small, ...policy }, { out })
    same(lib.linearPolicyLoss({ ...large, ...policy }, { out }), expected, ['loss', 'gradHead'])
  })
})
