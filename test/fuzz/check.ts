// A call of an operation, and what has to hold for it, whatever it is called with: numbers near the reference, the same
// bits again, nothing written that is nobody's, inputs as they were; or an error that says whose argument is at fault.

import { signatures } from '../../lib/addon/signatures.js'
import type { HostArray } from '../../lib/arrays/array.js'
import type { Call } from '../../lib/call/run.js'
import { cpu } from '../../lib/index.js'
import { type OperationName, ops } from '../../lib/ops.js'
import { leftAlone, poisoned, poisons } from '../support/poison.js'
import { type Arguments, argumentsOf, copyOf } from './arguments.js'
import type { OperationCase } from './cases.js'
import { type Mutated, ofArray, ofOption } from './mutations.js'
import { wrongNumbers } from './wrong_numbers.js'

type Outputs = Record<string, HostArray>
type MakeCall = (name: never, inputs: never, options: never, sizes: never) => Call<Outputs>

/** Computed, refused, or a sentence of what is wrong. */
export type Verdict = { what: 'computed' | 'refused' } | { what: 'wrong'; text: string }
const wrong = (text: string): Verdict => ({ what: 'wrong', text })

const bytesOf = (x: HostArray) => Buffer.from(x.data.buffer, x.data.byteOffset, x.data.byteLength)
const sameBits = (a: HostArray, b: HostArray) => Buffer.compare(bytesOf(a), bytesOf(b)) === 0

/** What is wrong with an error, if it is none of the package's. */
export function badError(error: unknown, operation: string | undefined): string | undefined {
  const { code, operation: named, argument, message } = (error ?? {}) as Record<string, unknown>
  if (!(error instanceof Error)) return `threw ${String(error)}, which is no Error`
  if (!/^ERR_GRPO_[A-Z]+$/.test(String(code))) return `threw ${error.stack ?? message}, without a code`
  if (operation !== undefined && named !== operation) return `threw an error of operation ${named}: ${message}`
  if (typeof argument !== 'string') return `threw an error whose argument is ${argument}: ${message}`
  if (!/^\S+: \S/.test(String(message))) return `threw an error without a sentence: ${message}`
  if (/\{\w+\}/.test(String(message))) return `threw an error with a name of the C interface: ${message}`
  return undefined
}

export class Checker {
  constructor(private readonly call: MakeCall) {}

  async check(c: OperationCase): Promise<Verdict> {
    cpu.threads = c.threads
    const args = argumentsOf(c, (name, given) => this.make(name, given).now())
    const before = Object.entries(args.inputs).map(([name, x]) => [name, x, copyOf(x)] as const)
    const verdict = c.mutation ? this.mutated(c, args) : c.later ? await this.later(c, args) : this.valid(c, args)
    for (const [name, x, copy] of before) if (!sameBits(x, copy)) return wrong(`${name} is an input, and was changed`)
    return verdict
  }

  private make(name: OperationName, { inputs, options, sizes }: Arguments, out?: object): Call<Outputs> {
    const given = { ...options, ...(out && { out }) }
    return this.call(name as never, inputs as never, given as never, sizes as never)
  }

  private run(c: OperationCase, args: Arguments, out?: object): Outputs | Error {
    try {
      return this.make(c.name, args, out).now() as Outputs
    } catch (error) {
      return error as Error
    }
  }

  private valid(c: OperationCase, args: Arguments): Verdict {
    const first = this.run(c, args)
    if (first instanceof Error) {
      const text = badError(first, c.name)
      return text === undefined ? { what: 'refused' } : wrong(text)
    }
    for (const poison of poisons) {
      const out = Object.fromEntries(Object.entries(first).map(([name, x]) => [name, poisoned(x, poison)]))
      const again = this.run(c, args, out)
      if (again instanceof Error) return wrong(`computes, and with outputs given: ${again.message}`)
      for (const [name, x] of Object.entries(first)) {
        if (!sameBits(x, out[name] as HostArray))
          return wrong(`${name} depends on what the memory held: bytes of ${poison}`)
        if (!leftAlone(out[name] as HostArray, poison)) return wrong(`memory beside ${name} was written`)
      }
    }
    const unwanted = c.unwanted.filter((name) => name in first)
    if (unwanted.length > 0) {
      const less = this.run(c, args, Object.fromEntries(unwanted.map((name) => [name, null])))
      if (less instanceof Error) return wrong(`computes, and without ${unwanted.join(', ')}: ${less.message}`)
      for (const [name, x] of Object.entries(first)) {
        if (unwanted.includes(name) ? name in less : !sameBits(x, less[name] as HostArray)) {
          return wrong(`${name} is another one where ${unwanted.join(', ')} is not wanted`)
        }
      }
    }
    if (c.contents === 'special') return { what: 'computed' }
    // What rounding probabilities costs few tokens is no limit for others: prefix_attention_options.test.ts holds it.
    if (c.name.startsWith('prefixAttention') && c.options?.precision === 'standard') return { what: 'computed' }
    const text = wrongNumbers(c.name, args, first)
    return text === undefined ? { what: 'computed' } : wrong(text)
  }

