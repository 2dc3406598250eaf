import { describe, expect, test } from 'vitest'
import {
  array,
  cuda,
  type HostArray,
  lossStats,
  type Objective,
  type PolicyLossInputs,
  policyLoss,
} from '../lib/index.js'
import { type PolicyCase, policyObjective } from './references/policy_objective.js'
import { backend } from './support/backend_kind.js'
import { close, identical, ulp } from './support/compare.js'
import {
  aggregates,
  agrees,
  arraysOf,
  clampOptions,
  fits,
  fixture,
  goldens,
  klOptions,
  ownOptions,
  policyBatch,
  ratios,
  surrogates,
  takesBounds,
  tenDecimals,
} from './support/policy_cases.js'
import fc from './support/properties.js'
import { random } from './support/random.js'
import { fewOnDevice } from './support/sweep.js'

const number = (x: HostArray) => x.data[0] as number

describe('golden numbers', () => {
  test.each(goldens)('%s', (_, change, objective, loss, gradient) => {
    const c = { ...fixture, ...change }
    const exact = policyObjective(c, objective)
    tenDecimals([exact.loss, ...exact.gradLogp], [loss, ...gradient.slice(0, 3), 0, ...gradient.slice(3)])
    agrees(c, objective)
  })
})

describe('against float64', () => {
  const cases = surrogates
    .flatMap((surrogate) => ratios.filter((ratio) => fits(surrogate, ratio)).map((ratio) => ({ surrogate, ratio })))
    .map((one, i) => ({ ...one, turn: i % 7 }))

  test.each(cases)('$surrogate, $ratio: every KL, clamp and aggregate', ({ surrogate, ratio, turn }) => {
    const turns = fewOnDevice([turn], [0, 1, 2, 3, 4, 5, 6])
    let seed = 0
    for (const kl of klOptions) {
      if (ratio === 'geometric' && kl.klWeight === 'ratio') continue
      for (const clamps of clampOptions) {
        // What follows changes with the seed by twos to sixes: each surrogate and ratio has a seventh of its own.
        if (!turns.includes(++seed % 7)) continue
        const { tokenAdvantage, ratioLow, ratioHigh, ...batch } = policyBatch(seed - 1)
        const byToken = ratio !== 'geometric' && seed % 2 === 0
        const c = byToken ? { ...batch, advantage: undefined, tokenAdvantage } : batch
        const aggregate = aggregates[seed % aggregates.length]!
        const own = [null, ...aggregates][seed % 6]!
        const dualClip = surrogate === 'clip' && ratio !== 'geometric' && seed % 3 === 0 ? 1.4 : null
        const rest: Objective = { aggregate, maxLength: 9, countEmpty: seed % 4 === 0, dualClip }
        const entropy: Objective = { entropyCoef: 0.07, entropyAggregate: own }
        agrees(c, { surrogate, ratio, ...ownOptions(surrogate, seed), ...clamps, ...kl, ...rest, ...entropy })
      }
    }
  })

  test.each(aggregates)('%s with every entropyAggregate, normalizer and countEmpty', (aggregate) => {
    for (const entropyAggregate of [null, ...aggregates])
      for (const normalizer of [null, 3.5, 0])
        for (const countEmpty of [false, true]) {
          const { tokenAdvantage, ratioLow, ratioHigh, ...c } = policyBatch(5)
          agrees(c, { aggregate, entropyAggregate, entropyCoef: 0.3, maxLength: 7, normalizer, countEmpty })
        }
  })

  test.each(surrogates.filter(takesBounds))('%s with bounds on the ratio per token, one or both', (surrogate) => {
    const { tokenAdvantage, ratioLow, ratioHigh, ...c } = policyBatch(6)
    for (const bounds of [{ ratioLow }, { ratioHigh }, { ratioLow, ratioHigh }])
      agrees({ ...c, ...bounds }, { surrogate, ...ownOptions(surrogate) })
  })

  test.each(ratios)('%s without oldLogp: ratio 1, with gradient', (ratio) => {
    for (const surrogate of surrogates.filter((name) => fits(name, ratio))) {
      const { tokenAdvantage, ratioLow, ratioHigh, oldLogp, ...c } = policyBatch(7)
      const klWeight = ratio === 'geometric' ? 'none' : 'ratio'
      agrees(c, { surrogate, ratio, klCoef: 0.1, klWeight, ...ownOptions(surrogate) })
    }
  })

  test('long and many sequences, over every thread', () => {
    const r = random(9)
    const sequenceStart = Int32Array.from([0, 9000, ...Array.from({ length: 900 }, (_, i) => 9000 + 5 * (i + 1))])
    const T = sequenceStart.at(-1) as number
    const logp = r.uniforms(T, -3, 0)
    const oldLogp = logp.map((x) => x + 0.02 * r.normal())
    const c = { logp, oldLogp, advantage: r.normals(901), sequenceStart, mask: r.mask(T, 0.9) }
    for (const ratio of ratios) agrees(c, { ratio, aggregate: 'sequence_mean', clipLow: 0.01, clipHigh: 0.01 })
  })

  // What the reference differentiates by itself is here held against differences of its own values, for all that has no
  // stop-gradient.
  test.each(['clip', 'sapo', 'reinforce', 'dro'] as const)('central differences: %s', (surrogate) => {
    for (const ratio of ['token', 'sequence', 'sequence_product', 'geometric'] as const) {
      if (!fits(surrogate, ratio)) continue
      for (const kl of ['k3', 'k1', 'k2', 'abs'] as const) {
        const { tokenAdvantage, ratioLow, ratioHigh, ...c } = policyBatch(11)
        const klWeight = ratio === 'geometric' ? 'none' : 'ratio'
        const own = ownOptions(surrogate)
        const objective = { surrogate, ratio, klCoef: 0.2, kl, klWeight, entropyCoef: 0.1, ...own } as const
        const { gradLogp } = policyLoss(c, objective)
        const moved = (t: number, by: number) => {
          const logp = Array.from(c.logp, (x, i) => (i === t ? x + by : x))
          return policyObjective({ ...c, logp }, objective).loss
        }
        const step = 1e-5
        close(
          gradLogp.data,
          Array.from(c.logp, (_, t) => (moved(t, step) - moved(t, -step)) / (2 * step)),
          1e-6,
        )
      }
    }
  })
})

