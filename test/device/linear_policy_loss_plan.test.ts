// linearPolicyLoss.plan on a device, held to its word: a call gets along with the memory that it names, and not with less.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { backend } from '../support/backend_kind.js'
import { few } from '../support/sweep.js'

const [R, D, V, T, S, M] = [90, 32, 1501, 120, 9, 900]

/** Prints how a call ends on a simulated GPU with room for its inputs, its outputs and this part of what the plan says. */
const program = `
  const g = require('./dist/index.js')
  const [R, D, V, T, S, M] = ${JSON.stringify([R, D, V, T, S, M])}
  const { dtype, ratio, chunkRows, sets, bias } = JSON.parse(process.argv[1])
  if (process.argv[2] === 'plan') {
    console.log(g.linearPolicyLoss.plan({ R, T, S, D, V, dtype, ...(sets && { kept: M }), device: 0 }, { ratio, chunkRows }).peakBytes)
    process.exit()
  }
  const numbers = (n, shape = [n]) => {
    const x = Float32Array.from({ length: n }, (_, i) => Math.sin(i))
    return g.cuda.upload(dtype === 'f32' ? g.array(x, shape) : g.array(dtype === 'bf16' ? g.toBf16(x) : g.toF16(x), shape, dtype))
  }
  const inputs = {
    hidden: numbers(R * D, [R, D]), head: numbers(V * D, [V, D]), ...(bias && { headBias: numbers(V) }),
    token: Int32Array.from({ length: T }, (_, t) => (37 * t) % V),
    row: Int32Array.from({ length: T }, (_, t) => t % R),
    advantage: g.cuda.upload(Float32Array.from({ length: S }, (_, s) => s - 4)),
    mask: g.cuda.upload(new Uint8Array(T).fill(1)),
    sequenceStart: Int32Array.from({ length: S + 1 }, (_, s) => Math.floor((T * s) / S)),
    ...(sets && {
      keptStart: Int32Array.from({ length: R + 1 }, (_, r) => Math.min(M, Math.floor((2 * r * M) / R))),
      kept: Int32Array.from({ length: M }, (_, i) => i),
    }),
  }
  try {
    g.linearPolicyLoss(inputs, { ratio, chunkRows, entropyCoef: 0.1 })
    console.log('done')
  } catch (error) {
    console.log(error.cudaCode)
  }
  process.exit()`

function run(choices: object, memory: number | 'plan'): string {
  const env = { ...process.env, ...(memory !== 'plan' && { GRPO_SIMT_MEMORY: String(Math.floor(memory)) }) }
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    ['-e', program, JSON.stringify(choices), ...(memory === 'plan' ? ['plan'] : [])],
    { cwd: join(__dirname, '..', '..'), env, encoding: 'utf8' },
  )
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  return stdout.trim()
}

describe.skipIf(backend !== 'simt')('plan', () => {
  const cases = (['f32', 'bf16', 'f16'] as const).flatMap((dtype) =>
    (['token', 'sequence'] as const).flatMap((ratio) => [null, 30].map((chunkRows) => ({ dtype, ratio, chunkRows }))),
  )
  // Each case is three processes. Every other one has each dtype with each ratio, and either kind of chunk.
  const half = (rest: number) => cases.filter((_, i) => (i + (i >> 2)) % 2 === rest)
  /** Of hidden, head, headBias and their gradients; advantage and mask; loss, logp, entropy and statistics. */
  const arraysOf = (dtype: string, bias: boolean) =>
    2 * (dtype === 'f32' ? 4 : 2) * (R * D + V * D + (bias ? V : 0)) + 4 * S + T + 4 + 8 * T + 8 * 15

  test.each(few(half(0), half(1)))('holds a call to its word: %j', (options) => {
    // Gradients in bf16 take most memory without headBias, whose gradient wants others.
    const bias = options.dtype !== 'bf16'
    const peakBytes = Number(run(options, 'plan'))
    const ends = (of: boolean, part: number) =>
      run({ ...options, bias: of }, arraysOf(options.dtype, of) + part * peakBytes)
    expect(ends(bias, 1)).toBe('done')
    expect(ends(bias, 0.95)).toBe('cudaErrorMemoryAllocation')
    if (!bias) expect(ends(true, 1)).toBe('done')
  })
  test.each(few(['bf16'], ['f32', 'f16']))('holds a call with sets to its word: %s', (dtype) => {
    const bias = dtype !== 'bf16'
    const options = { dtype, ratio: 'sequence', chunkRows: 30, sets: true, bias }
    const arrays = arraysOf(dtype, bias)
    const peakBytes = Number(run(options, 'plan'))
    expect(run(options, arrays + peakBytes)).toBe('done')
    expect(run(options, arrays + 0.95 * peakBytes)).toBe('cudaErrorMemoryAllocation')
  })
})
