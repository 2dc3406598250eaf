import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { turns } from '../../lib/addon/turns.js'
import { array, cpu, groupAdvantage, toBf16 } from '../../lib/index.js'
import type { OperationName } from '../../lib/ops.js'
import * as promises from '../../lib/promises.js'
import { identical } from '../support/compare.js'
import { random } from '../support/random.js'
import { type Sample, sample } from '../support/samples.js'
import { sweep } from '../support/sweep.js'

/** A call that takes a while: statistics of groups of 64. */
function large(rollouts: number) {
  const groupStart = Int32Array.from({ length: rollouts / 64 + 1 }, (_, g) => 64 * g)
  return { rewards: random(1).normals(rollouts), groupStart }
}

type Later = (...parameters: unknown[]) => Promise<object>
const later = promises as unknown as Record<string, Later>
const parts = { logp: Float32Array.of(-1), entropy: Float32Array.of(1), logsumexp: Float32Array.of(2) }
/** What stands before the options, where that is not the inputs of the table's row. */
const ownForms: Record<string, unknown[]> = {
  groupBy: [Int32Array.of(2, 1)],
  mergeMoments: [[{ count: 1, mean: 2, m2: 0 }]],
  mergeTokenLogprob: [[parts, { ...parts, logp: Float32Array.of(Number.NEGATIVE_INFINITY) }]],
  prefixLayout: [[{ prefix: 1, responses: [2] }]],
  tokenTree: [[[1, 2], [1]]], // biome-ignore format: short
  treeLayout: [{ length: [1], parent: [-1] }],
}
const plan = { R: 1, T: 1, D: 1, V: 2, dtype: 'f32' } as const
/** Every function of grpo-kernels/promises, with arguments that it takes. */
const publicCalls: Record<string, (options: object) => Promise<object>> = {
  ...Object.fromEntries(
    Object.entries(later).map(([name, f]) => {
      const { inputs, options }: Pick<Sample, 'inputs' | 'options'> =
        name in ownForms ? { inputs: {}, options: {} } : sample(name as OperationName)
      const { moments: given, segmentStart, segmentParent, segmentEnd, ...others } = inputs
      const layout = segmentStart && { layout: { segmentStart, segmentParent, segmentEnd } }
      const [count, mean, m2] = given?.data ?? []
      const chosen = { ...options, ...(given && { moments: { count, mean, m2 } }) }
      return [name, (more: object) => f(...(ownForms[name] ?? [{ ...others, ...layout }]), { ...chosen, ...more })]
    }),
  ),
  'linearPolicyLoss.plan': (more) => promises.linearPolicyLoss.plan(plan, more),
}

describe('promises', () => {
  test('give the bits of the synchronous twin', async () => {
    const inputs = large(1 << 16)
    identical((await promises.groupAdvantage(inputs)).advantage, groupAdvantage(inputs).advantage)
  })

  test('the event loop ticks during a long call', async () => {
    const inputs = large(1 << 22)
    let ticks = 0
    const timer = setInterval(() => ticks++, 1)
    const calls = [1, 2, 3, 4, 5, 6].map(() => promises.groupAdvantage(inputs, { scale: 'leave_one_out_std' }))
    const before = performance.now()
    await Promise.all(calls)
    clearInterval(timer)
    // A blocked loop would have ticked at most once between calls. Half of a tick a millisecond leaves room for a busy machine.
    expect(ticks).toBeGreaterThan(Math.max(6, (performance.now() - before) / 20))
  })

  test('resolve in order of completion', async () => {
    const order: string[] = []
    const note = (name: string) => () => order.push(name)
    const long = promises.groupAdvantage(large(1 << 22), { scale: 'leave_one_out_std' }).then(note('long'))
    const short = promises.groupAdvantage(large(64)).then(note('short'))
    await Promise.all([long, short])
    expect(order).toEqual(['short', 'long'])
  })

  test('bad input rejects, and is not thrown', async () => {
    const call = promises.groupAdvantage({ rewards: new Float32Array(2), groupStart: new Int32Array([0, 3]) })
    await expect(call).rejects.toMatchObject({ code: 'ERR_GRPO_VALUE', operation: 'groupAdvantage' })
  })
})

