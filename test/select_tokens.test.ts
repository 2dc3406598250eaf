import { afterEach, describe, expect, test } from 'vitest'
import { cpu, type SelectTokensOptions, selectTokens } from '../lib/index.js'
import { howMany, type Inputs, reference } from './references/select_tokens.js'
import { cpuTest } from './support/backend_kind.js'
import { identical, refuses } from './support/compare.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

const run = (inputs: Inputs, options: SelectTokensOptions) => Array.from(selectTokens(inputs, options).mask.data)
const threads = cpu.threads
afterEach(() => {
  cpu.threads = threads
})

describe('golden: D3S', () => {
  const probabilities = [
    [0.7, 0.2, 0.1],
    [0.34, 0.33, 0.33],
    [0.98, 0.01, 0.01],
    [0.5, 0.5, 0],
    [0.9, 0.05, 0.05],
    [1, 0, 0],
  ]
  const entropy = Float32Array.from(probabilities, (row) => row.reduce((h, p) => h - (p > 0 ? p * Math.log(p) : 0), 0))
  const inputs = {
    advantage: new Float32Array([1.5, -0.5]),
    entropy,
    sequenceStart: new Int32Array([0, 3, 6]),
    mask: new Uint8Array([1, 1, 1, 1, 1, 0]),
  }
  test('40% and 60% of five tokens', () => {
    expect(run(inputs, { fraction: 0.4 })).toEqual([1, 1, 0, 0, 0, 0])
    expect(run(inputs, { fraction: 0.6 })).toEqual([1, 1, 0, 1, 0, 0])
  })
  test('per sequence', () => {
    expect(run(inputs, { fraction: 0.5, scope: 'sequence' })).toEqual([1, 1, 0, 1, 0, 0])
  })
})

describe('against sorting', () => {
  const T = 20_000 // counted by bins; each sequence, and a batch of less, is partitioned
  const r = random(11)
  const starts = [0, ...Array.from({ length: 40 }, () => r.integer(T + 1)).sort((a, b) => a - b), T, T]
  const sequenceStart = Int32Array.from(starts)
  const advantage = r.normals(starts.length - 1)
  const tokenAdvantage = r.normals(T)
  const entropy = r.uniforms(T, 0, 3)
  const coarse = entropy.map((h) => Math.round(h))
  const mask = r.mask(T)
  const cases: [string, Partial<Inputs>, SelectTokensOptions['rule']][] = [
    ['advantage per sequence', { advantage, entropy }, 'advantage_entropy'],
    ['advantage per token', { tokenAdvantage, entropy, mask }, 'advantage_entropy'],
    ['ties', { advantage: advantage.map(Math.sign), entropy: coarse, mask }, 'advantage_entropy'],
    ['entropy', { entropy, mask }, 'entropy'],
    ['entropy, advantage not looked at', { advantage: advantage.map(() => Number.NaN), entropy }, 'entropy'],
    ['negative and positive scores', { entropy: tokenAdvantage }, 'entropy'],
    ['|advantage| per sequence', { advantage, mask }, 'advantage'],
    ['|advantage| per token', { tokenAdvantage }, 'advantage'],
  ]
  describe.each(cases)('%s', (_, given, rule) => {
    test.each<SelectTokensOptions>([
      { fraction: 0.2 },
      { fraction: 0 },
      { fraction: 1 },
      { count: 5_432 },
      { count: 1 },
      { fraction: 0.2, scope: 'sequence' },
      { count: 100, scope: 'sequence' },
    ])('%j', (o) => {
      const inputs = { sequenceStart, ...given } as Inputs
      const expected = { dtype: 'u8', shape: [T], data: Uint8Array.from(reference(inputs, { ...o, rule })) } as const
      identical(selectTokens(inputs, { ...o, rule }).mask, expected)
    })
  })

  cpuTest('the same with any number of threads', () => {
    const inputs = { tokenAdvantage, entropy: coarse, mask, sequenceStart }
    for (const options of [{ fraction: 0.3 }, { fraction: 0.3, scope: 'sequence' } as const]) {
      cpu.threads = 1
      const expected = selectTokens(inputs, options).mask
      cpu.threads = 3
      identical(selectTokens(inputs, options).mask, expected)
    }
  })

  test('a share of many tokens is rounded as float64 does', () => {
    for (const fraction of [0.1, 0.2, 0.3, 0.7, 1 / 3]) {
      const kept = run({ entropy, sequenceStart }, { fraction, rule: 'entropy' })
      expect(kept.filter((v) => v === 1).length).toBe(howMany(T, { fraction }))
    }
  })
})

