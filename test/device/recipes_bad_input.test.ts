// Steps on a device that are refused: what, with which words, and nothing is left on the device.
import { afterEach, describe, expect, test, vi } from 'vitest'
import { native } from '../../lib/addon/native.js'
import { array, cuda, type DeviceArray } from '../../lib/index.js'
import { optimizationStep, prepareStep, recipes } from '../../lib/recipes/index.js'
import * as promises from '../../lib/recipes/promises.js'
import { without } from '../../lib/recipes/step/properties.js'
import { random } from '../support/random.js'

type Bag = Record<string, unknown>
const made: DeviceArray[] = []
afterEach(() => {
  vi.restoreAllMocks()
  for (const x of made.splice(0)) x.dispose()
})
const upload = (x: Parameters<typeof cuda.upload>[0], device = 0) => {
  const there = cuda.upload(x, { device })
  made.push(there)
  return there
}
const keep = <Done extends object>(done: Done): Done => {
  made.push(
    ...(Object.values(without(done, 'metrics' as never)).filter(
      (x) => typeof (x as DeviceArray)?.pointer === 'bigint',
    ) as DeviceArray[]),
  )
  return done
}

const numbers = random(3)
const logits = array(numbers.normals(20), [4, 5])
const hidden = array(numbers.normals(12), [4, 3])
const head = array(numbers.normals(15), [5, 3])
const logp = Float32Array.of(-1, -2, -1.5, -0.5)
const batch = {
  rewards: [1, 0],
  groupStart: [0, 2],
  sequenceStart: [0, 2, 4],
  token: Int32Array.of(1, 0, 4, 2),
  oldLogp: Float32Array.of(-1.1, -1.9, -1.4, -0.6),
}

/** Refused with these words as a step at once and as a promise; nothing is held on the device afterwards. */
async function refused(given: Bag, policy: Bag, options: Bag, sentence: string): Promise<void> {
  const held = new Set<unknown>()
  const { allocate, release } = native.cuda
  vi.spyOn(native.cuda, 'allocate').mockImplementation((...parameters) => {
    const pointer = allocate(...parameters)
    held.add(pointer)
    return pointer
  })
  vi.spyOn(native.cuda, 'release').mockImplementation((...parameters) => {
    held.delete(parameters[3])
    return release(...parameters)
  })
  const step = () => {
    const prepared = prepareStep(recipes.dapo(), given as never)
    try {
      prepared.loss(policy as never, options)
    } finally {
      prepared.dispose()
    }
  }
  expect(step).toThrow(sentence)
  const later = async () => {
    const prepared = await promises.prepareStep(recipes.dapo(), given as never)
    try {
      await prepared.loss(policy as never, options)
    } finally {
      prepared.dispose()
    }
  }
  await expect(later()).rejects.toThrow(sentence)
  const both = { ...given, ...policy }
  expect(() => optimizationStep(recipes.dapo(), both as never, undefined, options)).toThrow(sentence)
  vi.restoreAllMocks()
  expect(held.size).toBe(0)
}

describe('columns', () => {
  test('of rollouts do not lie on a device', async () => {
    const rewards = upload(Float32Array.of(1, 0))
    await refused({ ...batch, rewards }, { logp }, {}, 'dapo: rewards lies on device 0, where only columns of tokens may lie: await read(x) brings it') // biome-ignore format: one sentence
  })
  test('offsets neither', async () => {
    const sequenceStart = upload(Int32Array.of(0, 2, 4))
    await refused({ ...batch, sequenceStart }, { logp }, {}, 'dapo: sequenceStart lies on device 0, but a step computes on the host: await read(x) brings it') // biome-ignore format: one sentence
  })
  test('of another length', async () => {
    const oldLogp = upload(Float32Array.of(-1, -2))
    await refused({ ...batch, oldLogp }, { logp }, {}, 'dapo: oldLogp has 2 values, expected 4 (T = 4 from sequenceStart)') // biome-ignore format: one sentence
  })
  test('of another dtype', async () => {
    const oldLogp = upload(Int32Array.of(1, 2, 3, 4))
    await refused({ ...batch, oldLogp }, { logp }, {}, 'dapo: oldLogp has dtype i32, expected f32: log-probabilities under the policy that sampled') // biome-ignore format: one sentence
    const mask = upload(Float32Array.of(1, 1, 1, 1))
    await refused({ ...batch, mask }, { logp }, {}, 'dapo: mask has dtype f32, expected u8: which tokens are the policy’s own') // biome-ignore format: one sentence
  })
  test('that have been disposed of', async () => {
    const oldLogp = upload(batch.oldLogp)
    oldLogp.dispose()
    await refused({ ...batch, oldLogp }, { logp }, {}, 'dapo: oldLogp has been disposed')
  })
  test('on another device than the policy', async () => {
    expect(cuda.devices.length).toBeGreaterThan(1)
    const oldLogp = upload(batch.oldLogp, 1)
    const policy = { logits: upload(logits) }
    await refused({ ...batch, oldLogp }, policy, {}, 'dapo: oldLogp lies on device 1, but the policy lies on device 0')
  })
})

