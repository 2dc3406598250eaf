import { describe, expect, test } from 'vitest'
import {
  fromJSON,
  optimizationStep,
  prepareStep,
  presets,
  recipe,
  recipes,
  toJSON,
} from '../../../lib/recipes/index.js'

/** R + weight[label] as the reward, less a bonus per step; advantages without scale. */
const labelled = recipe(
  {
    name: 'labelled',
    paper: { title: 'A method of a test' },
    source: 'inferred',
    equation: 'S = R + weight label - decay step',
    columns: { label: 'flag[N] which rollouts are labelled', shift: 'number? added to all' },
    options: {
      weight: ['number = 0.5 >= 0', 'of a label'],
      decay: ['number? = null > 0', 'per step; null: none'],
      sign: ['enum plus|minus', 'of the label'],
    },
    state: { version: 1, initial: () => ({ step: 0 }) },
  },
  ({ weight, decay, sign }) => ({
    rewards: ({ rewards, columns, state }) =>
      rewards.map((r, i) => {
        const label = (sign === 'plus' ? 1 : -1) * weight * (columns.label[i] as number)
        return r + label + (columns.shift ?? 0) - (decay ?? 0) * state.step
      }),
    objective: { clipHigh: 0.28 },
    update: ({ state }) => ({ step: state.step + 1 }),
  }),
)
const batch = { rewards: [1, 0, 0.25], label: [0, 1, 1], groupStart: [0, 3], sequenceStart: [0, 1, 2, 3] }
const logp = new Float32Array([-1, -2, -3])

describe('recipe()', () => {
  test('fills in the defaults, and freezes the method', () => {
    expect(labelled().options).toEqual({ weight: 0.5, decay: null, sign: 'plus' })
    expect(Object.isFrozen(labelled())).toBe(true)
    expect(labelled.description.name).toBe('labelled')
  })

  test('its points see columns, options and state', () => {
    const method = labelled({ weight: 2, decay: 0.5 })
    const first = prepareStep(method, { ...batch, shift: 10 })
    expect(first.rewards).toEqual(new Float64Array([11, 12, 12.25]))
    const second = prepareStep(method, batch, fromJSON(method, toJSON(first.state)))
    expect(second.rewards).toEqual(new Float64Array([0.5, 1.5, 1.75]))
    expect(second.state.data.step).toBe(2)
  })

  test('what it leaves out is the default of the operations', () => {
    const { loss, gradLogp } = optimizationStep(labelled({ weight: 0 }), { ...batch, logp })
    const own = optimizationStep(recipes.grpo({ klCoef: 0, clipHigh: 0.28 }), { ...batch, logp })
    // A token each: the mean over rollouts of the mean over tokens is the mean over tokens.
    expect([loss, gradLogp.data]).toEqual([own.loss, own.gradLogp.data])
  })

  test.each([
    [
      'an option that it does not have',
      { wight: 1 },
      'labelled: wight is no option, expected one of weight, decay, sign',
    ],
    ['an option out of range', { weight: -1 }, 'labelled: weight is -1, expected a finite number >= 0'],
    ['another choice', { sign: 'both' }, 'labelled: sign is "both", expected one of plus, minus'],
  ])('refuses %s', (_, options, message) => {
    expect(() => labelled(options as object)).toThrow(message)
  })

  test('a column that is missing is an error with its meaning', () => {
    const { label, ...rest } = batch
    expect(label.length).toBe(3)
    // @ts-expect-error the compiler knows the columns too
    expect(() => prepareStep(labelled(), rest)).toThrow(
      'label is missing from the batch, expected flag[N]: which rollouts',
    )
  })
})