describe('edges', () => {
  const tokens = (entropy: number[], o: SelectTokensOptions, mask?: number[]) =>
    run(
      {
        entropy: Float32Array.from(entropy),
        sequenceStart: new Int32Array([0, entropy.length]),
        mask: mask && Uint8Array.from(mask),
      },
      { rule: 'entropy', ...o },
    )
  const large = (pattern: number[]) => Array.from({ length: 30_000 }, (_, t) => pattern[t % pattern.length] as number)

  test('no tokens, empty sequences, all masked', () => {
    expect(tokens([], { fraction: 1 })).toEqual([])
    const sequenceStart = new Int32Array([0, 0, 2, 2])
    expect(
      run({ entropy: new Float32Array([1, 2]), sequenceStart }, { rule: 'entropy', count: 1, scope: 'sequence' }),
    ).toEqual([0, 1])
    expect(tokens([1, 2], { fraction: 1 }, [0, 0])).toEqual([0, 0])
    expect(tokens([1, 2], { count: 1, scope: 'sequence' }, [0, 0])).toEqual([0, 0])
  })
  test('a fraction that float64 rounds up: 0.07 of 100 is 7.000000000000001, and keeps 7', () => {
    for (const [fraction, count] of [[0.07, 7], [0.07 + 1e-10, 8]] as const) // biome-ignore format: one line
      expect(tokens(Array<number>(100).fill(1), { fraction }).reduce((a, b) => a + b, 0)).toBe(count)
  })
  test('count 0 keeps nothing, fraction 0 one token, a count above the size all', () => {
    expect(tokens([1, 2, 3], { count: 0 })).toEqual([0, 0, 0])
    expect(tokens([1, 2, 3], { fraction: 0 })).toEqual([0, 0, 1])
    for (const count of [9, 2 ** 31, 2 ** 32 + 1, 2 ** 52]) expect(tokens([1, 0, 3], { count })).toEqual([1, 1, 1])
    expect(tokens(large([1, 2]), { count: 0 }).every((v) => v === 0)).toBe(true)
  })
  test('of very many equal scores the first, to the last but one', () => {
    for (const T of [30_007, 32_769, 40_960]) {
      for (const count of [T - 1, T - 3]) {
        const kept = tokens(Array<number>(T).fill(2), { count })
        expect([kept.lastIndexOf(1), kept.indexOf(0)]).toEqual([count - 1, count])
      }
    }
  })
  test('all scores zero keep nothing; one that is not makes zeros eligible', () => {
    expect(tokens([0, -0, 0], { fraction: 1 })).toEqual([0, 0, 0])
    expect(tokens([0, -0, 0, 1], { count: 3 })).toEqual([1, 1, 0, 1])
    expect(tokens([0, 0, 5], { count: 2 }, [1, 1, 0])).toEqual([0, 0, 0])
    // What is no candidate, masked or NaN, does not make them eligible.
    for (const many of [large, (pattern: number[]) => pattern]) {
      expect(tokens(many([0, -0]), { fraction: 0.5 })).not.toContain(1)
      expect(tokens(many([0, Number.NaN, -0]), { fraction: 0.5 })).not.toContain(1)
      expect(tokens(many([0, -0, 5]), { fraction: 0.5 }, many([1, 1, 0]))).not.toContain(1)
    }
    const zero = { advantage: new Float32Array([0, 2]), entropy: new Float32Array([1, 1, 1, 3]) }
    const sequenceStart = new Int32Array([0, 2, 4])
    expect(run({ ...zero, sequenceStart }, { count: 1, scope: 'sequence' })).toEqual([0, 0, 0, 1])
  })
  test('NaN is never kept but counts in n; infinity is the highest score', () => {
    const { NaN: nan, POSITIVE_INFINITY: infinity } = Number
    expect(tokens([nan, 1, -nan, 2], { fraction: 0.5 })).toEqual([0, 1, 0, 1])
    expect(tokens([nan, 1, nan, 2], { count: 4 })).toEqual([0, 1, 0, 1])
    expect(tokens([nan, nan], { fraction: 1 })).toEqual([0, 0])
    expect(tokens([nan, 0], { fraction: 1 })).toEqual([0, 0])
    expect(tokens([1, infinity, 2], { count: 1 })).toEqual([0, 1, 0])
    expect(tokens(large([nan, 1, 0, 2]), { fraction: 1 })).toEqual(large([0, 1, 1, 1]))
    // 0 * infinity is no score.
    const product = { advantage: new Float32Array([0]), entropy: new Float32Array([infinity, 1]) }
    expect(run({ ...product, sequenceStart: new Int32Array([0, 2]) }, { count: 2 })).toEqual([0, 0])
  })
  test('what lies under the mask is not looked at', () => {
    expect(tokens([Number.NaN, 1, Number.POSITIVE_INFINITY, 2], { fraction: 0.5 }, [0, 1, 0, 255])).toEqual([
      0, 0, 0, 1,
    ])
  })
  test('equal scores: the lowest index wins, within and across blocks', () => {
    expect(tokens([1, 2, 1, 2, 1], { count: 3 })).toEqual([1, 1, 0, 1, 0])
    const kept = tokens(large([1]), { count: 20_001 })
    expect(kept.indexOf(0)).toBe(20_001)
    expect(kept.lastIndexOf(1)).toBe(20_000)
  })
  // Of a GPU a block looks at 4,096 tokens at a time, and a thread writes the mask of four.
  test.each([16_385, 20_479, 20_481, 24_578])('%d tokens: ties in any of many tiles, NaN, a mask', (T) => {
    const r = random(T)
    const scores = Array.from({ length: T }, () =>
      r.uniform() < 0.02 ? Number.NaN : [0.5, 1, 1.0000001, 7][r.integer(4)],
    )
    const mask = Array.from(r.mask(T))
    const candidates = scores.flatMap((score, t) => (mask[t] === 1 && !Number.isNaN(score) ? [t] : []))
    const best = candidates.toSorted((a, b) => (scores[b] as number) - (scores[a] as number) || a - b)
    for (const count of [1, 3_000, 5_001, Math.floor(T / 3)]) {
      const expected = new Uint8Array(T)
      for (const t of best.slice(0, count)) expected[t] = 1
      expect(tokens(scores as number[], { count }, mask)).toEqual(Array.from(expected))
    }
  })
  test('the product is compared as float32', () => {
    // In float64 the second product is the greater; in float32 they are equal, and the first wins.
    const a = 1 + 2 ** -23
    const given = { tokenAdvantage: new Float32Array([a, -a]), entropy: new Float32Array([a, 1 + 2 ** -22]) }
    const [first, second] = [a * a, a * (1 + 2 ** -22)]
    expect(Math.fround(first)).not.toBe(Math.fround(second))
    const close = { tokenAdvantage: new Float32Array([1 + 2 ** -22, a]), entropy: new Float32Array([1, a]) }
    expect(a * a).toBeGreaterThan(1 + 2 ** -22)
    expect(run({ ...close, sequenceStart: new Int32Array([0, 2]) }, { count: 1 })).toEqual([1, 0])
    expect(run({ ...given, sequenceStart: new Int32Array([0, 2]) }, { count: 1 })).toEqual([0, 1])
  })
})

