// How the CPU cuts the gradients of attention into tasks leaves no trace in them, nor does which of them are wanted. A
// device cuts them in one way alone.
import { afterEach, expect, test } from 'vitest'
import { array, cpu, prefixAttention, prefixAttentionBackward, prefixLayout, toBf16 } from '../lib/index.js'
import { cpuTest } from './support/backend_kind.js'
import { identical } from './support/compare.js'
import { random } from './support/random.js'

const threads = cpu.threads
afterEach(() => {
  cpu.threads = threads
})

// Without gradQ threads own blocks of keys: of 256 where there are 16 for each thread, else of 64. Gradients of 16 bits
// are summed in float32 rows of the block.
test('blocks of 256 keys and of 64: the same bits', () => {
  const [P, H, D] = [600, 8, 8]
  const r = random(4)
  const make = () => array(toBf16(r.normals(P * H * D)), [P, H, D], 'bf16')
  const inputs = { q: make(), k: make(), v: make(), layout: prefixLayout([{ prefix: 270, responses: [257, 70, 3] }]) }
  const given = { ...inputs, gradOut: make(), ...prefixAttention(inputs) }
  const run = (count: number) => {
    cpu.threads = count
    return prefixAttentionBackward(given, { out: { gradQ: null } })
  }
  const [large, small] = [run(1), run(2)] // there are 18 of 256
  identical(large.gradK, small.gradK)
  identical(large.gradV, small.gradV)
})

test('each gradient alone, and each pair: the same bits', () => {
  const r = random(5)
  const make = () => array(r.normals(9 * 2 * 4), [9, 2, 4])
  const inputs = { q: make(), k: make(), v: make(), layout: prefixLayout([{ prefix: 4, responses: [2, 3] }]) }
  const given = { ...inputs, gradOut: make(), ...prefixAttention(inputs) }
  const all = prefixAttentionBackward(given)
  const names = ['gradQ', 'gradK', 'gradV'] as const
  for (let wanted = 1; wanted < 7; wanted++) {
    const some = names.filter((_, i) => (wanted >> i) & 1)
    const out = Object.fromEntries(names.filter((name) => !some.includes(name)).map((name) => [name, null]))
    const result = prefixAttentionBackward(given, { out })
    expect(Object.keys(result)).toEqual(some)
    for (const name of some) identical(result[name], all[name])
  }
})

// Each tile walks over the segments that it may see. Time of the processor, of which other programs take nothing.
cpuTest('the work of many prompts follows their number', () => {
  const [H, D] = [1, 4]
  cpu.threads = 1
  const timeOf = (prompts: number) => {
    const make = () => array(new Float32Array(prompts * D), [prompts, H, D])
    const layout = prefixLayout(Array.from({ length: prompts }, () => ({ prefix: 1, responses: [] })))
    const inputs = { q: make(), k: make(), v: make(), layout }
    const times = [1, 2, 3].map(() => {
      const { user, system } = process.cpuUsage()
      prefixAttention(inputs)
      const after = process.cpuUsage()
      return after.user - user + after.system - system
    })
    return Math.min(...times)
  }
  timeOf(4_000)
  // Four times as many take four times as long, and sixteen times where each walks over all before it.
  expect(timeOf(80_000)).toBeLessThan(9 * timeOf(20_000))
})
