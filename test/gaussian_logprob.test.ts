import { describe, expect, test } from 'vitest'
import { array, cpu, gaussianLogprob, gaussianLogprobBackward } from '../lib/index.js'
import { type Case, reference } from './references/gaussian_logprob.js'
import { accurate, close, identical, refuses } from './support/compare.js'
import { random } from './support/random.js'

/** Rows of D with standard deviations from 0.05 to 2, a mean near its sample and the old mean near that. */
function rows(T: number, D: number, seed = 1) {
  const r = random(seed)
  const std = r.uniforms(T, 0.05, 2)
  const oldMean = r.normals(T * D)
  const x = oldMean.map((value, i) => value + std[Math.floor(i / D)]! * r.normal())
  const mean = oldMean.map((value) => value + 0.1 * r.normal())
  return {
    x: array(x, [T, D]),
    mean: array(mean, [T, D]),
    std: array(std),
    oldMean: array(oldMean, [T, D]),
    mask: array(r.mask(T)),
    gradLogp: array(r.normals(T)),
    gradLogRatio: array(r.normals(T)),
  }
}
type Rows = ReturnType<typeof rows>
const caseOf = ({ x, mean, std, oldMean, mask }: Omit<Rows, 'gradLogp'>): Case => ({
  x: x.data, mean: mean.data, std: std.data, oldMean: oldMean.data, mask: mask?.data,
}) // biome-ignore format: a line
const forward = ({ gradLogp, gradLogRatio, ...inputs }: Rows) => gaussianLogprob(inputs)

// From three implementations that agree (TeleBoost, verl-omni, Pref-GRPO), at s = sigma sqrt(dt) = 0.14.
const guard = {
  mean: [0.12, -0.25, 0.33],
  oldMean: [0.1, -0.2, 0.3],
  x: [0.1 + 0.14 * 0.5, -0.2 - 0.14, 0.3 + 0.14 * 0.25],
  std: [0.14],
}

describe('against float64', () => {
  test.each([
    ['rows shorter than a vector', 40, 3],
    ['rows of vectors and a rest', 9, 77],
    ['rows of several blocks', 3, 40_001],
  ])('%s', (_, T, D) => {
    const inputs = rows(T, D)
    for (const mask of [undefined, inputs.mask]) {
      const given = { ...inputs, mask } as Rows
      const [exact, plain] = [(v: number) => v, Math.fround].map((round) =>
        reference(caseOf(given), D, inputs.gradLogp.data, inputs.gradLogRatio.data, round),
      )
      const { logp, logRatio } = forward(given)
      accurate(logp, exact!.logp, plain!.logp)
      accurate(logRatio!, exact!.logRatio, plain!.logRatio)
      accurate(gaussianLogprobBackward(given).gradMean, exact!.gradMean, plain!.gradMean)
    }
  })

  test('the gradient is that of central differences', () => {
    const [T, D] = [4, 5]
    const inputs = rows(T, D, 3)
    const [gradLogp, gradLogRatio] = [inputs.gradLogp.data, inputs.gradLogRatio.data]
    const loss = (moved: number, by: number) => {
      const c = caseOf(inputs)
      const mean = Array.from(c.mean, (value, i) => (i === moved ? value + by : value))
      const { logp, logRatio } = reference({ ...c, mean }, D, gradLogp, gradLogRatio)
      return logp.reduce((sum, value, t) => sum + gradLogp[t]! * value + gradLogRatio[t]! * logRatio[t]!, 0)
    }
    const step = 1e-5
    const { gradMean } = gaussianLogprobBackward(inputs)
    close(
      gradMean.data,
      Array.from({ length: T * D }, (_, i) => (loss(i, step) - loss(i, -step)) / (2 * step)),
      1e-6,
    )
  })
})

