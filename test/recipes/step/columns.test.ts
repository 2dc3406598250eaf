// The containers in which the columns of a batch come.
import { describe, expect, test } from 'vitest'
import { optimizationStep, prepareStep, recipe, recipes } from '../../../lib/recipes/index.js'

const wide = (...values: number[]) => BigInt64Array.from(values, BigInt)
const i32 = (...values: number[]) => Int32Array.from(values)

const batch = {
  rewards: [1, 0, 0.25],
  token: i32(2, 0, 1, 1),
  mask: Uint8Array.of(1, 1, 0, 1),
  rolloutMask: [1, 1, 1],
  groupStart: i32(0, 3),
  sequenceStart: i32(0, 2, 3, 4),
}
const logits = { dtype: 'f32', shape: [4, 3], data: Float32Array.from({ length: 12 }, (_, i) => Math.sin(i)) } as const

describe('a BigInt64Array', () => {
  const given = {
    token: wide(2, 0, 1, 1),
    mask: wide(1, 1, 0, 1),
    rolloutMask: wide(1, 1, 1),
    groupStart: wide(0, 3),
    sequenceStart: wide(0, 2, 3, 4),
  }
  const expected = optimizationStep(recipes.dapo(), { ...batch, logits })

  test.each(Object.entries(given))('as %s', (name, column) => {
    const { loss, gradLogits } = optimizationStep(recipes.dapo(), { ...batch, [name]: column, logits })
    expect([loss, gradLogits]).toEqual([expected.loss, expected.gradLogits])
  })

  test('as a column of integers or of ids that a method names', () => {
    const own = recipe(
      {
        name: 'own',
        paper: { title: 'A method of a test' },
        source: 'inferred',
        equation: 'S = R + turn + (prompt is 7)',
        columns: { turn: 'integer[N] of each rollout', prompt: 'id[N] of each rollout' },
      },
      () => ({
        rewards: ({ rewards, columns: { turn, prompt } }) =>
          rewards.map((r, i) => r + (turn[i] as number) + Number(prompt[i] === 7)),
      }),
    )
    const advantage = (turn: ArrayLike<number> | BigInt64Array, prompt: ArrayLike<number> | BigInt64Array) =>
      prepareStep(own(), { ...batch, turn, prompt }).advantage
    expect(advantage(wide(0, 1, 5), wide(7, -1, 2 ** 40))).toEqual(advantage([0, 1, 5], [7, -1, 2 ** 40]))
    expect(() => advantage(wide(0, 1, 5), BigInt64Array.of(1n, 2n ** 53n, 3n))).toThrow(
      'own: prompt has 9007199254740992n at 1, expected a size below 2^53: of each rollout',
    )
  })

  test('with what 32 bits do not hold, and where numbers need not be whole', () => {
    const step = (more: object) => () => prepareStep(recipes.dapo(), { ...batch, ...more })
    const held = 'expected a whole number from -2147483648 to 2147483647'
    expect(step({ token: wide(2, 0, 1, 2 ** 31) })).toThrow(`dapo: token has 2147483648 at 3, ${held}`)
    expect(step({ sequenceStart: wide(0, 2, 3, 2 ** 32 + 4) })).toThrow(
      `dapo: sequenceStart has 4294967300 at 3, ${held}`,
    )
    expect(step({ mask: wide(1, 1, 2, 1) })).toThrow('dapo: mask has 2 at 2, expected 0 or 1')
    expect(step({ groupStart: wide(0, 1, 3).subarray(1) })).toThrow('dapo: groupStart has 1 at 0, expected offsets')
    expect(step({ rewards: wide(1, 0, 0) })).toThrow('dapo: rewards is a BigInt64Array, expected number[N]')
  })
})

test('the id of a masked token fits in 32 bits, too: trees of rollouts look at it', () => {
  for (const token of [[2, 0, 2 ** 31, 1], wide(2, 0, 2 ** 31, 1)])
    expect(() => prepareStep(recipes.dapo(), { ...batch, token })).toThrow('dapo: token has 2147483648 at 2')
})

describe('options', () => {
  const own = recipe(
    {
      name: 'own',
      paper: { title: 'A method of a test' },
      source: 'inferred',
      equation: 'S = R',
      options: {
        share: ['number = 0.5 0..1', 'a share'],
        count: ['integer = 3 >= 1', 'a count'],
        cap: ['number? = 2 > 1', 'may be null'],
        whether: ['boolean = true', 'a choice'],
        way: ['enum first|second', 'another'],
        mode: ['enum? one|two', 'none by default'],
      },
    },
    () => ({}),
  )
  const defaults = { share: 0.5, count: 3, cap: 2, whether: true, way: 'first', mode: null }

  test.each(Object.keys(defaults))('%s is the default where it is undefined', (name) => {
    const others = { share: 0.25, count: 1, cap: 3, whether: false, way: 'second', mode: 'two' } as const
    expect(own({ [name]: undefined }).options).toEqual(defaults)
    expect(own({ ...others, [name]: undefined }).options).toEqual({
      ...others,
      [name]: defaults[name as 'share'],
    })
  })

  test('null where it is a choice, and nowhere else', () => {
    expect(own({ cap: null, mode: null }).options).toEqual({ ...defaults, cap: null })
    for (const name of ['share', 'count', 'whether', 'way'])
      expect(() => own({ [name]: null }), name).toThrow(`own: ${name} is null, expected`)
  })
})
