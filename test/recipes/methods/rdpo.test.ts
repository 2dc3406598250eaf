import { expect } from 'vitest'
import { optimizationStep } from '../../../lib/recipes/index.js'
import { rdpo, robustHead } from '../../../lib/recipes/methods/rdpo.js'
import { centralDifferences, closeIn32, closeIn64 } from '../central_differences.js'
import { edge, golden } from '../golden.js'

// Log-ratio sums 1.5 and -0.5.
const pair = {
  sequenceStart: [0, 2, 3],
  logp: Float32Array.of(-0.5, -1, -1.5),
  refLogp: Float32Array.of(-1.5, -1.5, -1),
  chosen: [0],
  rejected: [1],
}

golden('rdpo', 'one pair', (check) => {
  const dpo = optimizationStep(rdpo({ form: 'dpo' }), pair)
  check.float32(-Math.log(Math.expm1(dpo.loss)), 0.2)
  check.float32(dpo.loss, 0.5981388694)
  check.float32(dpo.gradLogp!.data[0]!, -0.0450166003)
  check.float32(optimizationStep(rdpo({ form: 'conservative' }), pair).loss, 0.6181388694)
  const robust = optimizationStep(rdpo(), pair)
  check.float32(robust.loss, 0.5731388694)
  check.float32(robust.gradLogp!.data[0]! / 0.1, -0.5751660027)
  check.float32(robust.gradLogp!.data[0]!, -0.0575166003)
})

const ragged = {
  sequenceStart: [0, 2, 3, 4, 7],
  mask: [1, 1, 1, 0, 1, 0, 1],
  logp: Float32Array.of(-1, -0.5, -0.25, -3, -2, Number.NaN, -1.25),
  refLogp: Float32Array.of(-1.5, -0.75, -0.5, -3, -1, -1, -1.5),
  chosen: [0, 3, 2],
  rejected: [1, 0, 1],
}
const finite = Array.from(ragged.logp, (x) => (Number.isNaN(x) ? 0 : x))
const log = (h: number) => Math.log(1 / (1 + Math.exp(-h)))
const heads = {
  dpo: (h: number) => -log(h),
  conservative: (h: number) => -0.8 * log(h) - 0.2 * log(-h),
  robust: (h: number) => (-0.8 * log(h) + 0.2 * log(-h)) / 0.6,
}

edge('rdpo', 'ragged rollouts, pairs that share one, and one without tokens: the published equations', () => {
  for (const form of ['dpo', 'conservative', 'robust'] as const) {
    const exact = (logp: number[]) => {
      const s = [[0, 1], [2], [], [4, 6]].map((list) => list.reduce((a, t) => a + logp[t]! - ragged.refLogp[t]!, 0))
      return (heads[form](0.5 * (s[0]! - s[1]!)) + heads[form](0.5 * (s[3]! - s[0]!))) / 2
    }
    const { loss, gradLogp } = optimizationStep(rdpo({ form, beta: 0.5, flipRate: 0.2 }), ragged)
    closeIn32([loss], [exact(finite)])
    closeIn32(gradLogp!.data, centralDifferences(exact, finite))
  }
})

edge('rdpo', 'the robust loss is unbiased: over flipped labels its mean is that of DPO', () => {
  for (const h of [-3, -0.2, 0.7, 5]) {
    closeIn64([0.7 * robustHead(h, 0.3).loss + 0.3 * robustHead(-h, 0.3).loss], [-log(h)])
    closeIn64(
      [robustHead(h, 0.3).slope],
      centralDifferences(([x]) => robustHead(x!, 0.3).loss, [h]),
    )
  }
})

edge('rdpo', 'its slope does not vanish: far to the right it is -e / (1 - 2 e)', () => {
  expect(robustHead(800, 0.1).slope).toBe(-0.1 / 0.8)
  expect(robustHead(800, 0.1).loss).toBe(-100)
})

edge('rdpo', 'a flip rate of 0 is DPO; one of half or more is refused', () => {
  const [none, dpo] = [optimizationStep(rdpo({ flipRate: 0 }), pair), optimizationStep(rdpo({ form: 'dpo' }), pair)]
  expect([none.loss, ...none.gradLogp!.data]).toEqual([dpo.loss, ...dpo.gradLogp!.data])
  expect(() => rdpo({ flipRate: 0.5 })).toThrow('rdpo: flipRate is 0.5, expected a finite number >= 0 < 0.5')
})

edge('rdpo', 'no pairs, equal log-ratios, everything masked', () => {
  const none = optimizationStep(rdpo(), { ...pair, chosen: [], rejected: [] })
  expect([none.loss, ...none.gradLogp!.data]).toEqual([0, 0, 0, 0])
  closeIn32([optimizationStep(rdpo(), { ...pair, logp: pair.refLogp }).loss], [Math.LN2])
  const masked = optimizationStep(rdpo(), { ...pair, mask: [0, 0, 0] })
  expect([masked.loss, ...masked.gradLogp!.data]).toEqual([0, 0, 0, 0])
})

edge('rdpo', 'batches that it cannot take', () => {
  const { refLogp, ...batch } = pair
  expect(() => optimizationStep(rdpo(), batch)).toThrow(/rdpo: refLogp is missing from the batch, expected f32\[T\]/)
  const { chosen, ...rest } = pair
  expect(() => optimizationStep(rdpo(), rest as never)).toThrow(/rdpo: chosen is missing from the batch, expected integer\[M\]/) // biome-ignore format: one text
})
