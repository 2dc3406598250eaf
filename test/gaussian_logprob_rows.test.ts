// More rows than fit the smaller axes of a grid, or 16 bits.
import { expect, test } from 'vitest'
import { array, gaussianLogprob, gaussianLogprobBackward } from '../lib/index.js'
import { reference } from './references/gaussian_logprob.js'
import { accurate } from './support/compare.js'
import { random } from './support/random.js'

test('65,600 rows, the last ones too', () => {
  const [T, D] = [65_600, 1]
  const r = random(12)
  const [x, mean, oldMean] = [r.normals(T), r.normals(T), r.normals(T)]
  const [std, gradLogp, gradLogRatio] = [r.uniforms(T, 0.3, 2), r.normals(T), r.normals(T)]
  const rows = (data: Float32Array) => array(data, [T, D])
  const inputs = { x: rows(x), mean: rows(mean), oldMean: rows(oldMean), std: array(std) }
  const { logp, logRatio } = gaussianLogprob(inputs)
  const { gradMean } = gaussianLogprobBackward({ ...inputs, gradLogp, gradLogRatio })
  const [exact, plain] = [undefined, Math.fround].map((round) =>
    reference({ x, mean, std, oldMean }, D, gradLogp, gradLogRatio, round),
  )
  accurate(logp, exact!.logp, plain!.logp)
  accurate(logRatio!, exact!.logRatio, plain!.logRatio)
  accurate(gradMean, exact!.gradMean, plain!.gradMean)
  expect(exact!.logp.length).toBe(T)
})