describe('the policy', () => {
  test('in two places', async () => {
    const there = { hidden: upload(hidden), head: upload(head, 1) }
    await refused(batch, there, {}, 'dapo: head lies on device 1, but hidden lies on device 0')
    await refused(batch, { hidden, head: upload(head) }, {}, 'dapo: head lies on device 0, but hidden lies on the host')
    await refused(batch, { hidden: upload(hidden), head }, {}, 'head lies on the host, but hidden lies on device 0')
  })
  test('disposed of', async () => {
    const there = upload(logits)
    there.dispose()
    await refused(batch, { logits: there }, {}, 'dapo: logits has been disposed')
  })
  test('log-probabilities of another dtype or length', async () => {
    const wide = upload(Int32Array.of(1, 2, 3, 4))
    await refused(batch, { logp: wide }, {}, 'dapo: logp has dtype i32, expected f32')
    await refused(batch, { logp: upload(Float32Array.of(1)) }, {}, 'dapo: logp has shape [1], expected 4 (T from sequenceStart)') // biome-ignore format: one sentence
  })
  test('an out on the other side', async () => {
    const there = { logits: upload(logits) }
    const out = { gradLogits: array(new Float32Array(20), [4, 5]) }
    await refused(batch, there, { out }, 'gradLogits lies on the host, but logits lies on device 0')
    await refused(batch, { logits }, { out: { gradLogits: upload(logits) } }, 'lies on device 0')
  })
})

describe('out of a loss of the method’s own', () => {
  const simpo = recipes.simpo()
  const pairs = { ...batch, chosen: [0], rejected: [1] }
  const prepared = () => prepareStep(simpo, pairs)
  test('is written where the policy is log-probabilities, on either side', () => {
    const expected = prepared().loss({ logp }).gradLogp.data
    const there = upload(new Float32Array(4))
    const onDevice = keep(prepared().loss({ logp: upload(logp) }, { out: { gradLogp: there } }))
    expect(onDevice.gradLogp).toBe(there)
    expect(there.readSync().data).toEqual(expected)
    const out = { gradLogp: new Float32Array(4) }
    expect(prepared().loss({ logp }, { out }).gradLogp.data).toBe(out.gradLogp)
    expect(out.gradLogp).toEqual(expected)
    expect('gradLogp' in prepared().loss({ logp }, { out: { gradLogp: null } })).toBe(false)
  })
  test('is refused where it does not fit', () => {
    const loss = (policy: object, gradLogp: unknown) => () => prepared().loss(policy as never, { out: { gradLogp } as never }) // biome-ignore format: one rule
    expect(loss({ logp }, upload(logp))).toThrow('simpo: gradLogp lies on device 0, but the policy lies on the host')
    expect(loss({ logp: upload(logp) }, new Float32Array(4))).toThrow('simpo: gradLogp lies on the host, but the policy lies on device 0') // biome-ignore format: one sentence
    expect(loss({ logp }, new Float32Array(3))).toThrow('simpo: gradLogp has shape [3], expected [4] (T from sequenceStart)') // biome-ignore format: one sentence
    expect(loss({ logp }, new Int32Array(4))).toThrow('simpo: gradLogp has dtype i32, expected f32')
    expect(loss({ logp: upload(logp) }, upload(new Float32Array(3)))).toThrow('simpo: gradLogp has shape [3], expected [4] (T from sequenceStart)') // biome-ignore format: one sentence
  })
})

describe('dispose', () => {
  test('there is no loss after it', async () => {
    const there = { logits: upload(logits) }
    const prepared = prepareStep(recipes.dapo(), batch)
    keep(prepared.loss(there))
    prepared.dispose()
    prepared.dispose()
    const sentence = 'dapo: prepared has been disposed of, expected one that has not: prepareStep makes another'
    expect(() => prepared.loss(there)).toThrow(sentence)
    const later = await promises.prepareStep(recipes.dapo(), batch)
    later[Symbol.dispose]()
    await expect(later.loss(there)).rejects.toThrow(sentence)
  })
  test('before a pending promise: it is fulfilled or rejected, and nothing stays behind', async () => {
    const there = { logits: upload(logits) }
    const expected = prepareStep(recipes.ipo(), { ...batch, rolloutLogp: batch.oldLogp }).loss({ logits }).loss
    const prepared = await promises.prepareStep(recipes.ipo(), { ...batch, rolloutLogp: batch.oldLogp })
    const pending = prepared.loss(there)
    prepared.dispose()
    const done = keep(await pending)
    expect((done.loss as unknown as DeviceArray<'f32'>).readSync().data[0]).toBeCloseTo(expected, 5)
  })
})