describe('ties', () => {
  const at = (ratio: number, advantage: number, objective: Objective = {}) => {
    const oldLogp = new Float32Array([0])
    // A log-ratio whose exponential is exactly the bound: bounds are set from the ratio, not the other way round.
    const logp = new Float32Array([Math.log(ratio)])
    const r = Math.exp(logp[0] as number)
    const bounds = { clipLow: 1 - r, clipHigh: r - 1 }
    const inputs = { logp, oldLogp, advantage: new Float32Array([advantage]), sequenceStart: new Int32Array([0, 1]) }
    return { r, gradient: number(policyLoss(inputs, { ...bounds, ...objective }).gradLogp) }
  }
  test.each([
    [1.25, 2],
    [0.75, -2],
  ])('ratio exactly at the bound %d keeps its gradient', (ratio, advantage) => {
    const { r, gradient } = at(ratio, advantage)
    expect(gradient).toBe(Math.fround(-advantage * r))
  })
  test('ratio exactly at the dual clip keeps its gradient', () => {
    const { r } = at(2, -1)
    expect(at(2, -1, { clipLow: 0.2, clipHigh: 0.2, dualClip: r }).gradient).toBe(Math.fround(r))
    expect(at(2, -1, { clipLow: 0.2, clipHigh: 0.2, dualClip: r - 1e-6 }).gradient).toBe(0)
  })
  test('log-ratio exactly at the clamp keeps its gradient', () => {
    const none = { clipLow: null, clipHigh: null }
    const logRatio = Math.fround(Math.log(2))
    expect(at(2, 1, { ...none, logRatioClamp: logRatio }).gradient).toBe(Math.fround(-Math.exp(logRatio)))
    expect(at(2, 1, { ...none, logRatioClamp: logRatio - 1e-6 }).gradient).toBe(0)
  })
})

