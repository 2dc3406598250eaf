// How near a kernel has to come to what is expected of it.
import { operationNames } from '../../lib/addon/signatures.js'
import type { HostArray } from '../../lib/index.js'
import type { OperationName } from '../../lib/ops.js'
import { ulp, values } from '../support/numbers.js'
import { random } from '../support/random.js'
import type { Arguments } from './arguments.js'
import { type Expected, type Numbers, type Round, references } from './expectations.js'

/** Outputs that are whole numbers, or copies, or sums whose order is told. */
const exactly: ReadonlySet<OperationName> = new Set(
  operationNames.filter((name) => /^(treeLayout|select|maskIndex|gatherRows|scatterRows|groupBy)/.test(name)),
)

/** Products of float32: inputs of which the last place is nobody's, since a kernel may scale them before or after. */
const factors: Partial<Record<OperationName, readonly string[]>> = {
  prefixAttention: ['q', 'k', 'v'],
  prefixAttentionBackward: ['q', 'k', 'v', 'gradOut'],
  linearTokenLogprob: ['hidden', 'head', 'headBias'],
  linearTokenLogprobBackward: ['hidden', 'head', 'headBias'],
  linearPolicyLoss: ['hidden', 'head', 'headBias'],
}

type Random = ReturnType<typeof random>
const one = new DataView(new ArrayBuffer(4))

/** To the float32 number below or above, whichever comes. */
function eitherWay({ uniform }: Random): Round {
  return (x) => {
    const nearest = Math.fround(x)
    if (nearest === x || Number.isNaN(x) || uniform() < 0.5) return nearest
    if (nearest === 0) return Math.sign(x) * 2 ** -149
    one.setFloat32(0, nearest)
    // These bits count away from 0.
    one.setInt32(0, one.getInt32(0) + (Math.abs(nearest) < Math.abs(x) ? 1 : -1))
    return one.getFloat32(0)
  }
}

function moved(name: OperationName, args: Arguments, r: Random, round: Round): Arguments {
  const inputs = Object.entries(args.inputs).map(([input, x]): [string, HostArray] => {
    if (!factors[name]?.includes(input)) return [input, x]
    const data = Float32Array.from(values(x), (v) => round(v * (1 + (r.uniform() - 0.5) * 2 ** -29)))
    return [input, { dtype: 'f32', shape: x.shape, data }]
  })
  return { ...args, inputs: Object.fromEntries(inputs) }
}

/** How far the plain formula is off, output by output. */
function errors(exact: Expected, plain: Expected): Record<string, number> {
  return Object.fromEntries(
    Object.entries(exact).map(([key, expected]) => {
      let error = 0
      for (let i = 0; i < expected.length; i++) {
        const off = Math.abs((plain[key]?.[i] as number) - expected[i]!)
        if (Number.isFinite(off)) error = Math.max(error, off)
      }
      return [key, error]
    }),
  )
}

/** Of the option that all gradients are multiplied by too. */
function expectedOf(
  name: Exclude<OperationName, 'linearPolicyLossPlan'>,
  args: Arguments,
  round: Round,
  types: Record<string, string>,
): Expected {
  const factor = (args.options.gradScale as number | undefined) ?? 1
  const list = Object.entries(references[name](args, round, types)).map(([key, x]): [string, Numbers] => {
    if (key === 'terms') return [key, Array.from(x, (v) => Math.abs(v * factor))]
    return [key, x && key.startsWith('grad') ? Array.from(x, (v) => round(v * factor)) : x]
  })
  return Object.fromEntries(list)
}

/**
 * What is wrong with the outputs: a sentence, or nothing.
 *
 * The rule is that of the tests: at most twice the largest error of the plain float32 formula, and one digit of the result.
 * But there the largest is one of hundreds of numbers; of a few it may be 0 by luck, and of whole numbers it is. So where
 * an output seems wrong, the formula is computed eight times more, rounded up or down at random at each step, and what
 * kernels multiply is moved within its last digit. e^x may be 0 below 2^-126. Entropies, whose terms have the size of the
 * logits (2^17 here), gradients of logits at their tokens, and means are sums of float64, in an order of the kernel's.
 */
export function wrongNumbers(
  name: OperationName,
  args: Arguments,
  outputs: Record<string, HostArray>,
): string | undefined {
  if (name === 'linearPolicyLossPlan') {
    const bytes = outputs.peakBytes?.data[0] as number
    return bytes >= 0 && Number.isFinite(bytes) ? undefined : `peakBytes is ${bytes}`
  }
  const types = Object.fromEntries(Object.entries(outputs).map(([key, x]) => [key, x.dtype]))
  const exact = expectedOf(name, args, (x) => x, types)
  if (exactly.has(name)) return farFrom(exact, outputs, () => 0)
  const limits = errors(exact, expectedOf(name, args, Math.fround, types))
  const room = (key: string) => {
    if (key === 'entropy') return 2 ** -36
    const [terms = 0] = Array.from(exact.terms ?? [])
    return terms * (['moments', 'mean'].includes(key) ? 2 ** -52 : key.startsWith('grad') ? 2 ** -45 : 0)
  }
  const limit = (key: string) => 2 * (limits[key] as number) + 2 ** -119 + room(key)
  if (farFrom(exact, outputs, limit) === undefined) return undefined
  const r = random(1)
  for (let i = 0; i < 8; i++) {
    const round = eitherWay(r)
    const again = errors(exact, expectedOf(name, moved(name, args, r, round), round, types))
    for (const key of Object.keys(limits)) limits[key] = Math.max(limits[key] as number, again[key] as number)
  }
  return farFrom(exact, outputs, limit)
}

function farFrom(exact: Expected, outputs: Record<string, HostArray>, limitOf: (key: string) => number) {
  for (const [key, output] of Object.entries(outputs)) {
    const expected = exact[key]
    if (expected === undefined) return `${key} has no reference`
    const actual = values(output)
    if (actual.length !== expected.length) return `${key} has length ${actual.length}, expected ${expected.length}`
    for (let i = 0; i < expected.length; i++) {
      const [a, e] = [actual[i]!, expected[i]!]
      if (Object.is(a, e) || a === e) continue
      // A whole number, a copy or a sum in its order is exact, but for an output of 16 bits.
      const isExact = /^[iu]/.test(output.dtype) || (limitOf(key) === 0 && !/16$/.test(output.dtype))
      const digit = isExact ? 0 : ulp(e, output.dtype)
      const limit = limitOf(key) + digit
      const overflows = Math.abs(e) > (output.dtype === 'f16' ? 65504 : 3.4e38) && !Number.isFinite(a)
      if (Math.abs(a - e) <= limit || overflows) continue
      return `${key}[${i}] is ${a}, expected ${e}, off by ${Math.abs(a - e)}, limit ${limit}`
    }
  }
  return undefined
}
