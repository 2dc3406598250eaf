// npx grpo-kernels check: whether the package computes here what it should. Every operation on small inputs, whose results
// are known numbers, on the CPU and on each GPU; on a GPU also against the CPU kernels, what each instruction leaves in
// registers, and what a call of the four families takes.
import { native } from '../addon/native.js'
import { must } from '../arrays/cuda_library.js'
import * as lib from '../index.js'
import { type About, about } from './about.js'
import { type Case, cases, onDevice, onHost, type Place } from './cases.js'
import { registers } from './self_test.js'
import { type Timing, timings } from './timing.js'

export interface Checked {
  /** An operation, or a section of the self-test. */
  readonly name: string
  /** The GPU's number; undefined: the CPU. */
  readonly device: number | undefined
  /** What differs, from what; undefined if nothing does. */
  readonly problem: string | undefined
}

export interface Report {
  readonly about: About
  readonly operations: readonly Checked[]
  readonly instructions: readonly Checked[]
  readonly timings: readonly Timing[]
  readonly passed: boolean
}

type Values = Record<string, readonly number[]>

function valuesOf(outputs: object): Values {
  const numbers = (x: unknown): readonly number[] => {
    if (typeof x === 'number') return [x]
    const { dtype, data } = lib.readSync(x as lib.HostArray)
    return Array.from(dtype === 'bf16' ? lib.fromBf16(data as Uint16Array) : (data as Float32Array))
  }
  const arrays = Object.entries(outputs).filter(
    ([, x]) => typeof x === 'number' || (typeof x === 'object' && x !== null),
  )
  const values = Object.fromEntries(arrays.map(([name, x]) => [name, numbers(x)]))
  for (const [, x] of arrays) if (typeof x === 'object' && 'pointer' in x) x.dispose()
  return values
}

/** Sums of a few numbers, each rounded once or twice: ten roundings at the size of the largest of them. */
const roundings = 10

function difference(got: Values, wanted: Values, unit: number): string | undefined {
  for (const [name, expected] of Object.entries(wanted)) {
    const values = got[name]
    if (values?.length !== expected.length) return `${name} has ${values?.length} values, expected ${expected.length}`
    const largest = Math.max(1, ...expected.map(Math.abs).filter(Number.isFinite))
    const at = expected.findIndex(
      (x, i) => !Object.is(x, values[i]) && !(Math.abs((values[i] as number) - x) <= roundings * unit * largest),
    )
    if (at >= 0) return `${name}[${at}] is ${values[at]}, expected ${expected[at]}`
  }
  return undefined
}

const thrown = (error: unknown) => (error instanceof Error ? error.message.split('\n')[0] : String(error))

function onCpu({ name, run, known, unit }: Case): { checked: Checked; values: Values } {
  try {
    const values = valuesOf(run(onHost))
    return { checked: { name, device: undefined, problem: difference(values, known, unit) }, values }
  } catch (error) {
    return { checked: { name, device: undefined, problem: thrown(error) }, values: {} }
  }
}

/** undefined where none of the arrays can lie on a device. */
function onGpu(device: number, { name, run, known, unit }: Case, ofCpu: Values): Checked | undefined {
  const upload = onDevice(device)
  const placed: lib.DeviceArray[] = []
  const place = ((...given: Parameters<Place>) => {
    placed.push(upload(...given))
    return placed.at(-1)
  }) as Place
  try {
    const values = valuesOf(run(place))
    if (placed.length === 0) return undefined
    return { name, device, problem: difference(values, known, unit) ?? difference(values, ofCpu, unit) }
  } catch (error) {
    return { name, device, problem: thrown(error) }
  } finally {
    for (const x of placed) x.dispose()
  }
}

function selfTest(device: number): Checked[] {
  const found = must('check', '', native.cuda.selfTest(device)) as Record<string, string>
  return Object.entries(found).map(([name, hash]) => ({
    name,
    device,
    problem: hash === registers[name] ? undefined : `the registers have the hash ${hash}, expected ${registers[name]}`,
  }))
}

/** @param quick  tiny sizes for the timings */
export function check(quick: boolean, list: readonly Case[] = cases): Report {
  const devices = lib.cuda.devices.map((_, device) => device)
  const operations = list.flatMap((one) => {
    const { checked, values } = onCpu(one)
    return [checked, ...devices.flatMap((device) => onGpu(device, one, values) ?? [])]
  })
  const instructions = devices.flatMap(selfTest)
  const passed = [...operations, ...instructions].every(({ problem }) => problem === undefined)
  return { about: about(), operations, instructions, timings: timings(quick), passed }
}