test('property: equal to sorting', () => {
  const number = fc.oneof(
    fc.constantFrom(0, -0, 1, 2, Number.NaN, Number.POSITIVE_INFINITY),
    fc.float({ min: -4, max: 4, noNaN: true }),
  )
  const token = fc.record({ entropy: number, advantage: number, mask: fc.integer({ min: 0, max: 1 }) })
  const option = fc.oneof(
    fc.record({ count: fc.nat({ max: 12 }) }),
    fc.record({ fraction: fc.double({ min: 0, max: 1, noNaN: true }) }),
  )
  fc.assert(
    fc.property(
      fc.array(fc.array(token, { maxLength: 8 }), { maxLength: 5 }),
      option,
      fc.constantFrom('batch', 'sequence'),
      fc.constantFrom('advantage_entropy', 'entropy', 'advantage'),
      fc.boolean(),
      (sequences, amount, scope, rule, perToken) => {
        const list = sequences.flat()
        const inputs: Inputs = {
          entropy: Float32Array.from(list, (t) => t.entropy),
          mask: Uint8Array.from(list, (t) => t.mask),
          sequenceStart: Int32Array.from([0, ...sequences.map((_, s) => sequences.slice(0, s + 1).flat().length)]),
          ...(perToken
            ? { tokenAdvantage: Float32Array.from(list, (t) => t.advantage) }
            : { advantage: Float32Array.from(sequences, (s) => s[0]?.advantage ?? 0) }),
        }
        expect(run(inputs, { ...amount, scope, rule })).toEqual(reference(inputs, { ...amount, scope, rule }))
      },
    ),
    { numRuns: 500 },
  )
})

