import { afterEach, describe, expect, test } from 'vitest'
import { native } from '../lib/addon/native.js'
import { cpu, fromBf16, fromF16, toBf16, toF16 } from '../lib/index.js'
import { backend } from './support/backend_kind.js'
import { refuses } from './support/compare.js'
import { instructionSetNames } from './support/instruction_sets.js'
import fc from './support/properties.js'
import { random } from './support/random.js'

const formats = {
  bf16: { exponentBits: 8, digits: 7, from: fromBf16, to: toBf16 },
  f16: { exponentBits: 5, digits: 10, from: fromF16, to: toF16 },
}
type Format = (typeof formats)['bf16']

// The value of a pattern by IEEE 754's definition: (-1)^sign 2^(exponent - bias) 1.fraction, subnormals without the 1.
function decode(bits: number, { exponentBits, digits }: Format): number {
  const sign = bits >>> 15 === 0 ? 1 : -1
  const exponent = (bits & 0x7fff) >>> digits
  const fraction = (bits & (2 ** digits - 1)) / 2 ** digits
  const bias = 2 ** (exponentBits - 1) - 1
  if (exponent === 2 ** exponentBits - 1) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias))
}

// The nearest pattern by search among all of them, the even one of two that are equally near. Infinity takes part as the
// number that would follow the largest, as the standard has it.
function nearest(format: Format): (x: number) => number {
  const infinity = (2 ** format.exponentBits - 1) << format.digits
  const value = Float64Array.from({ length: infinity + 1 }, (_, bits) => decode(bits, format))
  value[infinity] = 2 ** (2 ** (format.exponentBits - 1))
  return (x) => {
    const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0
    const magnitude = Math.abs(x)
    let low = 0
    let high = infinity
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if ((value[middle] as number) <= magnitude) low = middle
      else high = middle
    }
    const below = magnitude - (value[low] as number)
    const above = (value[high] as number) - magnitude
    return sign | (below < above || (below === above && low % 2 === 0) ? low : high)
  }
}

const patterns = Uint16Array.from({ length: 65536 }, (_, bits) => bits)
const floats = (bits: ArrayLike<number>) => new Float32Array(Uint32Array.from(bits).buffer)
const bitsOf = (x: Float32Array) => new Uint32Array(x.buffer, x.byteOffset, x.length)

/** The float32 after or before x, away from or towards 0. */
const step = (x: number, by: number) => {
  const cell = new Float32Array([x])
  const [bits = 0] = bitsOf(cell)
  bitsOf(cell)[0] = bits + by
  return cell[0] as number
}

/** Equal bits, but any NaN for a NaN; reports the first that differs. */
function sameRounding(to: Format['to'], from: Format['from'], x: Float32Array, expected: (x: number) => number): void {
  const actual = to(x)
  const back = from(actual)
  expect(actual.length).toBe(x.length)
  x.forEach((v, i) => {
    if (Number.isNaN(v) ? Number.isNaN(back[i]) : actual[i] === expected(v)) return
    expect.fail(`[${i}] ${v} became ${actual[i]?.toString(16)}, expected ${expected(v).toString(16)}`)
  })
}

const first = cpu.instructionSet
const threads = cpu.threads
const sets = instructionSetNames.filter((name) => native.setInstructionSet(name))
native.setInstructionSet(first)
afterEach(() => {
  cpu.instructionSet = first
  cpu.threads = threads
})

test('the instruction set that is tested beside the best one', () => {
  expect(sets).toContain(process.arch === 'arm64' ? 'neon' : 'baseline')
})

