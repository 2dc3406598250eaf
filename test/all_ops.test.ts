// Sweeps the table: what must hold for every operation, whoever wrote it.
import { afterEach, describe, expect, test } from 'vitest'
import { type DType, dtypes, type TypedArray } from '../lib/addon/dtypes.js'
import { native } from '../lib/addon/native.js'
import { operationNames, signatures } from '../lib/addon/signatures.js'
import { allocate, type HostArray } from '../lib/arrays/array.js'
import { call } from '../lib/call/run.js'
import { cpu } from '../lib/index.js'
import type { OperationName } from '../lib/ops.js'
import { backend, cpuTest } from './support/backend_kind.js'
import { identical, refuses } from './support/compare.js'
import { instructionSetNames } from './support/instruction_sets.js'
import { onlyOperations } from './support/only.js'
import { leftAlone, poisoned, poisons } from './support/poison.js'
import { refusal, type Sample, sample, sampled } from './support/samples.js'

type Outputs = Record<string, HostArray>
const run = (
  name: OperationName,
  { inputs, options, sizes }: Sample,
  out?: Record<string, HostArray | null>,
): Outputs =>
  call(name, inputs as never, { ...options, ...(out && { out }) } as never, sizes).now() as unknown as Outputs

const copy = (x: HostArray): HostArray => ({ ...x, data: x.data.slice() }) as HostArray
const dtypesOf = (name: OperationName): DType[] => {
  const several = signatures[name].inputs.find((spec) => spec.dtypes.length > 1)
  const any = signatures[name].inputs.some((spec) => spec.spec.startsWith('any'))
  return any ? [...dtypes] : several ? [...several.dtypes] : ['f32']
}
const threads = cpu.threads
const instructionSet = cpu.instructionSet
afterEach(() => {
  cpu.threads = threads
  cpu.instructionSet = instructionSet
})

/** A plan has no arrays that could lie on a device. */
const operations = onlyOperations(sampled).filter((name) => backend === 'cpu' || signatures[name].inputs.length > 0)

cpuTest.each(onlyOperations(operationNames))('%s can be called with its sample', (name) => {
  const why = refusal(name)
  const step = 'next step: what the row alone does not say of its inputs, in `special` of test/support/samples.ts'
  if (why !== undefined) expect.fail(`${name}: ${step}. With a sample made from the row: ${why}`)
})