  private async later(c: OperationCase, args: Arguments): Promise<Verdict> {
    const expected = this.run(c, args)
    const controller = new AbortController()
    const abort = c.later?.abort ?? -1
    if (abort === 0) controller.abort()
    let result: Outputs | Error
    try {
      const promise = this.make(c.name, args).later(controller.signal)
      if (abort === 1) controller.abort()
      else if (abort > 1) setImmediate(() => controller.abort())
      result = (await promise) as Outputs
    } catch (error) {
      result = error as Error
    }
    if (result instanceof Error) {
      if (controller.signal.aborted && result.name === 'AbortError') return { what: 'computed' }
      const text = badError(result, c.name)
      if (text !== undefined) return wrong(`as a promise: ${text}`)
      return expected instanceof Error ? { what: 'refused' } : wrong(`computes, and as a promise: ${result.message}`)
    }
    if (expected instanceof Error) return wrong(`refused (${expected.message}), and as a promise it computes`)
    if (abort === 0) return wrong('aborted before the call, and the promise computes')
    for (const [name, x] of Object.entries(expected)) {
      if (!sameBits(x, result[name] as HostArray)) return wrong(`${name} is another one as a promise`)
    }
    return { what: 'computed' }
  }

  private mutated(c: OperationCase, args: Arguments): Verdict {
    const good = this.run(c, args)
    if (good instanceof Error) {
      const text = badError(good, c.name)
      return text === undefined ? { what: 'refused' } : wrong(text)
    }
    const poison = poisons[c.seed % 2]!
    const out: Record<string, unknown> = Object.fromEntries(
      Object.entries(good).map(([name, x]) => [name, poisoned(x, poison)]),
    )
    const given = Object.values(out) as HostArray[]
    const { of, at, how } = c.mutation as NonNullable<OperationCase['mutation']>
    const signature = signatures[c.name]
    const bad: Arguments = { ...args, inputs: { ...args.inputs }, options: { ...args.options } }
    let mutated: Mutated
    let name: string
    const pick = <T>(list: readonly T[], i: number) => list[i % list.length]
    if (of === 'option') {
      const spec = pick(signature.options, at)
      mutated =
        spec && how > 0 ? (pick(ofOption(spec), how) as Mutated) : { what: 'an unknown name', value: 1, must: true }
      name = spec && how > 0 ? spec.name : 'noSuchOption'
      bad.options[name] = mutated.value
    } else {
      const output = of === 'output'
      const arrays = output ? (given.length > 0 ? good : {}) : args.inputs
      const specs = signature[output ? 'outputs' : 'inputs'].filter((spec) => spec.name in arrays)
      const spec = pick(specs, at)
      name = spec && how > 0 ? spec.name : 'noSuchArray'
      mutated = spec && how > 0 ? (pick(ofArray(spec, arrays[spec.name] as HostArray, output), how) as Mutated) : { what: 'an unknown name', value: new Float32Array(1), must: true } // biome-ignore format: a line
      if (output) out[name] = mutated.value
      else (bad.inputs as Record<string, unknown>)[name] = mutated.value
    }
    const result = this.run(c, bad, out)
    const what = `${of} ${name}: ${mutated.what}`
    if (!(result instanceof Error)) return mutated.must ? wrong(`${what}: was taken`) : { what: 'computed' }
    const text = badError(result, c.name)
    if (text !== undefined) return wrong(`${what}: ${text}`)
    const untouched = given.every(
      (x) => leftAlone(x, poison) && new Uint8Array(bytesOf(x)).every((byte) => byte === poison),
    )
    return untouched ? { what: 'refused' } : wrong(`${what}: refused, and outputs were written`)
  }
}

export const isOperation = (name: string): boolean => name in ops
