import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { groupAdvantage } from '../../lib/index.js'
import * as promises from '../../lib/promises.js'
import { identical } from '../support/compare.js'
import { random } from '../support/random.js'
import { sweep } from '../support/sweep.js'

/** A call that takes a while: statistics of groups of 64. */
function large(rollouts: number) {
  const groupStart = Int32Array.from({ length: rollouts / 64 + 1 }, (_, g) => 64 * g)
  return { rewards: random(1).normals(rollouts), groupStart }
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

const workers = sweep ? 200 : 40
test(`${workers} workers, terminated in the middle of a call, leave the process alive`, () => {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [join(__dirname, 'soak.cjs'), `${workers}`], {
    encoding: 'utf8',
    timeout: 240_000,
  })
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
  expect(stdout).toContain(`${workers} workers ended`)
}, 250_000)