describe('masks, zeros and numbers that are none', () => {
  const { tokenAdvantage, ratioLow, ratioHigh, ...batch } = policyBatch(3)
  const all = ratios.flatMap((ratio) =>
    surrogates.filter((name) => fits(name, ratio)).map((surrogate) => ({ surrogate, ratio })),
  )

  test.each(all)('$surrogate, $ratio: what is masked may hold anything', ({ surrogate, ratio }) => {
    const objective = { surrogate, ratio, klCoef: 0.1, entropyCoef: 0.1, ...ownOptions(surrogate) }
    const expected = policyLoss(batch, objective)
    for (const junk of [Number.NaN, Infinity, -Infinity, 3e38]) {
      const spoilt = (x: Float32Array) => x.map((v, t) => (batch.mask[t] ? v : junk))
      const { logp, oldLogp, refLogp, weight, entropy } = batch
      const dirty = { logp, oldLogp, refLogp, weight, entropy }
      const inputs = Object.fromEntries(Object.entries(dirty).map(([name, x]) => [name, spoilt(x)]))
      const actual = policyLoss({ ...batch, ...inputs } as PolicyLossInputs, objective)
      for (const name of ['loss', 'gradLogp', 'gradEntropy', 'stats'] as const)
        identical(actual[name]!, expected[name]!)
    }
    const masked = Array.from(expected.gradLogp.data).filter((_, t) => batch.mask[t] === 0)
    expect(masked.every((g) => Object.is(g, 0))).toBe(true)
  })

  test('weight 0 and advantage 0 remove the policy term whatever the ratio, and stay in the counts', () => {
    const one = (change: Partial<PolicyCase>) => ({
      logp: [0, 0], oldLogp: [-Infinity, 0], sequenceStart: [0, 1, 2], advantage: [1, 1], ...change,
    }) // biome-ignore format: one line
    for (const change of [{ weight: [0, 1] }, { advantage: [0, 1] }]) {
      for (const surrogate of surrogates.filter((name) => fits(name, 'token'))) {
        if (surrogate === 'dro' && change.advantage) continue
        const result = policyLoss(arraysOf(one(change)), { surrogate, ...ownOptions(surrogate) })
        expect(Number.isFinite(number(result.loss))).toBe(true)
        expect(Object.is(result.gradLogp.data[0], 0)).toBe(true)
        expect(lossStats(result.stats).tokens).toBe(2)
        expect(lossStats(result.stats).ratioMax).toBe(Infinity)
      }
    }
  })

  test('a NaN reaches the loss and the gradient of its token alone, and is counted', () => {
    for (const name of ['logp', 'oldLogp', 'refLogp', 'weight', 'entropy'] as const) {
      const t = batch.mask.indexOf(1)
      const spoilt = { ...batch, advantage: batch.advantage.map(() => 1), [name]: batch[name].slice() }
      ;(spoilt[name] as Float32Array)[t] = Number.NaN
      const result = policyLoss(spoilt, { klCoef: 0.1, entropyCoef: 0.1 })
      expect(number(result.loss), name).toBeNaN()
      expect(lossStats(result.stats).nonFinite, name).toBe(1)
      const nan = Array.from(result.gradLogp.data, (g, i) => (Number.isNaN(g) ? i : -1)).filter((i) => i >= 0)
      expect(nan, name).toEqual(name === 'entropy' ? [] : [t])
    }
  })

  test.each(['token', 'sequence', 'sequence_token', 'sequence_product', 'geometric'] as const)(
    'what is not finite reaches the loss on-policy too: ratio %s',
    (ratio) => {
      for (const surrogate of ['clip', 'cispo', 'sapo'] as const) {
        if (ratio === 'geometric' && surrogate !== 'clip') continue
        for (const x of [Number.NaN, Infinity, -Infinity]) {
          const given = arraysOf({ logp: [-1, x, -2, -1], sequenceStart: [0, 3, 4], advantage: [1, 1] })
          const result = policyLoss(given, { surrogate, ratio })
          expect(number(result.loss), `${surrogate} ${x}`).toBeNaN()
          expect(result.gradLogp.data[1], `${surrogate} ${x}`).toBeNaN()
          expect(lossStats(result.stats).nonFinite).toBeGreaterThan(0)
        }
      }
    },
  )

  test('an infinite ratio is counted; where the clip holds it, loss and gradient stay finite', () => {
    const inputs = { logp: [0], oldLogp: [-1e30], sequenceStart: [0, 1] }
    const clipped = policyLoss(arraysOf({ ...inputs, advantage: [2] }))
    expect([number(clipped.loss), number(clipped.gradLogp)]).toEqual([Math.fround(-2.4), 0])
    const open = policyLoss(arraysOf({ ...inputs, advantage: [-2] }))
    expect(number(open.loss)).toBe(Infinity)
    expect(lossStats(open.stats)).toMatchObject({ nonFinite: 1, ratioMax: Infinity })
    const dual = policyLoss(arraysOf({ ...inputs, advantage: [-2] }), { dualClip: 3 })
    expect([number(dual.loss), number(dual.gradLogp)]).toEqual([6, 0])
  })

  test('no tokens, no sequences, everything masked: loss 0', () => {
    for (const aggregate of aggregates) {
      const objective = { aggregate, maxLength: 4 }
      const empty = policyLoss(arraysOf({ logp: [], advantage: [], sequenceStart: [0] }), objective)
      expect([number(empty.loss), empty.gradLogp.data.length]).toEqual([0, 0])
      const masked = { ...batch, mask: new Uint8Array(26) }
      const none = policyLoss(masked, { ...objective, entropyCoef: 0.1, klCoef: 1 })
      expect(number(none.loss)).toBe(0)
      expect(none.gradLogp.data.every((g) => g === 0)).toBe(true)
      expect(none.gradEntropy?.data.every((g) => g === 0)).toBe(true)
      const nothing = { tokens: 0, sequences: 0, policyLoss: 0, ratioMin: Infinity, ratioMax: -Infinity }
      for (const { stats } of [empty, none]) expect(lossStats(stats)).toMatchObject(nothing)
      for (const ratio of ratios)
        expect(lossStats(policyLoss(masked, { ...objective, ratio }).stats)).toMatchObject(nothing)
    }
    const empties = policyLoss(arraysOf({ logp: [], advantage: [1, 1], sequenceStart: [0, 0, 0] }), {
      countEmpty: true,
    })
    expect([number(empties.loss), lossStats(empties.stats).sequences]).toEqual([0, 2])
  })
})