describe('golden numbers', () => {
  test('GRPO-Guard: logp of both policies, and the regulated log-ratio', () => {
    const none = [0]
    close(reference(guard, 3, none, none).logp, [0.956825683712378], 1e-14)
    close(reference({ ...guard, mean: guard.oldMean }, 3, none, none).logp, [0.8284243231681604], 1e-14)
    close(reference(guard, 3, none, none).logRatio, [0.0225], 1e-14)
  })
  test('it is std (log r + bias), and 0 where the policy has not moved', () => {
    const inputs = rows(6, 50, 4)
    const { mask, gradLogp, gradLogRatio, ...all } = inputs
    const [now, before] = [gaussianLogprob(all), gaussianLogprob({ ...all, mean: inputs.oldMean })]
    const regulated = Array.from(inputs.std.data, (std, t) => {
      const moved = Array.from(
        { length: 50 },
        (_, d) => inputs.mean.data[50 * t + d]! - inputs.oldMean.data[50 * t + d]!,
      )
      const bias = moved.reduce((sum, v) => sum + v * v, 0) / 50 / (2 * std * std)
      return std * (now.logp.data[t]! - before.logp.data[t]! + bias)
    })
    // The two log-probabilities come rounded to float32: their difference is exact to a digit of the larger.
    const largest = Math.max(...Array.from(now.logp.data, Math.abs), ...Array.from(before.logp.data, Math.abs))
    Array.from(now.logRatio!.data).forEach((value, t) => {
      expect(Math.abs(value - regulated[t]!)).toBeLessThan(inputs.std.data[t]! * largest * 2 ** -23)
    })
    expect(before.logRatio!.data.every((value) => value === 0)).toBe(true)
  })
})