describe('bad input', () => {
  const x = new Float32Array(3)
  const sequenceStart = new Int32Array([0, 3])
  const missing = (argument: string) => ({ error: TypeError, code: 'ERR_GRPO_MISSING', argument })
  const option = (argument: string) => ({ error: RangeError, code: 'ERR_GRPO_OPTION', argument })
  test('an input that the rule needs is missing', () => {
    const advantage = new Float32Array(1)
    refuses(() => selectTokens({ advantage, sequenceStart }, { count: 1 }), missing('entropy'))
    refuses(() => selectTokens({ entropy: x, sequenceStart }, { count: 1 }), {
      ...missing('advantage'),
      message: /^selectTokens: advantage is missing, and so is tokenAdvantage: /,
    })
    refuses(() => selectTokens({ entropy: x, sequenceStart }, { count: 1, rule: 'advantage' }), missing('advantage'))
    refuses(() => selectTokens({ advantage, sequenceStart }, { count: 1, rule: 'entropy' }), missing('entropy'))
  })
  test('both advantages', () => {
    const both = { advantage: new Float32Array(1), tokenAdvantage: x, entropy: x, sequenceStart }
    const error = { error: RangeError, code: 'ERR_GRPO_VALUE', argument: 'tokenAdvantage' }
    refuses(() => selectTokens(both, { count: 1 }), error)
    refuses(() => selectTokens(both, { count: 1, rule: 'entropy' }), error)
  })
  test('options', () => {
    const good = { tokenAdvantage: x, entropy: x, sequenceStart }
    refuses(() => selectTokens(good, undefined as never), option('count'))
    refuses(() => selectTokens(good, {}), option('count'))
    refuses(() => selectTokens(good, { count: null, fraction: null }), option('count'))
    refuses(() => selectTokens(good, { count: 1, fraction: 0.5 }), option('fraction'))
    refuses(() => selectTokens(good, { fraction: 1.5 }), option('fraction'))
    refuses(() => selectTokens(good, { count: -1 }), option('count'))
    refuses(() => selectTokens(good, { count: 1.5 }), option('count'))
    refuses(() => selectTokens(good, { count: 1, rule: 'top' as 'entropy' }), option('rule'))
  })
  test('nothing is written', () => {
    const mask = new Uint8Array(3).fill(9)
    const bad = { tokenAdvantage: x, entropy: x, sequenceStart: new Int32Array([0, 2]) }
    refuses(() => selectTokens(bad, { count: 1, out: { mask } }), {
      error: RangeError,
      code: 'ERR_GRPO_VALUE',
      argument: 'sequenceStart',
    })
    expect(Array.from(mask)).toEqual([9, 9, 9])
  })
})
