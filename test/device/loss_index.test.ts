// Ids and rows on the device that no row of logits has: the unmasked tokens that have one, and they alone, get NaN and are
// counted in badIndex, whatever forms the logits and whichever ratio the objective names.
import { describe, expect, test } from 'vitest'
import { array, type HostArray } from '../../lib/arrays/array.js'
import * as lib from '../../lib/index.js'
import { backend } from '../support/backend_kind.js'

const { cuda, lossStats } = lib
const [R, V, D] = [3, 5, 2]
const mask = [1, 1, 1, 1, 1, 0, 1, 1]
const good = { token: [0, 4, 2, 1, 3, 0, 1, 2], row: [0, 1, 2, 0, 1, 2, 2, 0] }
/** What a token or a row becomes, at which places, and which of them are unmasked. */
const pokes: [string, { token?: Record<number, number>; row?: Record<number, number> }, number[]][] = [
  ['an id below 0', { token: { 1: -1 } }, [1]],
  ['an id of V', { token: { 3: V } }, [3]],
  ['a row below 0', { row: { 4: -1 } }, [4]],
  ['a row of R', { row: { 0: R } }, [0]],
  ['the largest and the smallest', { token: { 2: 2 ** 31 - 1 }, row: { 7: -(2 ** 31) } }, [2, 7]],
  ['both of one token', { token: { 6: -7 }, row: { 6: 9 } }, [6]],
  ['a masked token', { token: { 5: -1 }, row: { 5: R } }, []],
]

describe.skipIf(backend === 'cpu').each(['token', 'sequence', 'sequence_token'] as const)('ratio %s', (ratio) => {
  test.each(pokes)('%s', (_, poke, bad) => {
    const made: lib.DeviceArray[] = []
    const up = (x: HostArray) => {
      made.push(cuda.upload(x))
      return made.at(-1) as lib.DeviceArray
    }
    const i32 = (x: number[], change: Record<number, number> = {}) =>
      up(array(Int32Array.from(x, (value, t) => change[t] ?? value)))
    const f32 = (n: number, shape = [n]) =>
      array(
        Float32Array.from({ length: n }, (_, i) => Math.sin(i + 1)),
        shape,
      )
    const inputs = () => ({
      token: i32(good.token, poke.token),
      row: i32(good.row, poke.row),
      oldLogp: up(array(new Float32Array(mask.length).fill(-1.5))),
      advantage: up(array(new Float32Array([1, -1]))),
      sequenceStart: i32([0, 3, mask.length]),
      mask: up(array(Uint8Array.from(mask))),
    })
    const losses = [
      lib.policyLossFromLogits({ logits: up(f32(R * V, [R, V])), ...inputs() } as never, { ratio }),
      lib.linearPolicyLoss({ hidden: up(f32(R * D, [R, D])), head: up(f32(V * D, [V, D])), ...inputs() } as never, {
        ratio,
      }),
    ]
    try {
      for (const outputs of losses as unknown as Record<string, lib.DeviceArray>[]) {
        made.push(...Object.values(outputs))
        const stats = lossStats(outputs.stats as never)
        expect(stats.badIndex).toBe(bad.length)
        expect(stats.tokens).toBe(7)
        expect(Number.isNaN(outputs.loss?.readSync().data[0])).toBe(bad.length > 0)
        const nan = Array.from(outputs.logp?.readSync().data as Float32Array, (x, t) => (Number.isNaN(x) ? t : -1))
        expect(nan.filter((t) => t >= 0)).toEqual(bad)
      }
    } finally {
      for (const x of made) x.dispose()
    }
  })
})

// Offsets on the device that do not rise from 0 to T: nobody can say to which sequence a token belongs.
describe.skipIf(backend === 'cpu')('policyLoss with offsets that are none', () => {
  test.each([[[1, 3, 8]], [[0, 5, 3]], [[0, 3, 7]], [[0, 3, 9]], [[0, -1, 8]]])('%j', (sequenceStart) => {
    const T = mask.length
    const up = (x: ArrayLike<number>) => cuda.upload(array(Float32Array.from(x)))
    const wave = (phase: number) => up(Array.from({ length: T }, (_, t) => Math.sin(t + phase) - 2))
    const inputs = {
      logp: wave(0),
      oldLogp: wave(0.1),
      refLogp: wave(0.2),
      entropy: wave(4),
      advantage: up([1, -1]),
      mask: cuda.upload(array(Uint8Array.from(mask))),
      sequenceStart: cuda.upload(array(Int32Array.from(sequenceStart))),
    }
    for (const ratio of ['token', 'sequence', 'sequence_token'] as const) {
      const outputs = lib.policyLoss(inputs as never, { ratio, entropyCoef: 0.1, klCoef: 0.1 })
      const { loss, gradLogp, gradEntropy, stats } = outputs as unknown as Record<string, lib.DeviceArray>
      expect(lossStats(stats as never).badIndex).toBe(mask.filter((x) => x === 1).length)
      expect(loss!.readSync().data[0]).toBeNaN()
      for (const gradient of [gradLogp, gradEntropy]) {
        const numbers = gradient!.readSync().data as Float32Array
        expect(Array.from(numbers, Number.isNaN)).toEqual(mask.map((x) => x === 1))
      }
      for (const x of [loss, gradLogp, gradEntropy, stats]) x!.dispose()
    }
    for (const x of Object.values(inputs)) x.dispose()
  })
})
