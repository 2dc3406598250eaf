// Rows without a gradient leave no trace in the others: what is left of a batch has the bits of a batch that has no more,
// whatever belongs to a row (its temperature, its set, the powers of its factors), and wherever the others stand.
import { describe, expect, test } from 'vitest'
import {
  array,
  type HostArray,
  linearPolicyLoss,
  linearTokenLogprob,
  linearTokenLogprobBackward,
} from '../lib/index.js'
import { backend } from './support/backend_kind.js'
import { identical } from './support/compare.js'
import { type FloatType, floats } from './support/linear_cases.js'
import { random } from './support/random.js'
import { setsOf } from './support/sets_of.js'
import { fewOnDevice } from './support/sweep.js'

const [R, D, V] = backend === 'cpu' ? [40, 24, 700] : [40, 24, 131]
type Matrix = HostArray<FloatType>

interface Kind {
  what: string
  bias?: boolean
  rowTemperature?: boolean
  sets?: boolean
  softcap?: number
}
const kinds: Kind[] = [
  { what: 'plain rows' },
  { what: 'plain rows and a bias', bias: true }, // with which a device takes other products
  { what: 'temperatures of rows', rowTemperature: true },
  { what: 'temperatures of rows and a softcap', bias: true, rowTemperature: true, softcap: 5 },
  { what: 'sets of ids', rowTemperature: true, sets: true },
]
const patterns: [string, (r: number) => boolean][] = [
  ['every other row', (r) => r % 2 === 1],
  ['all but the first', (r) => r > 0],
  ['seventeen in the middle', (r) => r >= 9 && r < 26],
  ['the last one', (r) => r === R - 1],
  ['one of three', (r) => r % 3 === 2],
]

function batch(dtype: FloatType, { bias, rowTemperature, sets, softcap }: Kind) {
  const r = random(12)
  // Rows of sizes from 2^-3 to 2^4: factors that are powers of two differ.
  const hidden = r.normals(R * D).map((x, i) => x * 2 ** ((Math.floor(i / D) % 8) - 3))
  const token = Int32Array.from({ length: R }, () => r.integer(V))
  const own = (row: number) => [...new Set([token[row] as number, ...Array.from({ length: 9 }, () => r.integer(V))])]
  const lists = Array.from({ length: R }, (_, row) => own(row).sort((a, b) => a - b))
  return {
    hidden: floats(dtype, hidden, [R, D]),
    head: floats(dtype, r.normals(V * D, 0.4), [V, D]),
    headBias: bias ? floats(dtype, r.normals(V), [V]) : undefined,
    token,
    lists: sets ? lists : undefined,
    rowTemperature: rowTemperature ? r.uniforms(R, 0.4, 2.5) : undefined,
    grads: [r.normals(R), r.normals(R)] as const,
    options: { softcap: softcap ?? null },
  }
}
type Batch = ReturnType<typeof batch>

const at = <A extends Float32Array | Int32Array>(x: A, rows: readonly number[]) =>
  (x.constructor as unknown as { from(list: number[]): A }).from(rows.map((r) => x[r] as number))

/** Those rows alone. */
function only(b: Batch, rows: readonly number[]) {
  const data = new (b.hidden.data.constructor as Float32ArrayConstructor)(rows.length * D)
  rows.forEach((r, i) => void data.set((b.hidden.data as Float32Array).subarray(r * D, (r + 1) * D), i * D))
  return {
    hidden: array(data as never, [rows.length, D], b.hidden.dtype as 'bf16') as Matrix,
    head: b.head,
    ...(b.headBias && { headBias: b.headBias }),
    token: at(b.token, rows),
    ...(b.rowTemperature && { rowTemperature: at(b.rowTemperature, rows) }),
    ...(b.lists && setsOf(rows.map((r) => b.lists![r] as number[]))),
  }
}

const everyRow = Array.from({ length: R }, (_, r) => r)

/** Gradients of the batch and of some of its rows alone. */
function same(whole: Record<string, HostArray | undefined>, alone: typeof whole, rows: readonly number[]): void {
  for (const name of ['gradHead', 'gradHeadBias']) if (alone[name]) identical(whole[name]!, alone[name]!)
  const gradient = whole.gradHidden as HostArray
  const parts = everyRow.map((r) => gradient.data.slice(r * D, (r + 1) * D))
  rows.forEach((r, i) => void expect(parts[r], `row ${r}`).toEqual(alone.gradHidden!.data.slice(i * D, (i + 1) * D)))
  for (const r of everyRow.filter((row) => !rows.includes(row))) expect(parts[r]!.every((x) => x === 0)).toBe(true)
}

describe.each(fewOnDevice<FloatType>(['f32', 'bf16'], ['f16']))('%s', (dtype) => {
  describe.each(kinds)('$what', (kind) => {
    const b = batch(dtype, kind)
    const all = only(b, everyRow)
    const forward = linearTokenLogprob(all, b.options)

    test.each(patterns)('log-probabilities: %s', (_, has) => {
      const rows = everyRow.filter(has)
      const zeroed = (x: Float32Array) => x.map((g, r) => (has(r) ? g : 0))
      const [gradLogp, gradEntropy] = b.grads
      const [logsumexp, entropy] = [forward.logsumexp.data, forward.entropy.data] as Float32Array[]
      const whole = linearTokenLogprobBackward(
        {
          ...all,
          logsumexp: logsumexp!,
          entropy: entropy!,
          gradLogp: zeroed(gradLogp),
          gradEntropy: zeroed(gradEntropy),
        },
        b.options,
      )
      const alone = linearTokenLogprobBackward(
        {
          ...only(b, rows),
          logsumexp: at(logsumexp!, rows),
          entropy: at(entropy!, rows),
          gradLogp: at(gradLogp, rows),
          gradEntropy: at(gradEntropy, rows),
        },
        b.options,
      )
      same(whole, alone, rows)
    })

    test.each(patterns)('the loss: %s', (_, has) => {
      const rows = everyRow.filter(has)
      const advantage = b.grads[0].map((a, r) => (has(r) ? a : 0))
      const starts = (n: number) => Int32Array.from({ length: n + 1 }, (_x, i) => i)
      for (const ratio of ['token', 'sequence'] as const) {
        const options = { ...b.options, ratio, normalizer: 8 }
        const whole = linearPolicyLoss({ ...all, advantage, sequenceStart: starts(R) }, options)
        const some = { ...only(b, rows), advantage: at(advantage, rows), sequenceStart: starts(rows.length) }
        same(whole, linearPolicyLoss(some, options), rows)
      }
    })
  })
})
