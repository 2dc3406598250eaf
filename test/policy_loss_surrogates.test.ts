// What is particular to single surrogates: where VESPO clamps, what DRO does without an advantage, when DPPO drops a token.
import { afterEach, describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import { cpu, type HostArray, lossStats, type Objective, policyLoss } from '../lib/index.js'
import { binaryKl, type PolicyCase, policyObjective } from './references/policy_objective.js'
import { backend } from './support/backend_kind.js'
import { identical } from './support/compare.js'
import { instructionSetNames } from './support/instruction_sets.js'
import { agrees, arraysOf, fixture, ownOptions, policyBatch, publishedKl, surrogates } from './support/policy_cases.js'

const number = (x: HostArray) => x.data[0] as number
const vespo = { surrogate: 'vespo', ratio: 'sequence_product' } as const
/** One sequence of tokens with these log-ratios. */
const ofLogRatios = (logRatio: number[], advantage: number): PolicyCase => ({
  logp: logRatio.map((_, t) => -1 - t / 4),
  oldLogp: logRatio.map((d, t) => -1 - t / 4 - d),
  refLogp: logRatio.map(() => -1.5),
  advantage: [advantage],
  sequenceStart: [0, logRatio.length],
})

const instructionSet = cpu.instructionSet
afterEach(() => {
  cpu.instructionSet = instructionSet
})

/** Those of this machine's CPU; on a device there is nothing to choose. */
const instructionSets = () =>
  backend === 'cpu' ? instructionSetNames.filter((name) => native.setInstructionSet(name)) : [instructionSet]

test.each(surrogates)('%s with every instruction set', (surrogate) => {
  const { tokenAdvantage, ratioLow, ratioHigh, ...c } = policyBatch(21)
  const ratio = surrogate === 'vespo' ? 'sequence_product' : 'token'
  for (const set of instructionSets()) {
    cpu.instructionSet = set
    for (const clip of [0.05, 0.2])
      agrees(c, { surrogate, ratio, clipLow: clip, clipHigh: clip, ...ownOptions(surrogate) })
  }
})

describe('vespo', () => {
  test.each([
    ['a token above', [24, -25.5, 0.25]],
    ['a token below', [-24, 19, 0.5]],
    ['the sum above', [15, 6, 0.5]],
    ['the sum below', [-15, -8, 0.5]],
  ])('%s its clamp', (_, logRatio) => {
    for (const advantage of [1.5, -0.75]) {
      for (const more of [{}, { logRatioClamp: 3 }, ownOptions('vespo', 1)]) {
        const objective = { ...vespo, ...more }
        agrees(ofLogRatios(logRatio, advantage), objective)
        agrees(ofLogRatios(logRatio, advantage), { ...objective, klCoef: 0.1, klWeight: 'ratio' })
      }
    }
  })
  test('a phi that is no number counts as 0, and a NaN as a token that is not finite', () => {
    const far = policyLoss(arraysOf(ofLogRatios([0.5, 0.5], 1)), { ...vespo, powerPositive: 1000, decayPositive: 1e-4 })
    expect([number(far.loss), ...far.gradLogp.data, lossStats(far.stats).nonFinite]).toEqual([0, 0, 0, 0])
    const spoilt = { ...ofLogRatios([0.5, 0.5], 1), oldLogp: [Number.NaN, -1] }
    const { loss, gradLogp, stats } = policyLoss(arraysOf(spoilt), vespo)
    expect([number(loss), ...gradLogp.data, lossStats(stats).nonFinite]).toEqual([0, 0, 0, 1])
  })
  test('on-policy it is REINFORCE', () => {
    const { oldLogp, tokenAdvantage, ratioLow, ratioHigh, ...c } = policyBatch(22)
    const [one, other] = [policyLoss(c, vespo), policyLoss(c, { ...vespo, surrogate: 'reinforce' })]
    for (const name of ['loss', 'gradLogp', 'stats'] as const) identical(one[name], other[name])
  })
})

describe('dro', () => {
  test('without an advantage the penalty remains, without a weight nothing does', () => {
    const c = ofLogRatios([0.5, -2], 0)
    agrees(c, { surrogate: 'dro', droBeta: 0.5 })
    const { loss, gradLogp } = policyLoss(arraysOf(c), { surrogate: 'dro', droBeta: 0.5 })
    expect([number(loss), ...gradLogp.data]).toEqual([(0.25 * (0.25 + 4)) / 2, 0.125, -0.5])
    const removed = policyLoss(arraysOf({ ...c, advantage: [3], weight: [0, 0] }), { surrogate: 'dro', droBeta: 0.5 })
    expect([number(removed.loss), ...removed.gradLogp.data]).toEqual([0, 0, 0])
  })
  test('on-policy it is REINFORCE', () => {
    const { oldLogp, tokenAdvantage, ratioLow, ratioHigh, ...c } = policyBatch(23)
    const [one, other] = [policyLoss(c, { surrogate: 'dro', droBeta: 1 }), policyLoss(c, { surrogate: 'reinforce' })]
    for (const name of ['loss', 'gradLogp', 'stats'] as const) identical(one[name], other[name])
  })
})

describe('dppo', () => {
  const { mask, logp, oldLogp } = fixture
  const places = logp.map((_, t) => t).filter((t) => mask[t] !== 0)
  /** The token alone, with an advantage that pushes it on in the direction it went. */
  const alone = (t: number): PolicyCase => ({
    logp: [logp[t] as number],
    oldLogp: [oldLogp[t] as number],
    advantage: [(logp[t] as number) >= (oldLogp[t] as number) ? 1 : -1],
    sequenceStart: [0, 1],
  })
  const dropped = (c: PolicyCase, surrogate: 'dppo_tv' | 'dppo_kl', bound: number) =>
    policyObjective(c, { surrogate, clipLow: bound, clipHigh: bound }).stats.clipFraction

  test('a token is dropped where its binary KL, as published, is above the bound', () => {
    places.forEach((t, i) => {
      const [c, kl] = [alone(t), publishedKl[i] as number]
      expect(dropped(c, 'dppo_kl', kl + 1e-9), `token ${t}`).toBe(0)
      if (kl > 0) expect(dropped(c, 'dppo_kl', kl - 1e-9), `token ${t}`).toBe(1)
    })
  })
  test('to the last digits of that KL, with every instruction set', () => {
    for (const set of instructionSets()) {
      cpu.instructionSet = set
      for (const c of places.map(alone)) {
        const [p, q] = [c.logp, c.oldLogp].map((x) => Math.fround((x as number[])[0] as number))
        for (const by of [-1e-14, 1e-14]) {
          const bound = Math.abs(binaryKl(p!, q!) + by)
          for (const advantage of [1, -1]) {
            agrees({ ...c, advantage: [advantage] }, { surrogate: 'dppo_kl', clipLow: bound, clipHigh: bound })
          }
        }
      }
    }
  })

  test.each(['dppo_tv', 'dppo_kl'] as const)('%s without bounds is CISPO without bounds', (surrogate) => {
    const { tokenAdvantage, ratioLow, ratioHigh, ...c } = policyBatch(24)
    const none = { clipLow: null, clipHigh: null }
    const capped = { clipLow: null, clipHigh: 0.5 }
    const pairs: [Objective, Objective][] = [
      [
        { surrogate, ...none },
        { surrogate: 'cispo', ...none },
      ],
      [
        { surrogate, ...none, ratioCap: 1.5 },
        { surrogate: 'cispo', ...capped },
      ],
    ]
    for (const [own, cispo] of pairs) {
      const [one, other] = [policyLoss(c, own), policyLoss(c, cispo)]
      identical(one.loss, other.loss)
      identical(one.gradLogp, other.gradLogp)
      expect(lossStats(one.stats).clipFraction).toBe(0)
    }
  })

  test('a difference of exactly the bound is kept; what is dropped is counted', () => {
    const up = { logp: [0], oldLogp: [-1e30], advantage: [1], sequenceStart: [0, 1] }
    const down = { logp: [-1e30], oldLogp: [0], advantage: [-1], sequenceStart: [0, 1] }
    const stats = (c: PolicyCase, bound: number, surrogate: 'dppo_tv' | 'dppo_kl' = 'dppo_tv') =>
      lossStats(policyLoss(arraysOf(c), { surrogate, clipLow: bound, clipHigh: bound, ratioCap: 2 }).stats)
    expect(stats(up, 1)).toMatchObject({ clipFraction: 0 })
    expect(stats(up, 0.999)).toMatchObject({ clipFraction: 1, clipFractionHigh: 1, dualClipFraction: 0 })
    expect(stats(down, 1)).toMatchObject({ clipFraction: 0 })
    expect(stats(down, 0.999)).toMatchObject({ clipFraction: 1, clipFractionLow: 1 })
    for (const c of [up, down]) {
      agrees(c, { surrogate: 'dppo_kl' })
      expect(stats(c, 0.2, 'dppo_kl')).toMatchObject({ clipFraction: 1, policyLoss: 0 })
      const other = { ...c, advantage: [-(c.advantage[0] as number)] }
      expect(stats(other, 0.2, 'dppo_kl')).toMatchObject({ clipFraction: 0 })
    }
  })

  test('a token that the rollout could not have written has the KL of the others', () => {
    const c = { logp: [Math.log(0.9)], oldLogp: [-Infinity], advantage: [1], sequenceStart: [0, 1] }
    const of = (clipHigh: number) => policyLoss(arraysOf(c), { surrogate: 'dppo_kl', clipHigh, ratioCap: 2 })
    const kl = -Math.log(0.1)
    expect([number(of(kl - 0.01).loss), lossStats(of(kl - 0.01).stats).clipFractionHigh]).toEqual([0, 1])
    expect(lossStats(of(kl + 0.01).stats).clipFraction).toBe(0)
  })

  test('an impossible token is dropped by its infinite KL; a NaN is not, and reaches the loss', () => {
    const c = { logp: [-Infinity, -1], oldLogp: [-1, -1], advantage: [-1, 1], sequenceStart: [0, 1, 2] }
    const { loss, gradLogp } = policyLoss(arraysOf(c), { surrogate: 'dppo_kl' })
    expect([number(loss), ...gradLogp.data]).toEqual([0.5, 0, -0.5])
    for (const surrogate of ['dppo_tv', 'dppo_kl'] as const) {
      for (const name of ['logp', 'oldLogp'] as const) {
        const spoilt = policyLoss(arraysOf({ ...c, logp: [-2, -1], [name]: [Number.NaN, -1] }), { surrogate })
        expect(number(spoilt.loss)).toBeNaN()
        expect([...spoilt.gradLogp.data]).toEqual([Number.NaN, -0.5])
        expect(lossStats(spoilt.stats)).toMatchObject({ nonFinite: 1, clipFraction: 0 })
      }
    }
  })

  test('a log-probability above 0, as rounding may leave it, is a probability of 1', () => {
    const c = { logp: [1e-6], oldLogp: [-0.5], advantage: [1], sequenceStart: [0, 1] }
    const bound = 1 - Math.exp(-0.5) // of which 1 - p is not below 0, where its logarithm would be none
    const stats = (clipHigh: number, surrogate: 'dppo_tv' | 'dppo_kl') =>
      lossStats(policyLoss(arraysOf(c), { surrogate, clipHigh }).stats).clipFraction
    expect([stats(bound, 'dppo_tv'), stats(bound - 1e-9, 'dppo_tv'), stats(5, 'dppo_kl')]).toEqual([0, 1, 1])
  })
})
