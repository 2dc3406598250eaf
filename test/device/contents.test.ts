// What a call on device arrays does with contents that nobody looked at before: offsets, ids and rows that lie on the
// device may hold anything. Nothing is read or written out of bounds, which the interpreter reports as an error of the next
// wait, and nothing waits. Run for every operation of the table, on device arrays only (vitest.config.mts).
import { describe, expect, test } from 'vitest'
import { signatures } from '../../lib/addon/signatures.js'
import type { HostArray } from '../../lib/arrays/array.js'
import { call } from '../../lib/call/run.js'
import { cuda, type DeviceArray } from '../../lib/index.js'
import type { OperationName } from '../../lib/ops.js'
import { identical } from '../support/compare.js'
import { onlyOperations } from '../support/only.js'
import { type Sample, sample, sampled } from '../support/samples.js'
import { few } from '../support/sweep.js'

/** Every input on the device, i32 arrays too. */
function run(name: OperationName, { inputs, options, sizes }: Sample): Record<string, HostArray> {
  const uploaded = Object.entries(inputs).map(([key, x]) => [key, cuda.upload(x)] as const)
  const known = { ...sizes }
  // What only the contents of an offsets array would give.
  for (const spec of signatures[name].inputs) if (spec.offsets === 'T' && known.T === undefined) known.T = 20
  const made: DeviceArray[] = uploaded.map(([, x]) => x)
  try {
    const result = call(name, Object.fromEntries(uploaded) as never, options as never, known).now()
    const outputs = Object.entries(result as unknown as Record<string, DeviceArray>)
    made.push(...outputs.map(([, x]) => x))
    return Object.fromEntries(outputs.map(([key, x]) => [key, x.readSync()]))
  } finally {
    for (const x of made) x.dispose()
  }
}

/** The places that hold what the interpreter fills memory with. */
function unwritten({ data }: HostArray): number[] {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  const width = data.BYTES_PER_ELEMENT
  const places = Array.from({ length: data.length }, (_, i) => i)
  return places.filter((i) => bytes.subarray(i * width, (i + 1) * width).every((byte) => byte === 0xcb))
}

/** A plan has no arrays, hence nothing to lie on a device. */
const operations = onlyOperations(sampled).filter((name) => signatures[name].inputs.length > 0)

describe.each(operations)('%s', (name) => {
  const poked = signatures[name].inputs.filter((spec) => spec.dtypes.includes('i32') && spec.dtypes.length === 1)

  test('computes with i32 arrays on the device, twice the same bits', () => {
    const expected = run(name, sample(name))
    const again = run(name, sample(name))
    expect(Object.keys(again)).toEqual(Object.keys(expected))
    for (const key of Object.keys(expected)) identical(again[key] as HostArray, expected[key] as HostArray)
  })

  test.each(poked.map((spec) => spec.name))('%s with bad contents', (input) => {
    const good = sample(name)
    const x = good.inputs[input]
    if (x === undefined) return
    const last = x.data.length - 1
    for (const value of few([-1, 7, 2 ** 31 - 1, -(2 ** 31)], [1, 2 ** 30])) {
      for (const at of new Set([0, Math.floor(last / 2), last])) {
        const bad = { ...x, data: x.data.slice() } as HostArray
        bad.data[at] = value
        const inputs = { ...good.inputs, [input]: bad }
        const what = `${input}[${at}] = ${value}`
        let outputs: Record<string, HostArray> = {}
        expect(() => (outputs = run(name, { ...good, inputs })), what).not.toThrow()
        for (const [key, y] of Object.entries(outputs)) expect(unwritten(y), `${key} with ${what}`).toEqual([])
      }
    }
  })
})
