import { afterEach, describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import {
  array,
  cpu,
  fromBf16,
  fromF16,
  type HostArray,
  linearPolicyLoss,
  linearTokenLogprob,
  linearTokenLogprobBackward,
  toBf16,
  toF16,
} from '../lib/index.js'
import { linearGradients, linearLogits } from './references/linear.js'
import { tokenLogprobBackwardReference, tokenLogprobReference } from './references/token_logprob.js'
import { backend, cpuTest } from './support/backend_kind.js'
import { accurate, accurateRows, identical, refuses, values } from './support/compare.js'
import { instructionSetNames } from './support/instruction_sets.js'
import { type FloatType, filled, floats, gradientNames, policyLinearBatch } from './support/linear_cases.js'
import { random } from './support/random.js'

const { instructionSet, threads } = cpu
afterEach(() => {
  cpu.instructionSet = instructionSet
  cpu.threads = threads
})

const sets = backend === 'cpu' ? instructionSetNames.filter((name) => native.setInstructionSet(name)) : [instructionSet]
cpu.instructionSet = instructionSet

const outputNames = ['logp', 'entropy', 'logsumexp'] as const

/** A token for each of R rows. */
function batch(dtype: FloatType, { R, D, V }: { R: number; D: number; V: number }, head: FloatType = dtype) {
  const r = random(R + D)
  const size = 2 / Math.sqrt(D)
  const inputs = {
    hidden: floats(dtype, r.normals(R * D), [R, D]),
    head: floats(head, r.normals(V * D, size), [V, D]),
    headBias: floats(dtype, r.normals(V), [V]),
    token: Int32Array.from({ length: R }, () => r.integer(V)),
  }
  const plain = { hidden: values(inputs.hidden), head: values(inputs.head), D, headBias: values(inputs.headBias) }
  return { inputs, plain, gradLogp: r.normals(R), gradEntropy: r.normals(R), R, D, V }
}
type Batch = ReturnType<typeof batch>

// The plain formulas take seconds at the largest shape: once for all instruction sets.
const once = new Map<string, unknown>()
function remembered<T>(key: string, make: () => T): T {
  if (!once.has(key)) once.set(key, make())
  return once.get(key) as T
}

const sixteen = {
  bf16: (x: Float64Array) => Float64Array.from(fromBf16(toBf16(Float32Array.from(x)))),
  f16: (x: Float64Array) => Float64Array.from(fromF16(toF16(Float32Array.from(x)))),
}

/** With `factor` the plain formula of precision 'standard': what is computed of two factors is rounded once to 16 bits. */
function gradientsOf(b: Batch, round?: (x: number) => number, factor = (x: Float64Array) => x) {
  const logits = { logits: linearLogits(b.plain, round), V: b.V, token: b.inputs.token }
  const gradLogits = tokenLogprobBackwardReference(logits, b.gradLogp, b.gradEntropy, round)
  return linearGradients(b.plain, factor(gradLogits), round)
}

function backward(b: Batch, options: Parameters<typeof linearTokenLogprobBackward>[1] = {}, more: object = {}) {
  const { logsumexp, entropy } = linearTokenLogprob(b.inputs)
  const { gradLogp, gradEntropy } = b
  return linearTokenLogprobBackward({ ...b.inputs, logsumexp, entropy, gradLogp, gradEntropy, ...more }, options)
}

// Less than a tile of any instruction set, and several with rests: of rows, of the sum (32 to an instruction of tiles, 512
// to a panel) and of columns (512 to a block).
const shapes =
  backend === 'cpu'
    ? [{ R: 3, D: 5, V: 7 }, { R: 16, D: 64, V: 32 }, { R: 49, D: 545, V: 531 }] // biome-ignore format: a list
    : [{ R: 3, D: 5, V: 7 }, { R: 20, D: 40, V: 61 }] // biome-ignore format: a list

// On a device a factor of bf16 gradients is rounded to float16, and they are judged by row.
const judged = backend === 'cpu' ? accurate : accurateRows

describe.each(sets)('%s: against float64', (set) => {
  test.each(shapes)('bf16 $R x $D x $V, each precision', (shape) => {
    cpu.instructionSet = set
    const b = batch('bf16', shape)
    const { exact, plain, expected, limits } = remembered(JSON.stringify(shape), () => {
      const softmax = (round?: (x: number) => number) =>
        tokenLogprobReference({ logits: linearLogits(b.plain, round), V: b.V, token: b.inputs.token }, round)
      const limits = { high: gradientsOf(b, Math.fround), standard: gradientsOf(b, Math.fround, sixteen.bf16) }
      return { exact: softmax(), plain: softmax(Math.fround), expected: gradientsOf(b), limits }
    })
    const forward = linearTokenLogprob(b.inputs)
    for (const name of outputNames) accurate(forward[name], exact[name], plain[name])
    for (const chunkRows of [null, 17]) {
      for (const precision of ['high', 'standard'] as const) {
        const own = backward(b, { precision, chunkRows })
        for (const name of gradientNames) judged(own[name] as HostArray, expected[name], limits[precision][name])
      }
    }
  })

  test('f16, standard', () => {
    cpu.instructionSet = set
    const b = batch('f16', shapes[1]!)
    const own = backward(b, { precision: 'standard' })
    const [exact, plain] = [gradientsOf(b), gradientsOf(b, Math.fround, sixteen.f16)]
    for (const name of gradientNames) accurate(own[name] as HostArray, exact[name], plain[name])
  })

  test('numbers of any size, and infinities', () => {
    cpu.instructionSet = set
    // Logits of 1e30: certain of the one that is largest.
    const hidden = floats('bf16', Float32Array.of(1e15, -1e15, 1, 2), [2, 2])
    const head = floats('bf16', Float32Array.of(1e15, 0, 0, 1e15, -Infinity, 0), [3, 2])
    const { logp } = linearTokenLogprob({
      hidden,
      head: floats('bf16', Float32Array.of(1e15, 0, 0, 1e15), [2, 2]),
      token: [0, 1],
    })
    expect(Array.from(logp.data)).toEqual([0, 0])
    // -inf + 0 * x is -inf where hidden is above 0.
    const only = linearTokenLogprob({ hidden: floats('bf16', Float32Array.of(1, 0.5), [1, 2]), head, token: [0] })
    expect(only.logp.data[0]).toBe(0)
  })

  cpuTest('a row gets what it gets alone, in any chunk, on any number of threads', () => {
    cpu.instructionSet = set
    const b = batch('bf16', { R: 40, D: 70, V: 540 })
    for (const precision of ['high', 'standard'] as const) {
      const [forward, whole] = [linearTokenLogprob(b.inputs), backward(b, { precision })]
      for (const chunkRows of [1, 7, 33]) identical(backward(b, { precision, chunkRows }).gradHidden, whole.gradHidden)
      for (const count of [1, 3]) {
        cpu.threads = count
        const again = backward(b, { precision })
        for (const name of gradientNames) identical(again[name] as HostArray, whole[name] as HostArray)
      }
      cpu.threads = threads
      for (const t of [0, 15, 39]) {
        const row = (b.inputs.hidden.data as Uint16Array).slice(t * b.D, (t + 1) * b.D)
        const inputs = { ...b.inputs, hidden: array(row, [1, b.D], 'bf16'), token: b.inputs.token.slice(t, t + 1) }
        const [gradLogp, gradEntropy] = [b.gradLogp.slice(t, t + 1), b.gradEntropy.slice(t, t + 1)]
        const alone = { ...b, inputs, gradLogp, gradEntropy } as unknown as Batch
        expect(linearTokenLogprob(inputs).logp.data[0]).toBe(forward.logp.data[t])
        const { gradHidden } = backward(alone, { precision })
        expect(Array.from(gradHidden.data)).toEqual(Array.from(whole.gradHidden.data.slice(t * b.D, (t + 1) * b.D)))
      }
    }
  })
})

describe('precision', () => {
  test.each([
    ['f32', 'f32'],
    ['bf16', 'f32'],
    ['bf16', 'f16'],
  ] as const)('changes nothing for hidden %s and head %s', (dtype, head) => {
    const b = batch(dtype, shapes[1]!, head)
    const [high, standard] = [backward(b), backward(b, { precision: 'standard' })]
    for (const name of gradientNames) identical(standard[name] as HostArray, high[name] as HostArray)
  })

  cpuTest('standard is another arithmetic than high, which is the default', () => {
    const b = batch('bf16', shapes[2]!)
    const [own, high, standard] = [{}, { precision: 'high' }, { precision: 'standard' }].map(
      (options) => backward(b, options as { precision?: 'high' | 'standard' }).gradHidden,
    )
    identical(own!, high!)
    expect(Buffer.compare(Buffer.from(high!.data.buffer), Buffer.from(standard!.data.buffer))).not.toBe(0)
  })

  test('linearPolicyLoss has that of linearTokenLogprobBackward', () => {
    const { inputs, policy } = policyLinearBatch({ hidden: 'bf16', head: 'bf16', headBias: 'bf16' })
    const { mask, ...more } = policy
    // On-policy and without masks: gradLogp is that of -advantage x logp, over all tokens.
    const { oldLogp, refLogp, weight, ...rest } = more as typeof more & { weight?: unknown }
    const own = linearPolicyLoss({ ...inputs, ...rest }, { precision: 'standard', aggregate: 'token_sum' })
    const { logsumexp } = linearTokenLogprob(inputs)
    const start = Array.from(rest.sequenceStart as ArrayLike<number>)
    const gradLogp = Float32Array.from(
      inputs.token,
      (_, t) => -(rest.advantage as Float32Array)[start.findLastIndex((s) => s <= t)]!,
    )
    const parts = linearTokenLogprobBackward({ ...inputs, logsumexp, gradLogp }, { precision: 'standard' })
    for (const name of gradientNames) identical(own[name] as HostArray, parts[name] as HostArray)
  })

  test('one of two names', () => {
    const b = batch('bf16', shapes[0]!)
    refuses(() => backward(b, { precision: 'low' as 'high' }), {
      error: RangeError,
      code: 'ERR_GRPO_OPTION',
      argument: 'precision',
    })
  })
})

describe('kept logits', () => {
  const cases = (['f32', 'bf16'] as const).flatMap((dtype) =>
    [{}, { softcap: 5, temperature: 0.7 }, { validVocab: 50 }, { vocabStart: 100 }].map((options) => ({
      dtype,
      options,
    })),
  )
  const shape = { R: 21, D: 40, V: 61 }

  test.each(cases)(
    '$dtype, $options: the logits, and the bits of a backward pass without them',
    ({ dtype, options }) => {
      const b = batch(dtype, shape)
      const V = 'validVocab' in options ? 50 : b.V
      const inputs = { ...b.inputs, token: b.inputs.token.map((t) => (t % V) + ('vocabStart' in options ? 100 : 0)) }
      const mask = Uint8Array.from({ length: b.R }, (_, t) => Number(t % 5 !== 3))
      const out = { logits: array(filled(b.R * b.V, 7), [b.R, b.V]) }
      const forward = linearTokenLogprob({ ...inputs, mask }, { ...options, out })
      expect(forward.logits?.data).toBe(backend === 'cpu' ? out.logits.data : forward.logits?.data)
      const [exact, plain] = [linearLogits(b.plain), linearLogits(b.plain, Math.fround)]
      // Rows that nobody names, and padding, are left alone.
      const written = (i: number) => mask[Math.floor(i / b.V)] === 1 && i % b.V < V
      const expected = (x: Float64Array) => x.map((z, i) => (written(i) ? z : 7))
      accurate(forward.logits as HostArray, expected(exact), expected(plain))

      const { logsumexp, entropy } = forward
      const { gradLogp, gradEntropy } = b
      const given = { ...inputs, mask, logsumexp, entropy, gradLogp, gradEntropy }
      const anew = linearTokenLogprobBackward(given, options)
      // What is not looked at may hold anything.
      const kept = (forward.logits as HostArray<'f32'>).data.map((z, i) => (written(i) ? z : Number.NaN))
      const logits = array(kept, [b.R, b.V])
      for (const chunkRows of [null, 4]) {
        const own = linearTokenLogprobBackward({ ...given, logits }, { ...options, chunkRows })
        identical(own.gradHidden, anew.gradHidden)
        if (chunkRows === null)
          for (const name of gradientNames) identical(own[name] as HostArray, anew[name] as HostArray)
      }
    },
  )

  test('are what the first product is spared for: others in their place show', () => {
    const b = batch('f32', shape)
    const logits = array(filled(b.R * b.V, 0), [b.R, b.V])
    const logsumexp = filled(b.R, Math.log(b.V))
    const own = linearTokenLogprobBackward({ ...b.inputs, logsumexp, gradLogp: b.gradLogp, logits })
    const gradLogits = tokenLogprobBackwardReference(
      { logits: new Float64Array(b.R * b.V), V: b.V, token: b.inputs.token },
      b.gradLogp,
    )
    const [exact, plain] = [linearGradients(b.plain, gradLogits), linearGradients(b.plain, gradLogits, Math.fround)]
    for (const name of gradientNames) accurate(own[name] as HostArray, exact[name], plain[name])
  })

  test('of rows with sets there are none, but with full; the backward pass takes those of the others', () => {
    const b = batch('f32', shape)
    const keptStart = Int32Array.from({ length: b.R + 1 }, (_, r) => 3 * Math.ceil(r / 2))
    const kept = Int32Array.from({ length: keptStart[b.R]! }, (_, i) => 5 * (i % 3) + 2)
    const token = b.inputs.token.map((t, r) => (r % 2 === 0 ? 7 : t))
    const inputs = { ...b.inputs, token, keptStart, kept }
    const poisoned = () => ({ logits: array(filled(b.R * b.V, 7), [b.R, b.V]) })
    const [some, all] = [poisoned(), poisoned()]
    const forward = linearTokenLogprob(inputs, { out: some })
    const full = linearTokenLogprob(inputs, { out: all, full: true })
    const dense = linearTokenLogprob(b.inputs, { out: poisoned() })
    identical(full.logits as HostArray, dense.logits as HostArray)
    const expected = values(dense.logits as HostArray)
    const mixed = Float32Array.from(expected, (z, i) => (Math.floor(i / b.V) % 2 === 0 ? 7 : z))
    identical(forward.logits as HostArray, array(mixed, [b.R, b.V]))
    const given = { ...inputs, logsumexp: forward.logsumexp, gradLogp: b.gradLogp }
    const [own, anew] = [
      linearTokenLogprobBackward({ ...given, logits: forward.logits }),
      linearTokenLogprobBackward(given),
    ]
    for (const name of gradientNames) identical(own[name] as HostArray, anew[name] as HostArray)
  })

  test('are an output only where out has them', () => {
    const b = batch('f32', shapes[0]!)
    expect(linearTokenLogprob(b.inputs)).not.toHaveProperty('logits')
    expect(linearTokenLogprob(b.inputs, { out: { logits: null } })).not.toHaveProperty('logits')
  })

  test('of another shape or dtype', () => {
    const b = batch('bf16', shapes[0]!)
    const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'logits' }
    const dtype = { error: TypeError, code: 'ERR_GRPO_DTYPE', argument: 'logits' }
    for (const [logits, error] of [
      [array(new Float32Array(14), [2, 7]), shape],
      [array(new Uint16Array(21), [3, 7], 'bf16'), dtype],
    ] as const) {
      refuses(() => linearTokenLogprob(b.inputs, { out: { logits: logits as HostArray<'f32'> } }), error)
      refuses(() => backward(b, {}, { logits }), error)
    }
  })
})
