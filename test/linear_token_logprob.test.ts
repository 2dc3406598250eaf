import { afterEach, describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import {
  array,
  cpu,
  type HostArray,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  tokenLogprob,
} from '../lib/index.js'
import * as promises from '../lib/promises.js'
import { type LinearInputs, linearGradients, linearLogits } from './references/linear.js'
import { tokenLogprobBackwardReference, tokenLogprobReference } from './references/token_logprob.js'
import { backend, cpuTest } from './support/backend_kind.js'
import { accurate, accurateRows, close, golden, identical, values } from './support/compare.js'
import { instructionSetNames } from './support/instruction_sets.js'
import { filled, floats, gradientNames, matrix, type Types } from './support/linear_cases.js'
import { random } from './support/random.js'
import { few, fewOnDevice, sweep } from './support/sweep.js'

const outputNames = ['logp', 'entropy', 'logsumexp'] as const

// On the CPU several blocks of the vocabulary; on a device several tiles.
const shared = { R: 13, D: 37, V: backend === 'cpu' ? 1100 : 300, T: 20 }

/** 13 rows for 20 tokens; several share row 0, some columns of the bias are -inf, the last row belongs to no token. */
function batch({ hidden, head, headBias }: Types, { R, D, V, T } = shared, seed = 3) {
  const r = random(seed)
  const bias = r.normals(V)
  for (let v = 0; v < V; v += 7) bias[v] = Number.NEGATIVE_INFINITY
  const token = Int32Array.from({ length: T }, () => {
    const id = r.integer(V)
    return id % 7 === 0 ? id + 1 : id
  })
  const inputs = {
    hidden: floats(hidden, r.normals(R * D), [R, D]),
    head: floats(head, r.normals(V * D, 0.5), [V, D]),
    ...(headBias && { headBias: floats(headBias, bias, [V]) }),
    token,
    row: Int32Array.from({ length: T }, (_, t) => (t < 4 ? 0 : r.integer(R - 1))),
  }
  const grads = { gradLogp: r.normals(T), gradEntropy: r.normals(T) }
  for (let t = 0; t < T; t += 5) grads.gradLogp[t] = grads.gradEntropy[t] = 0
  const plain: LinearInputs = {
    hidden: values(inputs.hidden),
    head: values(inputs.head),
    D,
    headBias: inputs.headBias && values(inputs.headBias),
  }
  return { inputs, grads, mask: r.mask(T, 0.8), plain, R, D, V, T }
}
type Batch = ReturnType<typeof batch>

function reference(b: Batch, mask: Uint8Array | undefined, temperature: number, round?: (x: number) => number) {
  const { token, row } = b.inputs
  const logits = { logits: linearLogits(b.plain, round), V: b.V, token, row, mask, temperature }
  return {
    ...tokenLogprobReference(logits, round),
    gradients: (gradLogp: Float32Array, gradEntropy?: Float32Array) =>
      linearGradients(b.plain, tokenLogprobBackwardReference(logits, gradLogp, gradEntropy, round), round),
  }
}

const cases: Types[] = [
  { hidden: 'f32', head: 'f32' },
  { hidden: 'f32', head: 'f32', headBias: 'f32' },
  { hidden: 'bf16', head: 'bf16' },
  { hidden: 'bf16', head: 'bf16', headBias: 'bf16' },
  { hidden: 'f16', head: 'f16', headBias: 'f16' },
  { hidden: 'f32', head: 'bf16', headBias: 'f32' },
  { hidden: 'f16', head: 'f32', headBias: 'bf16' },
]

const threads = cpu.threads
const instructionSet = cpu.instructionSet
afterEach(() => {
  cpu.threads = threads
  cpu.instructionSet = instructionSet
})

test('golden numbers', () => {
  // The identity as head: logits 2, 1, 0, -1.
  const head = matrix([0, 1, 2, 3].map((v) => [0, 1, 2, 3].map((d) => Number(v === d))))
  const inputs = { hidden: matrix([[2, 1, 0, -1]]), head, token: new Int32Array([1]) }
  const { logp, entropy, logsumexp } = linearTokenLogprob(inputs, { temperature: 0.7 })
  golden(logp, [-1.6992452593], 1)
  golden(entropy, [0.7020279765004136], 1)
  golden(logsumexp, [3.1278166878324276], 1)
  const grads = { logsumexp, entropy, gradLogp: filled(1, 1), gradEntropy: filled(1, 1) }
  const { gradHidden, gradHead } = linearTokenLogprobBackward({ ...inputs, ...grads }, { temperature: 0.7 })
  const expected = [-1.0898075415 - 0.4700930012, 1.1673979217 + 0.2604467348, 0.1518313322 - 0.0625905016]
  expected.push(0.0578149341 - 0.0149998786)
  // The CPU sums a row in float64, the device in float32, as the plain formula does.
  const digits = backend === 'cpu' ? 1 : 2
  golden(gradHidden, expected, digits)
  golden(
    gradHead,
    expected.flatMap((g) => [2 * g, g, 0, -g]),
    digits,
  )
})

/** A chunk of few rows; where there are tiles of 128, one of a tile and a rest: each chunk takes whole tiles. */
const chunksOf = ({ R }: { R: number }) => (R < 128 ? [null, 5] : few([null, 131], [5]))

/** Rows of whole 16 bytes, which matrix instructions take: less than a tile of 128 x 128, and several with rests. */
const aligned = [
  { R: 13, D: 40, V: backend === 'cpu' ? 1101 : 301, T: 20 },
  { R: 150, D: 136, V: 261, T: 170 },
]

describe('against float64', () => {
  const all = [
    ...cases.flatMap((types, i) => {
      return few([i % 2 ? 0.7 : 1], [i % 2 ? 1 : 0.7]).map((temperature) => ({
        ...types,
        ...shared,
        temperature,
      }))
    }),
    ...aligned.flatMap((sizes, k) => {
      const narrow = cases
        .filter(({ head }) => head !== 'f32')
        .map((types) => ({ ...types, ...sizes, temperature: 0.7 }))
      const half = (rest: number) => narrow.filter((_, i) => i % 2 === rest)
      return fewOnDevice(half(k), half(1 - k)) // each type with one of the sizes
    }),
  ]
  test.each(all)(
    'hidden $hidden [$R,$D], head $head [$V,$D], bias $headBias, temperature $temperature',
    ({ temperature, hidden, head, headBias, ...sizes }) => {
      const types = { hidden, head, ...(headBias && { headBias }) }
      const b = batch(types, sizes)
      for (const mask of sweep ? [undefined, b.mask] : [temperature === 1 ? undefined : b.mask]) {
        const expected = reference(b, mask, temperature)
        const plain = reference(b, mask, temperature, Math.fround)
        const forward = linearTokenLogprob({ ...b.inputs, mask }, { temperature })
        for (const name of outputNames) accurate(forward[name], expected[name], plain[name])

        const inputs = { ...b.inputs, mask, logsumexp: forward.logsumexp }
        const { gradLogp, gradEntropy } = b.grads
        if (sweep || sizes.R < 128) {
          const result = linearTokenLogprobBackward({ ...inputs, gradLogp }, { temperature })
          const [exact, rounded] = [expected.gradients(gradLogp), plain.gradients(gradLogp)]
          for (const name of gradientNames) if (result[name]) accurateRows(result[name], exact[name], rounded[name])
        }

        const both = { ...inputs, entropy: forward.entropy, gradLogp, gradEntropy }
        const [exactBoth, roundedBoth] = [
          expected.gradients(gradLogp, gradEntropy),
          plain.gradients(gradLogp, gradEntropy),
        ]
        for (const chunkRows of chunksOf(sizes)) {
          const own = linearTokenLogprobBackward(both, { temperature, chunkRows })
          expect(Object.keys(own)).toEqual(headBias ? [...gradientNames] : ['gradHidden', 'gradHead'])
          expect([own.gradHidden.dtype, own.gradHead.dtype]).toEqual([hidden, head])
          for (const name of gradientNames) if (own[name]) accurateRows(own[name], exactBoth[name], roundedBoth[name])
        }
      }
    },
  )

  test('agrees with tokenLogprob on the logits themselves', () => {
    const b = batch({ hidden: 'f32', head: 'f32' })
    const { token, row } = b.inputs
    const logits = array(Float32Array.from(linearLogits(b.plain)), [b.R, b.V])
    const [own, explicit] = [linearTokenLogprob(b.inputs), tokenLogprob({ logits, token, row })]
    const rounded = tokenLogprobReference(
      { logits: linearLogits(b.plain, Math.fround), V: b.V, token, row },
      Math.fround,
    )
    for (const name of outputNames) accurate(own[name], explicit[name].data, rounded[name])
  })

  // Gradients of logits that f16 could not hold are no reason to lose them.
  const inFloat32 = [shared, ...aligned].flatMap((sizes, i) =>
    (['bf16', 'f16'] as const).flatMap((head) => {
      const scales = [1, 1e-9, 1e9]
      const own = scales.splice(i, 1)
      return fewOnDevice(own, scales).map((size) => ({ ...sizes, head, size }))
    }),
  )
  test.each(inFloat32)('gradients of $head [$V,$D] in float32, of size $size', ({ head, size, ...sizes }) => {
    const b = batch({ hidden: head === 'f16' && sizes.R < 20 ? 'bf16' : head, head, headBias: 'bf16' }, sizes)
    const { logsumexp } = linearTokenLogprob(b.inputs)
    const gradLogp = b.grads.gradLogp.map((g) => g * size)
    const out = {
      gradHidden: array(filled(b.R * b.D, 7), [b.R, b.D]),
      gradHead: array(filled(b.V * b.D, 7), [b.V, b.D]),
      gradHeadBias: array(filled(b.V, 7), [b.V]),
    }
    const exact = reference(b, undefined, 1).gradients(gradLogp)
    const plain = reference(b, undefined, 1, Math.fround).gradients(gradLogp)
    for (const chunkRows of chunksOf(sizes)) {
      const result = linearTokenLogprobBackward({ ...b.inputs, logsumexp, gradLogp }, { out, chunkRows })
      for (const name of gradientNames) accurate(result[name] as HostArray, exact[name], plain[name])
    }
  })

  test('central differences', () => {
    const b = batch({ hidden: 'f32', head: 'f32', headBias: 'f32' }, { R: 3, D: 4, V: 11, T: 6 })
    const { logsumexp, entropy } = linearTokenLogprob(b.inputs, { temperature: 0.8 })
    const result = linearTokenLogprobBackward({ ...b.inputs, logsumexp, entropy, ...b.grads }, { temperature: 0.8 })
    const { token, row } = b.inputs
    const loss = (inputs: LinearInputs) => {
      const f = tokenLogprobReference({ logits: linearLogits(inputs), V: b.V, token, row, temperature: 0.8 })
      return f.logp.reduce(
        (sum, logp, t) => sum + logp * (b.grads.gradLogp[t] ?? 0) + (f.entropy[t] ?? 0) * (b.grads.gradEntropy[t] ?? 0),
        0,
      )
    }
    const step = 1e-5
    for (const [name, input] of [
      ['gradHidden', 'hidden'],
      ['gradHead', 'head'],
      ['gradHeadBias', 'headBias'],
    ] as const) {
      const x = Array.from(b.plain[input] as ArrayLike<number>)
      const slopes = x.map((value, i) => {
        if (!Number.isFinite(value)) return 0
        const moved = (by: number) => loss({ ...b.plain, [input]: x.map((y, j) => (j === i ? y + by : y)) })
        return (moved(step) - moved(-step)) / (2 * step)
      })
      // The gradient is computed in float32; the differences are good to the square of the step.
      close((result[name] as HostArray).data, slopes, 1e-6)
    }
  })
})

describe('the same bits', () => {
  const b = batch({ hidden: 'f32', head: 'bf16', headBias: 'f32' })
  const at = (chunkRows: number | null) => {
    const forward = linearTokenLogprob({ ...b.inputs, mask: b.mask }, { chunkRows })
    const { logsumexp, entropy } = forward
    const back = linearTokenLogprobBackward(
      { ...b.inputs, mask: b.mask, logsumexp, entropy, ...b.grads },
      { chunkRows },
    )
    return { ...forward, ...back }
  }
  test.each(fewOnDevice([3, 64], [1]))('chunkRows %d: logp, entropy, logsumexp and gradHidden', (chunkRows) => {
    const [expected, actual] = [at(null), at(chunkRows)]
    for (const name of [...outputNames, 'gradHidden'] as const) identical(actual[name], expected[name])
  })
  cpuTest.each([1, 2, 3, 8])('%d threads', (count) => {
    const expected = at(5)
    cpu.threads = count
    const actual = at(5)
    for (const name of [...outputNames, ...gradientNames]) {
      identical(actual[name] as HostArray, expected[name] as HostArray)
    }
  })
  test('a row gets what it gets alone', () => {
    const { logp } = linearTokenLogprob(b.inputs)
    for (const t of [0, 6, 19]) {
      const r = b.inputs.row[t] as number
      const hidden = array((b.inputs.hidden.data as Float32Array).slice(r * b.D, (r + 1) * b.D), [1, b.D])
      const alone = linearTokenLogprob({ ...b.inputs, hidden, token: b.inputs.token.slice(t, t + 1), row: undefined })
      expect(alone.logp.data[0]).toBe(logp.data[t])
    }
  })
  test('from the promises', async () => {
    const forward = linearTokenLogprob(b.inputs)
    identical((await promises.linearTokenLogprob(b.inputs)).logp, forward.logp)
    const inputs = { ...b.inputs, logsumexp: forward.logsumexp, gradLogp: b.grads.gradLogp }
    const { gradHead } = await promises.linearTokenLogprobBackward(inputs)
    identical(gradHead, linearTokenLogprobBackward(inputs).gradHead)
  })
  test('every instruction set is accurate', () => {
    const [expected, plain] = [reference(b, undefined, 1), reference(b, undefined, 1, Math.fround)]
    const { gradLogp } = b.grads
    const [exact, rounded] = [expected.gradients(gradLogp), plain.gradients(gradLogp)]
    const all = backend === 'cpu' ? instructionSetNames : ['baseline']
    const available = all.filter((name) => native.setInstructionSet(name))
    expect(available.length).toBeGreaterThan(0)
    for (const name of available) {
      cpu.instructionSet = name
      const forward = linearTokenLogprob(b.inputs)
      for (const output of outputNames) accurate(forward[output], expected[output], plain[output])
      const back = linearTokenLogprobBackward({ ...b.inputs, logsumexp: forward.logsumexp, gradLogp })
      for (const output of gradientNames) accurateRows(back[output] as HostArray, exact[output], rounded[output])
    }
  })
})