describe('properties', () => {
  test.each(ratios)('%s: micro-batches with a normalizer add up, gradients to the bit', (ratio) => {
    const { tokenAdvantage, ratioLow, ratioHigh, ...c } = policyBatch(13)
    for (const aggregate of aggregates) {
      const objective = { ratio, aggregate, normalizer: 17, maxLength: 5, klCoef: 0.1 }
      const whole = policyLoss(c, objective)
      const parts = [
        [0, 3],
        [3, 7],
      ].map(([first, end]) => {
        const [a, b] = [c.sequenceStart[first!] as number, c.sequenceStart[end!] as number]
        const { advantage, sequenceStart, ...tokens } = c
        const slices = Object.fromEntries(Object.entries(tokens).map(([name, x]) => [name, x.slice(a, b)]))
        const start = sequenceStart.slice(first, end! + 1).map((t) => t - a)
        const inputs = { ...slices, advantage: advantage.slice(first, end), sequenceStart: start }
        return policyLoss(inputs as unknown as PolicyLossInputs, objective)
      })
      const joined = parts.flatMap(({ gradLogp }) => Array.from(gradLogp.data))
      expect(joined).toEqual(Array.from(whole.gradLogp.data))
      const losses = parts.map(({ loss }) => number(loss))
      const rounding = [...losses, number(whole.loss)].reduce((sum, x) => sum + ulp(x) / 2, 0)
      expect(Math.abs(number(whole.loss) - losses[0]! - losses[1]!)).toBeLessThanOrEqual(rounding)
      const merged = lossStats(...parts.map(({ stats }) => stats))
      const expected = lossStats(whole.stats)
      close(Object.values(merged), Object.values(expected), 1e-14)
    }
  })
  test('a padded batch is a packed one', () => {
    const padded = policyLoss(arraysOf(fixture), { klCoef: 0.1 })
    const keep = (x: number[]) => x.filter((_, t) => fixture.mask[t])
    const { mask, ...rest } = fixture
    const { logp, oldLogp, refLogp } = {
      logp: keep(rest.logp),
      oldLogp: keep(rest.oldLogp),
      refLogp: keep(rest.refLogp),
    }
    const packed = policyLoss(arraysOf({ ...rest, logp, oldLogp, refLogp, sequenceStart: [0, 3, 7] }), { klCoef: 0.1 })
    identical(padded.loss, packed.loss)
    // On a device the padding moves the tokens behind it to other threads: float64 sums in another order.
    if (backend === 'cpu') identical(padded.stats, packed.stats)
    else close(padded.stats.data, packed.stats.data, 1e-14)
    expect(keep(Array.from(padded.gradLogp.data))).toEqual(Array.from(packed.gradLogp.data))
  })
  test('an advantage per sequence is that advantage at each of its tokens', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 1000 }),
        fc.constantFrom('token', 'sequence_token', 'sequence_product'),
        (seed, ratio) => {
          const { tokenAdvantage, ratioLow, ratioHigh, advantage, ...c } = policyBatch(seed)
          const own = tokenAdvantage.map(
            (_, t) => advantage[c.sequenceStart.findIndex((start) => start > t) - 1] as number,
          )
          const [a, b] = [
            policyLoss({ ...c, advantage }, { ratio }),
            policyLoss({ ...c, tokenAdvantage: own }, { ratio }),
          ]
          for (const name of ['loss', 'gradLogp', 'stats'] as const) identical(a[name], b[name])
        },
      ),
    )
  })
  test('a gradient that is not wanted leaves the rest alone', () => {
    const { tokenAdvantage, ratioLow, ratioHigh, ...c } = policyBatch(14)
    for (const ratio of ratios) {
      const all = policyLoss(c, { ratio })
      const few = policyLoss(c, { ratio, out: { gradLogp: null, gradEntropy: null } })
      expect(Object.keys(few)).toEqual(['loss', 'stats'])
      identical(few.loss, all.loss)
      identical(few.stats, all.stats)
    }
  })
})