describe('a published method with a point of one’s own', () => {
  test('advantages as options of groupAdvantage, and none', () => {
    const said = {
      name: 'plain',
      paper: { title: 'none' },
      source: 'inferred',
      unknown: 'All.',
      equation: 'A',
    } as const
    const batch = { rewards: [1, 0, 0.5, 3], groupStart: [0, 3, 4] }
    const centred = recipe(said, () => ({ advantages: { scale: 'none', singleton: 'raw' } }))
    expect(Array.from(prepareStep(centred(), batch).advantage!)).toEqual([0.5, -0.5, 0, 3])
    const none = prepareStep(recipe(said, () => ({ advantages: null }))(), batch)
    expect([none.advantage, none.tokenAdvantage]).toEqual([undefined, undefined])
    const wrong = recipe(said, () => ({ advantages: { epsilon: 1 } as object }))
    expect(() => prepareStep(wrong(), batch)).toThrow('groupAdvantage: epsilon is no option of this operation')
  })

  test('spread, renamed, its advantages replaced', () => {
    const method = {
      ...recipes.grpo({ klCoef: 0 }),
      name: 'signOnly',
      advantages: ({ rewards }: { rewards: Float64Array }) => ({ advantage: rewards.map((r) => Math.sign(r - 0.5)) }),
    }
    const { advantage, loss } = optimizationStep(method, { ...batch, logp })
    expect(advantage).toEqual(new Float64Array([1, -1, -1]))
    expect(loss).toBeCloseTo(1 / 3, 6) // on-policy: minus the mean of the advantages
    expect(() => optimizationStep(method, { rewards: [1], groupStart: [0, 1], logp })).toThrow('signOnly:')
  })
})

describe('points of one’s own that give lists of another length', () => {
  const [N, T] = [3, 3]
  const description = { name: 'own', paper: { title: 'A method of a test' }, source: 'inferred', equation: '' } as const
  const lists: [name: string, size: number, points: (n: number) => object][] = [
    ['rewards', N, (n) => ({ rewards: () => new Float64Array(n) })],
    ['advantage', N, (n) => ({ advantages: () => ({ advantage: new Float64Array(n) }) })],
    ['tokenAdvantage', T, (n) => ({ advantages: () => ({ tokenAdvantage: new Float32Array(n) }) })],
    ['rollouts', N, (n) => ({ select: () => ({ rollouts: new Uint8Array(n).fill(1) }) })],
    ['tokens', T, (n) => ({ select: () => ({ tokens: new Uint8Array(n).fill(1) }) })],
    ...(['weight', 'ratioLow', 'ratioHigh', 'oldLogp', 'refLogp', 'entropyWeight', 'klOldLogp'] as const).map(
      (name): [string, number, (n: number) => object] => [
        name,
        T,
        (n) => ({ weights: () => ({ [name]: new Float32Array(n) }) }),
      ],
    ),
    ['mask', T, (n) => ({ weights: () => ({ mask: new Uint8Array(n).fill(1) }) })],
  ]
  const { label: _, ...given } = batch
  test.each(lists)('%s', (name, size, points) => {
    const step = (n: number) => optimizationStep(recipe(description, () => points(n))(), { ...given, logp })
    expect(() => step(size)).not.toThrow()
    for (const n of [0, size - 1, size + 1]) expect(() => step(n)).toThrow(`own: ${name} has ${n} values, expected ${size}`) // biome-ignore format: one line
  })
})

describe('what no float32 holds', () => {
  test.each([1e39, 3.5e38, 1e300, 1e-39, 1e-300])('%d is refused as an option', (weight) => {
    expect(() => labelled({ weight })).toThrow(
      `labelled: weight is ${weight}, expected 0 or a size from 1.2e-38 to 3.4e38`,
    )
  })
  test.each([-1e39, -1e300, -1e-39, -1e-300])('%d is refused as an option that may be negative', (value) => {
    for (const name of ['rewardClipLow', 'rewardClipHigh'] as const) {
      const options = { rewardClipLow: -3.4e38, rewardClipHigh: 3.4e38, [name]: value }
      expect(() => presets.openrlhf(options)).toThrow(
        `openrlhf: ${name} is ${value}, expected 0 or a size from 1.2e-38`,
      )
    }
    expect(() => recipes.knapsack({ success: value })).toThrow(`knapsack: success is ${value}`)
  })
  test('at its ends it is taken, and 0 too', () => {
    for (const weight of [0, 2 ** -126, 3.4028234e38]) expect(labelled({ weight }).options.weight).toBe(weight)
    expect(() => recipes.fastMath({ formatWeight: 1e300 })).toThrow('fastMath: formatWeight is 1e+300')
    expect(() => recipes.gpg({ fNorm: 1e-300 })).toThrow('gpg: fNorm is 1e-300')
  })
})