describe.each(sets)('%s', (set) => {
  const on = <Result>(body: () => Result) => {
    cpu.instructionSet = set
    return body()
  }

  describe.each(Object.entries(formats))('%s', (name, format) => {
    const { from, to } = format
    const search = nearest(format)
    const infinity = search(Number.POSITIVE_INFINITY)

    test('every pattern means what the standard says, and comes back', () => {
      const values = on(() => from(patterns))
      const back = on(() => to(values))
      for (let bits = 0; bits < 65536; bits++) {
        const exact = decode(bits, format)
        if (!Object.is(values[bits], exact))
          expect.fail(`${bits.toString(16)} became ${values[bits]}, expected ${exact}`)
        const fine = Number.isNaN(exact) ? Number.isNaN(decode(back[bits] as number, format)) : back[bits] === bits
        if (!fine) expect.fail(`${bits.toString(16)} came back as ${back[bits]?.toString(16)}`)
      }
    })

    test('halfway between neighbours: to even; a step beside it: to the nearer one', () => {
      const middles = Float32Array.from({ length: infinity }, (_, bits) => {
        const next = bits + 1 === infinity ? 2 ** (2 ** (format.exponentBits - 1)) : decode(bits + 1, format)
        return (decode(bits, format) + next) / 2
      })
      const even = (bits: number) => bits + (bits % 2)
      const expectAll = (x: Float32Array, wanted: (bits: number) => number) => {
        const [up, down] = on(() => [to(x), to(x.map((v) => -v))])
        x.forEach((v, bits) => {
          if (up[bits] === wanted(bits) && down[bits] === (wanted(bits) | 0x8000)) return
          expect.fail(`${v} became ${up[bits]?.toString(16)}, expected ${wanted(bits).toString(16)}`)
        })
      }
      expectAll(middles, even)
      expectAll(
        middles.map((v) => step(v, -1)),
        (bits) => bits,
      )
      expectAll(
        middles.map((v) => step(v, 1)),
        (bits) => bits + 1,
      )
    })

    // Arrays of 16 MiB and more are written past the caches, by 64 bytes from the first multiple of 64 on.
    test('large arrays have the bits of their parts, wherever they begin', () => {
      if (backend !== 'cpu') return
      const N = 2 ** 22 + 77
      const some = random(8).normals(4099, 1e3)
      const x = new Float32Array(N).map((_, i) => (i === 1000 ? Number.NaN : (some[i % 4099] as number)))
      for (const skip of [0, 3]) {
        const [narrow, wide] = [new Uint16Array(N + 8).fill(7), new Float32Array(N + 8).fill(7)]
        const there = on(() => to(x, { out: narrow.subarray(skip, skip + N) }))
        const back = on(() => from(there, { out: wide.subarray(skip, skip + N) }))
        for (const [begin, end] of [
          [0, 5000],
          [65_500, 65_700],
          [2 ** 21, 2 ** 21 + 300],
          [N - 5001, N],
        ] as const) {
          expect(there.slice(begin, end)).toEqual(on(() => to(x.slice(begin, end))))
          expect(back.slice(begin, end)).toEqual(on(() => from(there.slice(begin, end))))
        }
        for (const out of [narrow, wide])
          expect([...out.subarray(0, skip), ...out.subarray(skip + N)]).toEqual(Array(8).fill(7))
      }
    })

    test('random bits of float32 go to the nearest', () => {
      const r = random(17)
      const any = floats(Array.from({ length: 100_000 }, () => r.integer(2 ** 32)))
      const near = r.normals(100_000, name === 'f16' ? 2e-6 : 1) // half of them subnormal as half floats
      on(() => sameRounding(to, from, any, search))
      on(() => sameRounding(to, from, near, search))
    })

    test('NaN stays NaN whatever its payload, and infinity and -0 stay', () => {
      const nan = floats([0x7f800001, 0xff800001, 0x7f801000, 0x7fc00000, 0xffffffff, 0x7fbfffff, 0x7f80ffff])
      for (const bits of on(() => to(nan))) expect(decode(bits, format)).toBeNaN()
      const special = new Float32Array([Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, -0])
      expect(Array.from(on(() => to(special)))).toEqual([infinity, infinity | 0x8000, 0, 0x8000])
    })

    test('NaN at any place among numbers', () => {
      // More than the four vectors that are looked at together, of the widest instruction set.
      const x = new Float32Array(80).fill(1.5)
      const bits = bitsOf(x)
      for (const nan of [0x7f800001, 0xff800001, 0x7fffffff, 0xffffffff]) {
        for (let place = 0; place < x.length; place++) {
          bits[place] = nan
          const wrong = on(() => to(x)).findIndex((b, i) => (i === place ? !Number.isNaN(decode(b, format)) : b !== search(1.5))) // biome-ignore format: one line
          if (wrong >= 0) expect.fail(`with ${nan.toString(16)} at ${place} that at ${wrong} is another`)
          x[place] = 1.5
        }
      }
    })

    test('the largest, what overflows, and what underflows', () => {
      const largest = decode(infinity - 1, format)
      const smallest = decode(1, format)
      const half = (2 ** (2 ** (format.exponentBits - 1)) - largest) / 2
      const x = new Float32Array([largest, step(largest + half, -1), largest + half, 3.4028234663852886e38])
      expect(Array.from(on(() => to(x)))).toEqual([infinity - 1, infinity - 1, infinity, infinity])
      const tiny = new Float32Array([smallest, smallest / 2, step(smallest / 2, 1), 2 ** -149, -(2 ** -149)])
      expect(Array.from(on(() => to(tiny)))).toEqual([1, 0, 1, 0, 0x8000])
    })

    test('any length at any address', () => {
      const r = random(3)
      const x = r.normals(200)
      for (let n = 0; n <= 70; n++) {
        const shifted = x.subarray(n % 7, (n % 7) + n)
        const bits = on(() => to(shifted))
        expect(Array.from(bits)).toEqual(Array.from(shifted, search))
        expect(Array.from(on(() => from(bits)))).toEqual(Array.from(bits, (b) => decode(b, format)))
      }
    })
  })
})