describe('AbortSignal', () => {
  test('aborted before the call', async () => {
    const signal = AbortSignal.abort(new Error('never mind'))
    await expect(promises.groupAdvantage(large(64), { signal })).rejects.toThrow('never mind')
  })

  test.each(Object.entries(publicCalls))('%s: aborted before the call', async (_, call) => {
    const reason = new Error('never mind')
    await expect(call({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    await expect(call({ signal: new AbortController().signal })).resolves.toBeTypeOf('object')
  })
  test('and these are all of them', () => {
    const { 'linearPolicyLoss.plan': _, ...rest } = publicCalls
    expect(Object.keys(rest).sort()).toEqual(Object.keys(promises).sort())
  })

  test('aborted while it runs, and while it waits for its turn', async () => {
    const controller = new AbortController()
    const inputs = large(1 << 22)
    const calls = [1, 2, 3, 4, 5].map(() =>
      promises.groupAdvantage(inputs, { scale: 'leave_one_out_std', signal: controller.signal }),
    )
    const settled = Promise.allSettled(calls)
    await new Promise((resolve) => setTimeout(resolve, 5))
    controller.abort()
    for (const call of await settled) expect(call).toMatchObject({ status: 'rejected', reason: { name: 'AbortError' } })
    // Nothing is left behind: the next call gets its turn.
    expect((await promises.groupAdvantage(large(64))).advantage.data.length).toBe(64)
  })

  test('one signal stops any number of calls, and nothing is printed', async () => {
    const warnings: Error[] = []
    const listen = (warning: Error) => warnings.push(warning)
    process.on('warning', listen)
    const controller = new AbortController()
    const inputs = large(1 << 20)
    const calls = Array.from({ length: 40 }, () => promises.groupAdvantage(inputs, { signal: controller.signal }))
    const settled = Promise.allSettled(calls)
    await new Promise((resolve) => setTimeout(resolve, 5))
    controller.abort()
    for (const call of await settled) expect(call).toMatchObject({ status: 'rejected', reason: { name: 'AbortError' } })
    await new Promise((resolve) => setTimeout(resolve, 5)) // warnings come later
    process.off('warning', listen)
    expect(warnings).toEqual([])
  })

  test('100,000 waiting calls are stopped by one signal without a search for each', async () => {
    const inTurn = turns(1)
    let end = () => {}
    const busy = inTurn(undefined, () => new Promise<void>((resolve) => (end = resolve)))
    const controller = new AbortController()
    const settled = Promise.allSettled(
      Array.from({ length: 100_000 }, () => inTurn(controller.signal, () => Promise.reject('was not stopped'))),
    )
    const kept = inTurn(undefined, async () => 'kept')
    await new Promise((resolve) => setImmediate(resolve))
    const before = performance.now()
    controller.abort('stopped')
    // With a search for each call, and the others moved up behind it, this takes many times as long.
    expect(performance.now() - before).toBeLessThan(1500)
    for (const call of await settled) expect(call).toEqual({ status: 'rejected', reason: 'stopped' })
    end()
    await busy
    expect(await kept).toBe('kept')
  })

  test('waiting work keeps its order, whatever is taken out before, between and behind it', async () => {
    const inTurn = turns(2)
    const ends: (() => void)[] = []
    const hold = () => new Promise<void>((resolve) => ends.push(resolve))
    const busy = [inTurn(undefined, hold), inTurn(undefined, hold)]
    const order: number[] = []
    const [odd, last] = [new AbortController(), new AbortController()]
    const calls = Array.from({ length: 12 }, (_, i) => {
      const signal = i % 2 === 1 || i === 0 ? odd.signal : i === 10 ? last.signal : undefined
      return inTurn(signal, async () => void order.push(i)).catch(() => undefined)
    })
    await Promise.resolve()
    odd.abort()
    last.abort()
    calls.push(inTurn(undefined, async () => void order.push(12)))
    for (const end of ends) end()
    await Promise.all([...busy, ...calls])
    expect(order).toEqual([2, 4, 6, 8, 12])
  })

  test('a signal that aborts after its call had a turn leaves the others theirs', async () => {
    const inTurn = turns(1)
    const controller = new AbortController()
    let end = () => {}
    const busy = inTurn(undefined, () => new Promise<void>((resolve) => (end = resolve)))
    const waiting = [controller.signal, undefined].map((signal) => inTurn(signal, async () => 'done'))
    await Promise.resolve()
    end()
    await busy
    expect(await Promise.all(waiting)).toEqual(['done', 'done'])
    controller.abort()
    // A call that the signal put back into the list would get the turn after the first of these, and never end it.
    const late = new Promise((resolve) => setTimeout(resolve, 2000, 'no turn'))
    for (const i of [1, 2]) expect(await Promise.race([inTurn(undefined, async () => i), late])).toBe(i)
  })

  test('what is aborted waits for no turn, and does not begin when one comes', async () => {
    const turn = () => new Promise((resolve) => setImmediate(resolve))
    for (let ticks = 0; ticks < 12; ticks++) {
      const inTurn = turns(1)
      let end = () => {}
      const hold = () => new Promise<void>((resolve) => (end = resolve))
      const busy = inTurn(undefined, hold)
      const controller = new AbortController()
      const begun: boolean[] = []
      const begin = async () => void begun.push(controller.signal.aborted)
      const next = inTurn(controller.signal, begin).catch((reason: unknown) => reason)
      await turn()
      end()
      for (let tick = 0; tick < ticks; tick++) await Promise.resolve()
      controller.abort('stopped')
      expect(await next, `${ticks}`).toBe(begun.length === 0 ? 'stopped' : undefined)
      expect(begun, `${ticks}`).not.toContain(true)
      await busy
      const long = inTurn(undefined, hold)
      const late = inTurn(controller.signal, begin).catch((reason: unknown) => reason)
      expect(await Promise.race([late, turn()])).toBe('stopped')
      end()
      await long
    }
  }, 10_000)

  test('an abort is looked at between the pieces of a call', async () => {
    const [R, V] = [4096, 4096]
    const logits = array(toBf16(new Float32Array(R * V)), [R, V], 'bf16')
    const gradLogits = array(new Float32Array(R * V), [R, V])
    const inputs = { logits, token: new Int32Array(R), logsumexp: new Float32Array(R), gradLogp: new Float32Array(R) }
    inputs.gradLogp.fill(1)
    const threads = cpu.threads
    cpu.threads = 1
    let untouched = 0
    // Once is enough. Several times, since a busy machine may let the whole call pass before this thread's turn.
    for (let attempt = 0; attempt < 5 && untouched === 0; attempt++) {
      gradLogits.data.fill(77)
      const controller = new AbortController()
      const call = promises.tokenLogprobBackward(inputs, { signal: controller.signal, out: { gradLogits } })
      const settled = Promise.allSettled([call])
      while (gradLogits.data[0] === 77) await new Promise((resolve) => setImmediate(resolve))
      controller.abort()
      expect(await settled).toMatchObject([{ status: 'rejected', reason: { name: 'AbortError' } }])
      untouched = gradLogits.data.reduce((count, value) => count + Number(value === 77), 0)
    }
    cpu.threads = threads
    expect(untouched % V).toBe(0)
    expect(untouched).toBeGreaterThan(0) // rows of pieces that had not begun
  })

  test('a signal that cannot forget its listeners does no harm', async () => {
    const signal = { aborted: false, addEventListener() {} } as never
    for (let i = 0; i < 3; i++) await promises.groupAdvantage(large(64), { signal })
    expect((await promises.groupAdvantage(large(64))).advantage.data.length).toBe(64)
  })

  test('a signal that aborts later changes nothing', async () => {
    const controller = new AbortController()
    const { advantage } = await promises.groupAdvantage(large(64), { signal: controller.signal })
    controller.abort()
    expect(advantage.data.length).toBe(64)
  })
})

const workers = sweep ? 200 : 24
test(`${workers} workers, terminated in the middle of a call, leave the process alive`, () => {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [join(__dirname, 'soak.cjs'), `${workers}`], {
    encoding: 'utf8',
    timeout: 240_000,
  })
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
  expect(stdout).toContain(`${workers} workers ended`)
}, 250_000)
