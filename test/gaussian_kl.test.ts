import { describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import { array, cpu, gaussianKl, gaussianKlBackward, gaussianLogprob } from '../lib/index.js'
import { type Case, reference } from './references/gaussian_kl.js'
import { cpuTest } from './support/backend_kind.js'
import { accurate, close, identical, refuses } from './support/compare.js'
import { instructionSetNames } from './support/instruction_sets.js'
import { random } from './support/random.js'

/** Rows of D with standard deviations from 0.05 to 2, and a mean near that of the reference. */
function rows(T: number, D: number, seed = 1) {
  const r = random(seed)
  const refMean = r.normals(T * D)
  return {
    mean: array(
      refMean.map((value) => value + 0.1 * r.normal()),
      [T, D],
    ),
    refMean: array(refMean, [T, D]),
    std: array(r.uniforms(T, 0.05, 2)),
    mask: array(r.mask(T)),
    gradKl: array(r.normals(T)),
  }
}
type Rows = ReturnType<typeof rows>
const caseOf = ({ mean, refMean, std, mask }: Omit<Rows, 'gradKl'>): Case => ({
  mean: mean.data, refMean: refMean.data, std: std.data, mask: mask?.data,
}) // biome-ignore format: a line
const ofForward = ({ gradKl, ...inputs }: Rows) => inputs
const forward = (given: Rows) => gaussianKl(ofForward(given)).kl
const isZero = (x: Float32Array) => x.every((value) => Object.is(value, 0))

function checkAgainstFloat64(inputs: Rows, D: number): void {
  for (const mask of [undefined, inputs.mask]) {
    const given = { ...inputs, mask } as Rows
    const [exact, plain] = [(v: number) => v, Math.fround].map((round) =>
      reference(caseOf(given), D, inputs.gradKl.data, round),
    )
    accurate(forward(given), exact!.kl, plain!.kl)
    accurate(gaussianKlBackward(given).gradMean, exact!.gradMean, plain!.gradMean)
  }
}

describe('against float64', () => {
  test.each([
    ['rows of one dimension', 40, 1],
    ['rows shorter than a vector', 40, 7],
    ['rows of vectors and a rest', 9, 513],
    ['rows of several blocks', 3, 40_001],
  ])('%s', (_, T, D) => {
    checkAgainstFloat64(rows(T, D), D)
  })

  cpuTest('with every instruction set', () => {
    const before = cpu.instructionSet
    for (const name of instructionSetNames) {
      if (!native.setInstructionSet(name)) continue
      expect(gaussianKl.path(ofForward(rows(1, 1))).kernel).toBe(`gaussian_kl (${name})`)
      for (const D of [1, 7, 513]) checkAgainstFloat64(rows(5, D, 2), D)
    }
    cpu.instructionSet = before
  })

  test('more rows than 16 bits count', () => {
    checkAgainstFloat64(rows(65_600, 1, 12), 1)
  })

  test('the gradient is that of central differences', () => {
    const [T, D] = [4, 5]
    const inputs = rows(T, D, 3)
    const gradKl = inputs.gradKl.data
    const loss = (moved: number, by: number) => {
      const c = caseOf(inputs)
      const mean = Array.from(c.mean, (value, i) => (i === moved ? value + by : value))
      return reference({ ...c, mean }, D, gradKl).kl.reduce((sum, value, t) => sum + gradKl[t]! * value, 0)
    }
    const step = 1e-5
    close(
      gaussianKlBackward(inputs).gradMean.data,
      Array.from({ length: T * D }, (_, i) => (loss(i, step) - loss(i, -step)) / (2 * step)),
      1e-6,
    )
  })
})

test('golden numbers: by hand', () => {
  // ((1 - 0)^2 + (3 - 1)^2) / 2 / (2 0.5^2) = 5, and nothing where the means agree.
  const inputs = { mean: array(Float32Array.of(1, 3, 2, 2), [2, 2]), refMean: array(Float32Array.of(0, 1, 2, 2), [2, 2]), std: Float32Array.of(0.5, 1) } // biome-ignore format: one list
  expect([...gaussianKl(inputs).kl.data]).toEqual([5, 0])
  const { gradMean } = gaussianKlBackward({ ...inputs, gradKl: Float32Array.of(1, 1) }, { gradScale: -2 })
  expect(Array.from(gradMean.data, (value) => value + 0)).toEqual([-4, -8, 0, 0])
})

test('it is the mean of logp - refLogp over what the policy samples', () => {
  // Of two dimensions at mean +- std, the mean of the difference of log-densities is exact, since they are quadratic.
  const [std, mean, refMean] = [0.5, [1, 3], [0.5, 2.5]]
  const samples = [-1, 1].flatMap((a) => [-1, 1].flatMap((b) => [mean[0]! + a * std, mean[1]! + b * std]))
  const all = (x: number[]) =>
    array(
      Float32Array.from({ length: 8 }, (_, i) => x[i % 2]!),
      [4, 2],
    )
  const x = array(Float32Array.from(samples), [4, 2])
  const deviations = new Float32Array(4).fill(std)
  const [logp, refLogp] = [mean, refMean].map(
    (center) => gaussianLogprob({ x, mean: all(center), std: deviations }).logp.data,
  )
  const average = logp!.reduce((sum, value, t) => sum + value - refLogp![t]!, 0) / 4
  const { kl } = gaussianKl({ mean: all(mean), refMean: all(refMean), std: deviations })
  // The log-densities come rounded to float32, of which the largest is below 4.
  expect(Math.abs(kl.data[0]! - average)).toBeLessThan(4 * 2 ** -23)
  expect(kl.data[0]).toBe(0.5)
})

describe('masks, absences and numbers that are none', () => {
  test('a masked row may hold anything, and gets 0', () => {
    const [T, D] = [8, 20]
    const clean = rows(T, D, 5)
    const expected = { kl: forward(clean), ...gaussianKlBackward(clean) }
    for (const junk of [Number.NaN, Infinity, 3e38]) {
      const dirty = Object.fromEntries(
        Object.entries(clean).map(([name, x]) => {
          if (name === 'mask') return [name, x]
          const width = x.data.length / T
          const data = Float32Array.from(x.data, (v, i) => (clean.mask.data[Math.floor(i / width)] ? v : junk))
          return [name, array(data, [...x.shape])]
        }),
      ) as unknown as Rows
      identical(forward(dirty), expected.kl)
      identical(gaussianKlBackward(dirty).gradMean, expected.gradMean)
    }
    expect(clean.mask.data).toContain(0)
    clean.mask.data.forEach((live, t) => {
      if (live) return
      expect(isZero(expected.kl.data.subarray(t, t + 1))).toBe(true)
      expect(isZero(expected.gradMean.data.subarray(t * D, t * D + D))).toBe(true)
    })
  })

  test('NaN, infinity, and a std that is not positive, spoil their row alone', () => {
    const D = 20
    const { mask, ...clean } = rows(4, D, 6)
    const all = { kl: forward(clean as Rows), ...gaussianKlBackward(clean) }
    const spoil = (x: Rows['mean'], at: number, by: number) => ({
      ...x,
      data: x.data.map((v, i) => (i === at ? by : v)),
    })
    const inRow = (value: number, x: Float32Array, width: number) =>
      Array.from(x, (v, i) => (Math.floor(i / width) === 1 ? value : v))
    for (const std of [0, -1, Number.NaN]) {
      const spoilt = { ...clean, std: array(spoil(clean.std, 1, std).data) }
      expect([...forward(spoilt as Rows).data]).toEqual(inRow(Number.NaN, all.kl.data, 1))
      expect([...gaussianKlBackward(spoilt).gradMean.data]).toEqual(inRow(Number.NaN, all.gradMean.data, D))
    }
    for (const [value, kl] of [
      [Number.NaN, Number.NaN],
      [Infinity, Infinity],
      [-Infinity, Infinity],
    ] as const) {
      const spoilt = { ...clean, mean: array(spoil(clean.mean, D + 3, value).data, [4, D]) }
      expect([...forward(spoilt as Rows).data]).toEqual(inRow(kl, all.kl.data, 1))
      const gradient = Array.from(all.gradMean.data, (v, i) =>
        i === D + 3 ? value * Math.sign(clean.gradKl.data[1]!) : v,
      )
      expect([...gaussianKlBackward(spoilt).gradMean.data]).toEqual(gradient)
    }
  })

  test('a row whose gradient is 0 is not read', () => {
    const { mask, ...inputs } = rows(3, 10, 7)
    const nothing = {
      ...inputs,
      refMean: array(new Float32Array(30).fill(Number.NaN), [3, 10]),
      gradKl: new Float32Array(3),
    }
    expect(isZero(gaussianKlBackward(nothing).gradMean.data)).toBe(true)
  })

  test('without rows or dimensions there is nothing', () => {
    const flat = array(new Float32Array(0), [2, 0])
    const empty = { mean: flat, refMean: flat, std: Float32Array.of(1, Number.NaN) }
    expect([...gaussianKl(empty).kl.data]).toEqual([0, 0])
    expect(gaussianKlBackward({ ...empty, gradKl: Float32Array.of(1, 1) }).gradMean.shape).toEqual([2, 0])
    const none = array(new Float32Array(0), [0, 7])
    expect(gaussianKl({ mean: none, refMean: none, std: new Float32Array(0) }).kl.shape).toEqual([0])
    expect(gaussianKl({ mean: none, refMean: none, std: new Float32Array(0) }, { out: { kl: null } })).toEqual({})
  })

  test('shapes that differ, a gradient that is missing', () => {
    const { gradKl, mask, ...inputs } = rows(2, 3)
    const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE' }
    refuses(() => gaussianKl({ ...inputs, refMean: rows(2, 4).refMean }), { ...shape, argument: 'refMean' })
    refuses(() => gaussianKl({ ...inputs, std: new Float32Array(3) }), { ...shape, argument: 'std' })
    refuses(() => gaussianKl({ ...inputs, mask: new Uint8Array(1) }), { ...shape, argument: 'mask' })
    refuses(() => gaussianKlBackward(inputs as never), {
      error: TypeError,
      code: 'ERR_GRPO_MISSING',
      argument: 'gradKl',
    })
    refuses(() => gaussianKlBackward({ ...inputs, gradKl }, { accumulate: true }), { error: TypeError, code: 'ERR_GRPO_MISSING', argument: 'gradMean' }) // biome-ignore format: one call
  })
})

describe('accumulate', () => {
  const [T, D] = [5, 513]
  const inputs = rows(T, D, 9)
  const held = random(10).normals(T * D)

  test('adds to what is there, rounded once', () => {
    const out = { gradMean: array(held.slice(), [T, D]) }
    const [exact, plain] = [(v: number) => v, Math.fround].map((round) =>
      reference(caseOf(inputs), D, inputs.gradKl.data, round).gradMean.map((v, i) => round(held[i]! + v)),
    )
    accurate(gaussianKlBackward(inputs, { accumulate: true, out }).gradMean, exact!, plain!)
  })

  test('what is masked, and rows without a gradient, stay as they are', () => {
    const anything = held.map((v, i) => (i % 7 === 0 ? Number.NaN : v))
    const nothing = [
      { ...inputs, mask: new Uint8Array(T) },
      { ...inputs, gradKl: new Float32Array(T) },
    ]
    for (const given of nothing) {
      const out = { gradMean: array(anything.slice(), [T, D]) }
      identical(gaussianKlBackward(given, { accumulate: true, out }).gradMean, array(anything, [T, D]))
    }
  })
})

test('a row gets the same bits wherever it stands, on any number of threads', () => {
  const [T, D] = [3, 40_001]
  const { mask, ...inputs } = rows(T, D, 8)
  const last = {
    mean: array(inputs.mean.data.slice(2 * D), [1, D]),
    refMean: array(inputs.refMean.data.slice(2 * D), [1, D]),
    std: inputs.std.data.slice(2),
    gradKl: inputs.gradKl.data.slice(2),
  }
  const before = cpu.threads
  for (const threads of [1, 3]) {
    cpu.threads = threads
    expect(forward(inputs as Rows).data.slice(2)).toEqual(forward(last as never).data)
    expect(gaussianKlBackward(inputs).gradMean.data.slice(2 * D)).toEqual(gaussianKlBackward(last).gradMean.data)
  }
  cpu.threads = before
})
