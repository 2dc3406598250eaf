// What a careless or hostile caller hands over in the place of one good input, option or output.
import type { ArraySpec, OptionSpec } from '../../lib/addon/signatures.js'
import { allocate, type HostArray } from '../../lib/arrays/array.js'
import { copyOf } from './arguments.js'

/** `must`: no call with it is right; else it may also compute. */
export interface Mutated {
  what: string
  value: unknown
  must: boolean
}

const must = (what: string, value: unknown): Mutated => ({ what, value, must: true })
const may = (what: string, value: unknown): Mutated => ({ what, value, must: false })

function detached(x: HostArray): HostArray {
  const copy = copyOf(x)
  structuredClone(copy.data.buffer, { transfer: [copy.data.buffer as ArrayBuffer] })
  return copy
}

function poked(x: HostArray, value: number, at: number): HostArray {
  const copy = copyOf(x)
  copy.data[at] = value
  return copy
}

/** Of an input that is there, or an output that is given. */
export function ofArray(spec: ArraySpec, x: HostArray, output: boolean): Mutated[] {
  const n = x.data.length
  const longer = [(x.shape[0] ?? 0) + 1, ...x.shape.slice(1)]
  const list: Mutated[] = [
    must('a text', 'text'),
    must('a number', 7),
    must('true', true),
    must('a function', () => x),
    must('a symbol', Symbol('x')),
    must('a bigint', 7n),
    must('an object', {}),
    must('an array without data', { dtype: x.dtype, shape: x.shape }),
    must('an array without a dtype that is one', { ...x, dtype: 'f31' }),
    must('a dtype of Object.prototype', { ...x, dtype: 'constructor' }),
    must('a shape of 4 more axes', { ...x, shape: [...x.shape, 1, 1, 1, 1] }),
    must('a shape of 2^31', { ...x, shape: [2 ** 31] }),
    must('a shape of -1', { ...x, shape: [-1, ...x.shape.slice(1)] }),
    must('a shape of NaN', { ...x, shape: [Number.NaN, ...x.shape.slice(1)] }),
    must('a shape of 1.5', { ...x, shape: [1.5] }),
    must('a shape that is no list', { ...x, shape: x.data.length }),
    must('a shape with more than the data', { ...x, shape: x.shape.map((axis) => axis + 1) }),
    must('another dtype than its data', { ...x, dtype: x.dtype === 'f64' ? 'f32' : 'f64' }),
    must('a DataView', new DataView(new ArrayBuffer(8))),
    must('a proxy', new Proxy({}, {})),
    may('a list', Array.from(x.data)),
    may('null', null),
    may('64-bit whole numbers', new BigInt64Array(n)),
    may('clamped bytes', new Uint8ClampedArray(n)),
    may('shared memory', { ...x, data: copyInto(x, new SharedArrayBuffer(Math.max(1, x.data.byteLength))) }),
    may('one more', allocate('fuzz', spec.name, x.dtype, longer)),
    may('one axis less', { ...x, shape: [n] }),
    may('another prototype', Object.setPrototypeOf(copyOf(x), null)),
    may('a length of its own', { ...x, data: Object.defineProperty(x.data.slice(), 'length', { value: 1e6 }) }),
  ]
  if (spec.dtypes.length > 0) list.push(must('another dtype', allocate('fuzz', spec.name, spec.dtypes.includes('u8') ? 'i32' : 'u8', [...x.shape]))) // biome-ignore format: one choice
  if (n > 0) list.push(must('memory that was transferred', detached(x)))
  if (output) return list
  if (!spec.optional) list.push(must('nothing', undefined))
  if (n > 0 && x.dtype === 'i32') {
    for (const value of [-1, 2 ** 31 - 1, -(2 ** 31), 1]) {
      for (const at of [0, n >> 1, n - 1]) list.push(may(`${value} at ${at}`, poked(x, value, at)))
    }
  }
  if (n > 0 && /^f/.test(x.dtype)) list.push(may('NaN', poked(x, Number.NaN, 0)), may('infinity', poked(x, Infinity, n - 1))) // biome-ignore format: two
  return list
}

function copyInto(x: HostArray, buffer: SharedArrayBuffer) {
  const data = new (x.data.constructor as Float32ArrayConstructor)(buffer as never, 0, x.data.length)
  data.set(x.data as Float32Array)
  return data
}

export function ofOption(spec: OptionSpec): Mutated[] {
  const list: Mutated[] = [
    must('a symbol', Symbol('x')),
    must('an object', {}),
    must('an object without a prototype', Object.create(null)),
    must('a list', [1]),
    must('a bigint', 1n),
    must('a function', () => 1),
    must('a text', 'no such choice'),
    must('a name of Object.prototype', 'constructor'),
  ]
  if (!spec.nullable) list.push(must('null', null))
  if (spec.kind === 'number' || spec.kind === 'integer') {
    list.push(must('NaN', Number.NaN), must('infinity', Infinity), must('-infinity', -Infinity), must('true', true))
    list.push(...[1e39, -1e39, 1e-46, -0, 1e300, 5e-324, -1, 2 ** 53].map((x) => may(String(x), x)))
  } else list.push(must('a number', 7))
  if (spec.kind === 'integer') list.push(must('a fraction', 0.5), must('less than 0', -2))
  return list
}