describe.each(operations)('%s', (name) => {
  const { inputs, outputs, options } = signatures[name]

  describe.each(dtypesOf(name))('%s', (dtype) => {
    test('two runs, and any number of threads, give the same bits', () => {
      const expected = run(name, sample(name, dtype))
      for (const count of backend === 'cpu' ? [1, 2, 3, 7] : [1]) {
        cpu.threads = count
        const actual = run(name, sample(name, dtype))
        expect(Object.keys(actual)).toEqual(Object.keys(expected))
        for (const key of Object.keys(expected)) identical(actual[key] as HostArray, expected[key] as HostArray)
      }
    })

    cpuTest('every instruction set computes, and leaves the inputs alone', () => {
      for (const set of instructionSetNames) {
        if (!native.setInstructionSet(set)) continue
        const given = sample(name, dtype)
        const before = Object.fromEntries(Object.entries(given.inputs).map(([key, x]) => [key, copy(x)]))
        const result = run(name, given)
        for (const [key, x] of Object.entries(given.inputs)) identical(x, before[key] as HostArray)
        for (const x of Object.values(result)) {
          if (x.data instanceof Float32Array) expect(x.data.some(Number.isNaN), `NaN with ${set}`).toBe(false)
        }
      }
    })

    test('empty inputs give empty outputs', () => {
      const result = run(name, sample(name, dtype, true))
      for (const spec of outputs) {
        const x = result[spec.name]
        if (x !== undefined && spec.axes.some(({ letter, plus }) => letter !== '' && plus === 0)) {
          expect(x.data.length, spec.name).toBe(0)
        }
      }
      if (result.loss !== undefined) expect(result.loss.data[0]).toBe(0)
    })

    test.each(poisons)('writes into given outputs, and not a byte beside them: memory full of %i', (poison) => {
      const expected = run(name, sample(name, dtype))
      const given = Object.fromEntries(Object.entries(expected).map(([key, x]) => [key, poisoned(x, poison)]))
      const result = run(name, sample(name, dtype), given)
      for (const [key, x] of Object.entries(given)) {
        expect(result[key]?.data).toBe(x.data)
        identical(x, expected[key] as HostArray)
        expect(leftAlone(x, poison), key).toBe(true)
      }
    })

    test('says its path, and writes nothing for that', () => {
      const { inputs, options, sizes } = sample(name, dtype)
      const out = Object.fromEntries(Object.entries(run(name, sample(name, dtype))).map(([key, x]) => [key, copy(x)]))
      for (const x of Object.values(out)) x.data.fill(77)
      const { kernel, reason } = call(name, inputs as never, { ...options, out } as never, sizes).path()
      expect(kernel).toMatch(/^[a-z]\w+/)
      expect(reason).not.toBe('')
      for (const x of Object.values(out)) expect(x.data.every((value) => value === 77)).toBe(true)
    })

    test('leaves uncomputed what is not wanted', () => {
      const expected = run(name, sample(name, dtype))
      const keys = Object.keys(expected)
      const without = (unwanted: string[]) => {
        const result = run(name, sample(name, dtype), Object.fromEntries(unwanted.map((key) => [key, null])))
        expect(Object.keys(result)).toEqual(keys.filter((key) => !unwanted.includes(key)))
        for (const other of Object.keys(result)) identical(result[other] as HostArray, expected[other] as HostArray)
      }
      for (const key of keys) without([key])
      if (keys.length > 2) for (const key of keys) without(keys.filter((other) => other !== key))
      without(keys)
    })
  })

  test('wrong inputs are refused by name, and nothing is written', () => {
    const good = sample(name)
    const out = Object.fromEntries(Object.entries(run(name, good)).map(([key, x]) => [key, copy(x)]))
    for (const x of Object.values(out)) x.data.fill(77)
    const refusesInput = (
      argument: string,
      value: unknown,
      error: typeof TypeError | typeof RangeError,
      code: string,
    ) => {
      const bad = { ...good, inputs: { ...good.inputs, [argument]: value as HostArray } }
      refuses(() => run(name, bad, out), { error, code, argument })
      for (const x of Object.values(out)) expect(x.data.every((v) => v === 77)).toBe(true)
    }
    for (const spec of inputs) {
      const x = good.inputs[spec.name]
      if (x === undefined) continue
      refusesInput(spec.name, 'text', TypeError, 'ERR_GRPO_TYPE')
      const list = spec.dtypes.includes('i32') ? [1, {}] : [1, 2, 3] // ids, rows and offsets may be lists
      refusesInput(spec.name, list, TypeError, 'ERR_GRPO_TYPE')
      if (spec.dtypes.length > 0 || spec.like !== undefined) {
        refusesInput(
          spec.name,
          allocate('test', spec.name, x.dtype === 'u8' ? 'i32' : 'u8', [...x.shape]),
          TypeError,
          'ERR_GRPO_DTYPE',
        )
      }
      const first = spec.axes[0]
      const firstToMention = inputs.find(
        (s) => s.axes.some((axis) => axis.letter === first?.letter) && good.inputs[s.name],
      )
      if (firstToMention !== spec) {
        const longer = allocate('test', spec.name, x.dtype, [(x.shape[0] as number) + 1, ...x.shape.slice(1)])
        refusesInput(spec.name, longer, RangeError, 'ERR_GRPO_SHAPE')
      }
      refusesInput(spec.name, { ...x, shape: [...x.shape, 1, 1, 1, 1] }, TypeError, 'ERR_GRPO_TYPE')
      refusesInput(spec.name, { ...x, shape: x.shape.map((size) => size + 1) }, RangeError, 'ERR_GRPO_SHAPE')
      refusesInput(spec.name, { ...x, shape: [2 ** 31] }, RangeError, 'ERR_GRPO_SHAPE')
      if (x.data.length > 0) {
        const detached = copy(x)
        structuredClone(detached.data.buffer, { transfer: [detached.data.buffer as ArrayBuffer] })
        expect(() => run(name, { ...good, inputs: { ...good.inputs, [spec.name]: detached } })).toThrow()
      }
      if (!spec.optional) refusesInput(spec.name, undefined, TypeError, 'ERR_GRPO_MISSING')
    }
    refusesInput('noSuchInput', new Float32Array(1), TypeError, 'ERR_GRPO_OPTION')
  })

  /** The sample with its own options, and with each choice of one of them that it allows. */
  const variants = () => {
    const choices = options.flatMap((spec): [string, unknown][] => {
      if (spec.kind === 'boolean') return [[spec.name, !spec.fallback]]
      return spec.kind === 'enum' ? spec.choices.map((choice) => [spec.name, choice]) : []
    })
    return [[], ...choices.map((choice) => [choice])].flatMap((changed) => {
      const given = sample(name)
      const varied = { ...given, options: { ...given.options, ...Object.fromEntries(changed) } }
      try {
        run(name, varied)
        return [varied]
      } catch {
        return []
      }
    })
  }

  const masks = inputs.filter((spec) => spec.dtypes.join() === 'u8').map((spec) => spec.name)
  test.each(masks)('%s counts wherever it is not 0', (input) => {
    const all = variants()
    expect(all.length).toBeGreaterThan(0)
    for (const given of all) {
      const mask = given.inputs[input] as HostArray<'u8'>
      const data = mask.data.map((byte, i) => (byte === 0 ? 0 : [2, 128, 255][i % 3]!))
      expect(data.some((byte) => byte > 1)).toBe(true)
      const expected = run(name, given)
      const result = run(name, { ...given, inputs: { ...given.inputs, [input]: { ...mask, data } } })
      for (const key of Object.keys(expected)) identical(result[key] as HostArray, expected[key] as HostArray)
    }
  })

  test('with each choice of each option: any number of threads and any memory give the same bits', () => {
    for (const given of variants()) {
      const expected = run(name, given)
      for (const count of backend === 'cpu' ? [1, 3] : [1])
        for (const poison of poisons) {
          cpu.threads = count
          const out = Object.fromEntries(Object.entries(expected).map(([key, x]) => [key, poisoned(x, poison)]))
          const result = run(name, given, out)
          for (const key of Object.keys(expected)) identical(result[key] as HostArray, expected[key] as HostArray)
        }
    }
  })

  test('what is undefined is left out', () => {
    const { inputs: given, options: chosen, sizes } = sample(name)
    const absent = (specs: readonly { name: string }[], known: object) =>
      Object.fromEntries(specs.filter((spec) => !(spec.name in known)).map((spec) => [spec.name, undefined]))
    const all = { inputs: { ...given, ...absent(inputs, given) }, options: { ...chosen, ...absent(options, chosen) } }
    const expected = run(name, sample(name))
    const result = run(name, { ...all, sizes } as Sample, absent(outputs, {}) as never)
    expect(Object.keys(result)).toEqual(Object.keys(expected))
    for (const key of Object.keys(expected)) identical(result[key] as HostArray, expected[key] as HostArray)
  })

  test('offsets and ids are held to their range', () => {
    const good = sample(name)
    for (const spec of inputs) {
      const x = good.inputs[spec.name]
      if (x === undefined || x.data.length === 0) continue
      const poke = (value: number, at = 0) => {
        const bad = copy(x)
        bad.data[at] = value
        const inputs = { ...good.inputs, [spec.name]: bad }
        if (spec.offsets === undefined) delete inputs.mask // ids under a mask are not looked at
        refuses(() => run(name, { ...good, inputs }), {
          error: RangeError,
          code: 'ERR_GRPO_VALUE',
          argument: spec.name,
        })
      }
      if (spec.offsets !== undefined) {
        poke(1)
        poke(2 ** 30, x.data.length - 1)
        poke(-1, x.data.length - 1)
        // The last one falls, though it is the end that it should be.
        if (x.data.length > 2) poke(2 ** 30, x.data.length - 2)
      }
      if (/below|vocabulary/.test(spec.spec)) {
        poke(-1)
        poke(2 ** 31 - 1)
      }
    }
  })

  test('wrong options are refused by name', () => {
    const good = sample(name)
    const refusesOption = (argument: string, value: unknown, error: typeof TypeError | typeof RangeError) =>
      refuses(() => run(name, { ...good, options: { ...good.options, [argument]: value } }), {
        error,
        code: error === TypeError && argument !== 'noSuchOption' ? 'ERR_GRPO_TYPE' : 'ERR_GRPO_OPTION',
        argument,
      })
    for (const spec of options) {
      refusesOption(spec.name, Symbol('x'), TypeError)
      refusesOption(spec.name, {}, TypeError)
      if (spec.kind === 'enum') refusesOption(spec.name, 'no such choice', RangeError)
      if (spec.kind === 'number' || spec.kind === 'integer') {
        refusesOption(spec.name, '1', TypeError)
        refusesOption(spec.name, Number.NaN, RangeError)
        refusesOption(spec.name, Number.POSITIVE_INFINITY, RangeError)
        if (!spec.nullable) refusesOption(spec.name, null, TypeError)
      }
      if (spec.kind === 'integer') refusesOption(spec.name, 0.5, RangeError)
      if (spec.kind === 'integer') refusesOption(spec.name, -2, RangeError)
      if (/> 0/.test(spec.spec)) refusesOption(spec.name, 0, RangeError)
      // What a kernel narrows to float32, and where it divides by it.
      if (/^number.* f32/.test(spec.spec)) for (const size of [1e39, 3.5e38]) refusesOption(spec.name, size, RangeError)
      if (/ f32 inverse/.test(spec.spec)) for (const size of [1e-39, 1e38]) refusesOption(spec.name, size, RangeError)
      if (/ inverse/.test(spec.spec)) for (const size of [5e-324, 1e-39]) refusesOption(spec.name, size, RangeError)
      const [, most] = /\.\.(\d+)/.exec(spec.spec) ?? []
      if (most !== undefined) for (const size of [Number(most) + 1, 2 ** 50]) refusesOption(spec.name, size, RangeError)
      if (/>= 0|> 0|0\.\.1/.test(spec.spec)) refusesOption(spec.name, -0.5, RangeError)
    }
    refusesOption('noSuchOption', 1, TypeError)
  })

  // On a device: device_array.test.ts. Host arrays that overlap are copied to device arrays that do not.
  cpuTest('outputs overlap nothing', () => {
    const good = sample(name)
    const result = run(name, good)
    for (const output of outputs) {
      const x = result[output.name]
      if (x === undefined || x.data.byteLength === 0) continue
      for (const input of inputs) {
        const y = good.inputs[input.name]
        if (y === undefined || y.data.byteLength === 0 || output.over === input.name) continue
        const size = Math.max(x.data.byteLength + 8, y.data.byteLength)
        const buffer = new ArrayBuffer(size)
        const view = (model: HostArray) =>
          ({
            ...model,
            data: new (model.data.constructor as new (b: ArrayBuffer, o: number, n: number) => TypedArray)(
              buffer,
              0,
              model.data.length,
            ),
          }) as HostArray
        const shared = view(y)
        shared.data.set(y.data)
        refuses(
          () => run(name, { ...good, inputs: { ...good.inputs, [input.name]: shared } }, { [output.name]: view(x) }),
          {
            error: RangeError,
            code: 'ERR_GRPO_VALUE',
            argument: output.name,
          },
        )
      }
    }
  })
})