describe.each(Object.entries(formats))('%s', (_, { from, to }) => {
  test('any number of threads', () => {
    const x = random(2).normals(300_000)
    cpu.threads = 1
    const bits = to(x)
    const back = from(bits)
    cpu.threads = 3
    expect(Buffer.compare(Buffer.from(to(x).buffer), Buffer.from(bits.buffer))).toBe(0)
    expect(Buffer.compare(Buffer.from(from(bits).buffer), Buffer.from(back.buffer))).toBe(0)
  })
  test('the argument stays as it was, and nothing gives nothing', () => {
    const x = new Float32Array([1 / 3, Number.NaN])
    const before = bitsOf(x.slice())
    to(x)
    expect(bitsOf(x)).toEqual(before)
    expect(to(new Float32Array(0))).toEqual(new Uint16Array(0))
    expect(from(new Uint16Array(0))).toEqual(new Float32Array(0))
  })
  test('property: rounding keeps order, and rounding twice is rounding once', () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true }), fc.float({ noNaN: true }), (a, b) => {
        const [low, high] = a <= b ? [a, b] : [b, a]
        const rounded = from(to(new Float32Array([low, high])))
        expect(rounded[0]).toBeLessThanOrEqual(rounded[1] as number)
        expect(from(to(rounded))).toEqual(rounded)
      }),
    )
  })
})

test('bad input', () => {
  const kind = { error: TypeError, code: 'ERR_GRPO_TYPE', argument: 'x' }
  for (const to of [toBf16, toF16]) {
    refuses(() => to([1, 2] as never), {
      ...kind,
      message: /^to(Bf16|F16): x is a plain array of 2, expected a Float32Array$/,
    })
    refuses(() => to(new Uint16Array(2) as never), kind)
    refuses(() => to(new Float64Array(2) as never), kind)
  }
  for (const from of [fromBf16, fromF16]) {
    refuses(() => from(new Float32Array(2) as never), {
      ...kind,
      message: /: x is a Float32Array, expected a Uint16Array$/,
    })
    refuses(() => from(undefined as never), kind)
  }
})

describe('into out', () => {
  const x = Float32Array.of(1, -2.5, 1e30, 0)
  const ways = [
    { name: 'toBf16', narrow: toBf16, wide: fromBf16 },
    { name: 'toF16', narrow: toF16, wide: fromF16 },
  ]
  test.each(ways)('$name and back: the same values, in the memory that is given', ({ narrow, wide }) => {
    const bits = new Uint16Array(4)
    expect(narrow(x, { out: bits })).toBe(bits)
    expect(bits).toEqual(narrow(x))
    const back = new Float32Array(4)
    expect(wide(bits, { out: back })).toBe(back)
    expect(back).toEqual(wide(bits))
  })

  test.each(ways)('of $name that does not fit is refused, and not written', ({ name, narrow }) => {
    const shape = { error: RangeError, code: 'ERR_GRPO_SHAPE', argument: 'out' }
    refuses(() => narrow(x, { out: new Uint16Array(5) }), { ...shape, message: /has length 5, expected 4, that of x/ })
    refuses(() => narrow(x, { out: new Float32Array(4) as never }), {
      error: TypeError,
      code: 'ERR_GRPO_TYPE',
      argument: 'out',
      message: new RegExp(`^${name}: out is a Float32Array, expected a Uint16Array`),
    })
    refuses(() => narrow(x, { to: 1 } as never), { error: TypeError, code: 'ERR_GRPO_OPTION', argument: 'to' })
    if (backend !== 'cpu') return // a copy on a device overlaps nothing
    const memory = Float32Array.from(x)
    const own = new Uint16Array(memory.buffer, 0, 4)
    refuses(() => narrow(memory, { out: own }), {
      error: RangeError,
      code: 'ERR_GRPO_VALUE',
      argument: 'out',
      message: new RegExp(`^${name}: out overlaps x, expected memory of its own$`),
    })
    expect(memory).toEqual(x)
  })
})