// Offsets on the host are refused; those of a device array are looked at by the kernels alone.
const deviceDescribe = backend === 'cpu' ? () => {} : describe
deviceDescribe('bad offsets on the device', () => {
  const T = 2600
  test.each([
    ['beyond the end', [0, 2, 9999, T]],
    ['negative', [0, -7, 1300, T]],
    ['falling', [0, 1700, 900, T]],
    ['not from 0', [1, 2, 1300, T]],
    ['not to T', [0, 2, 1300, T - 1]],
    ['extreme', [0, 2 ** 31 - 1, -(2 ** 31), T]],
    ['no sequence', [0]],
  ])('%s: NaN at every unmasked token, and counted', (_, offsets) => {
    const r = random(1)
    const S = offsets.length - 1
    const [logp, oldLogp, mask] = [r.uniforms(T, -3, 0), r.uniforms(T, -3, 0), r.mask(T, 0.9)]
    const sequenceStart = cuda.upload(array(Int32Array.from(offsets)))
    for (const ratio of ratios) {
      const inputs = { logp, oldLogp, mask, advantage: new Float32Array(S).fill(1), sequenceStart }
      const { loss, gradLogp, stats } = policyLoss(inputs, { ratio, aggregate: 'sequence_mean' })
      expect(number(loss)).toBeNaN()
      expect(Array.from(gradLogp.data)).toEqual(Array.from(mask, (live) => (live ? Number.NaN : 0)))
      expect(lossStats(stats).badIndex).toBe(mask.reduce((a, b) => a + b, 0))
    }
    sequenceStart.dispose()
  })
})