describe('masks, absences and numbers that are none', () => {
  test('a masked row may hold anything, and gets 0', () => {
    const [T, D] = [8, 20]
    const clean = rows(T, D, 5)
    const expected = { ...forward(clean), ...gaussianLogprobBackward(clean) }
    for (const junk of [Number.NaN, Infinity, 3e38]) {
      const dirty = Object.fromEntries(
        Object.entries(clean).map(([name, x]) => {
          if (name === 'mask') return [name, x]
          const width = x.data.length / T
          return [
            name,
            array(
              Float32Array.from(x.data, (v, i) => (clean.mask.data[Math.floor(i / width)] ? v : junk)),
              [...x.shape],
            ),
          ]
        }),
      ) as unknown as Rows
      const { logp, logRatio, gradMean } = { ...forward(dirty), ...gaussianLogprobBackward(dirty) }
      identical(logp, expected.logp)
      identical(logRatio!, expected.logRatio!)
      identical(gradMean, expected.gradMean)
    }
    clean.mask.data.forEach((live, t) => {
      if (!live) expect(Object.is(expected.logp.data[t], 0) && Object.is(expected.logRatio!.data[t], 0)).toBe(true)
      if (!live) expect(expected.gradMean.data.slice(t * D, t * D + D).every((v) => Object.is(v, 0))).toBe(true)
    })
  })

  test('NaN, and a std that is not positive, spoil their row alone', () => {
    const D = 20
    const { mask, ...clean } = rows(4, D, 6)
    const all = {
      ...gaussianLogprob({ x: clean.x, mean: clean.mean, std: clean.std, oldMean: clean.oldMean }),
      ...gaussianLogprobBackward(clean),
    }
    for (const std of [0, -1, Number.NaN]) {
      const spoilt = { ...clean, std: array(clean.std.data.map((v, t) => (t === 1 ? std : v))) }
      const { gradLogp, gradLogRatio, ...inputs } = spoilt
      const { logp, logRatio } = gaussianLogprob(inputs)
      for (const [actual, expected] of [[logp, all.logp], [logRatio!, all.logRatio!]] as const) // biome-ignore format: short
        expect([...actual.data]).toEqual(Array.from(expected.data, (v, t) => (t === 1 ? Number.NaN : v)))
      const { gradMean } = gaussianLogprobBackward(spoilt)
      expect([...gradMean.data]).toEqual(
        Array.from(all.gradMean.data, (v, i) => (Math.floor(i / D) === 1 ? Number.NaN : v)),
      )
    }
  })

  test('one gradient alone; a row whose gradients are 0 is not read', () => {
    const { gradLogp, gradLogRatio, mask, ...inputs } = rows(3, 10, 7)
    const zero = new Float32Array(3)
    const one = gaussianLogprobBackward({ ...inputs, gradLogp })
    const alone = (ofLogp: Float32Array, ofRatio: Float32Array, round?: typeof Math.fround) =>
      reference(caseOf({ ...inputs, gradLogRatio, mask: undefined as never }), 10, ofLogp, ofRatio, round).gradMean
    accurate(one.gradMean, alone(gradLogp.data, zero), alone(gradLogp.data, zero, Math.fround))
    identical(one.gradMean, gaussianLogprobBackward({ ...inputs, gradLogp, gradLogRatio: zero }).gradMean)
    const { oldMean, ...without } = inputs
    identical(one.gradMean, gaussianLogprobBackward({ ...without, gradLogp }).gradMean)
    const two = gaussianLogprobBackward({ ...inputs, gradLogRatio })
    accurate(two.gradMean, alone(zero, gradLogRatio.data), alone(zero, gradLogRatio.data, Math.fround))
    identical(two.gradMean, gaussianLogprobBackward({ ...inputs, gradLogp: zero, gradLogRatio }).gradMean)
    // Nor is its old mean, where it has no gradient of the log-ratio.
    const unread = { ...inputs, oldMean: array(new Float32Array(30).fill(Number.NaN), [3, 10]) }
    identical(one.gradMean, gaussianLogprobBackward({ ...unread, gradLogp, gradLogRatio: zero }).gradMean)
    const nothing = { ...inputs, x: array(new Float32Array(30).fill(Number.NaN), [3, 10]), gradLogp: zero }
    expect(gaussianLogprobBackward(nothing).gradMean.data.every((v) => Object.is(v, 0))).toBe(true)
  })

  test('without oldMean there is no logRatio; without dimensions or rows there is nothing', () => {
    const { oldMean, gradLogp, gradLogRatio, ...without } = rows(4, 30)
    expect(gaussianLogprob(without)).not.toHaveProperty('logRatio')
    identical(gaussianLogprob(without).logp, gaussianLogprob({ ...without, oldMean }).logp)
    const flat = array(new Float32Array(0), [2, 0])
    const empty = { x: flat, mean: flat, oldMean: flat, std: Float32Array.of(1, 1) }
    expect([...gaussianLogprob(empty).logp.data, ...gaussianLogprob(empty).logRatio!.data]).toEqual([0, 0, 0, 0])
  })

  test('a gradient without what it is of', () => {
    const { gradLogp, gradLogRatio, oldMean, ...inputs } = rows(2, 3)
    const missing = { error: TypeError, code: 'ERR_GRPO_MISSING' }
    refuses(() => gaussianLogprobBackward(inputs), { ...missing, argument: 'gradLogp', message: /gradLogRatio/ })
    refuses(() => gaussianLogprobBackward({ ...inputs, gradLogRatio }), { ...missing, argument: 'oldMean' })
  })
})

test('a row gets the same bits wherever it stands, on any number of threads', () => {
  const D = 40_001
  const inputs = rows(3, D, 8)
  const only = <X extends { data: Float32Array | Uint8Array; shape: readonly number[] }>(x: X) =>
    ({ ...x, shape: [1, ...x.shape.slice(1)], data: x.data.slice((2 * x.data.length) / 3) }) as X
  const { mask, ...tokens } = inputs
  const last = Object.fromEntries(Object.entries(tokens).map(([name, x]) => [name, only(x)])) as unknown as Rows
  const before = cpu.threads
  for (const threads of [1, 3]) {
    cpu.threads = threads
    const { logp, logRatio } = gaussianLogprob({
      x: inputs.x,
      mean: inputs.mean,
      std: inputs.std,
      oldMean: inputs.oldMean,
    })
    identical(only(logp), forward(last).logp)
    identical(only(logRatio!), forward(last).logRatio!)
    identical(only(gaussianLogprobBackward(tokens).gradMean), gaussianLogprobBackward(last).gradMean)
  }
  cpu.threads = before
})
