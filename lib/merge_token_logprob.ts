import { type GrpoError, grpoError } from './addon/errors.js'
import { native } from './addon/native.js'
import { array, describe, type HostArray, hostArray } from './arrays/array.js'
import { type DeviceArray, isDeviceArray, live, uploaded } from './arrays/device_memory.js'
import type { ArrayInput } from './arrays/input.js'
import { type Call, call, chain, operation, thenDispose, value } from './call/run.js'
import type { CallOptions, Matches, OutputsOf } from './call/types.js'

/** What tokenLogprob returns for one part of the vocabulary. */
export interface TokenLogprobPart {
  logp: ArrayInput<'f32'>
  entropy: ArrayInput<'f32'>
  logsumexp: ArrayInput<'f32'>
}

export interface MergeTokenLogprobOptions extends CallOptions<'logp' | 'entropy' | 'logsumexp'> {}

type Inputs = TokenLogprobPart & {
  otherLogp: ArrayInput<'f32'>
  otherEntropy: ArrayInput<'f32'>
  otherLogsumexp: ArrayInput<'f32'>
}
export const matches: Matches<'mergeTokenLogprob', Inputs, MergeTokenLogprobOptions> = true

type Whole = OutputsOf<'mergeTokenLogprob'>
const names = ['logp', 'entropy', 'logsumexp'] as const

/** The parts as arrays of one length, so that the error for another is in the caller's words. */
function checked(list: readonly TokenLogprobPart[]): Whole[] {
  const refuse = (kind: 'kind' | 'value' | 'shape' | 'dtype' | 'device', argument: string, problem: string) =>
    grpoError(kind, 'mergeTokenLogprob', argument, problem)
  if (!Array.isArray(list)) throw refuse('kind', 'list', `is ${describe(list)}, expected a list`)
  if (list.length === 0) throw refuse('value', 'list', 'is empty, expected the outputs of tokenLogprob for each part')
  let length = -1
  let place: number | undefined // the device of list[0].logp; -1: the host
  const where = (of: number | undefined) => (of === -1 ? 'on the host' : `on device ${of}`)
  return Array.from(list, (part: unknown, i) => {
    if (typeof part !== 'object' || part === null) {
      throw refuse('kind', `list[${i}]`, `is ${describe(part)}, expected an object with ${names.join(', ')}`)
    }
    const arrays = names.map((name): HostArray<'f32'> => {
      const x = (part as Partial<Record<typeof name, unknown>>)[name]
      const argument = `list[${i}].${name}`
      const given = isDeviceArray(x) ? x : hostArray('mergeTokenLogprob', argument, x, false)
      if (isDeviceArray(given)) live('mergeTokenLogprob', argument, given)
      const lies = isDeviceArray(given) ? given.device : -1
      place ??= lies
      if (lies !== place) {
        throw refuse('device', argument, `lies ${where(lies)}, but list[0].logp lies ${where(place)}`)
      }
      const { dtype, shape } = given
      if (dtype !== 'f32') throw refuse('dtype', argument, `has dtype ${dtype}, expected f32`)
      if (length < 0) length = shape[0] as number
      if (shape.length !== 1 || shape[0] !== length) {
        throw refuse('shape', argument, `has shape [${shape.join(', ')}], expected [${length}], as list[0].logp`)
      }
      return given as HostArray<'f32'>
    })
    return { logp: arrays[0], entropy: arrays[1], logsumexp: arrays[2] } as Whole
  })
}

function overlap(x: HostArray | DeviceArray, y: HostArray | DeviceArray): boolean {
  if (!isDeviceArray(x) && !isDeviceArray(y)) return native.overlap(x.data as Float32Array, y.data as Float32Array)
  if (!isDeviceArray(x) || !isDeviceArray(y) || x.device !== y.device) return false
  const bytes = (of: DeviceArray) => BigInt(Float32Array.BYTES_PER_ELEMENT * (of.shape[0] ?? 0))
  return x.pointer < y.pointer + bytes(y) && y.pointer < x.pointer + bytes(x)
}

// Here and not in the C interface: a list is merged two parts at a time, and only the last merge writes into `out`.
function checkOverlap(list: readonly Whole[], out: MergeTokenLogprobOptions['out']): void {
  for (const name of names) {
    const given = out?.[name]
    if (given === undefined || given === null) continue
    const x = isDeviceArray(given) ? given : hostArray('mergeTokenLogprob', name, given, false)
    for (const [i, part] of list.entries()) {
      for (const input of names) {
        if (!overlap(x, part[input])) continue
        const problem = `overlaps list[${i}].${input}, expected memory of its own`
        throw grpoError('value', 'mergeTokenLogprob', name, problem)
      }
    }
  }
}

/** The outputs of a part whose logits are all -inf. */
function nothingLike(model: HostArray<'f32'> | DeviceArray): Whole {
  const filled = (x: number) => {
    const host = array(new Float32Array(model.shape[0] as number).fill(x))
    return isDeviceArray(model) ? uploaded('mergeTokenLogprob', 'list', model.device, host, 0n) : host
  }
  return { logp: filled(-Infinity), entropy: filled(0), logsumexp: filled(-Infinity) } as Whole
}

/** An error about the second of two parts, in the words of whoever gave a list in which it is part i. */
function ofList(error: GrpoError, i: number): GrpoError {
  if (error.code !== 'ERR_GRPO_VALUE' || error.argument !== 'otherLogp') return error
  const problem = error.message
    .replace(/^mergeTokenLogprob: otherLogp /, '')
    .replace('as logp does', `as ${i === 1 ? 'list[0].logp' : 'a part before it'} does`)
  return grpoError('value', 'mergeTokenLogprob', `list[${i}].logp`, problem)
}

/** What has been merged, joined with part i of the list. */
function join(merged: Whole, part: Whole, i: number, options: MergeTokenLogprobOptions): Call<Whole> {
  const others = { otherLogp: part.logp, otherEntropy: part.entropy, otherLogsumexp: part.logsumexp }
  const both = call('mergeTokenLogprob', { ...merged, ...others }, options)
  const named = (error: unknown): never => {
    throw ofList(error as GrpoError, i)
  }
  return {
    now: () => {
      try {
        return both.now()
      } catch (error) {
        return named(error)
      }
    },
    later: (signal) => both.later(signal).catch(named),
  }
}

/**
 * The outputs of tokenLogprob for the whole of a vocabulary, from those of its parts (one per rank).
 *
 *   logsumexp = log sum_i exp(logsumexp_i),   p_i = exp(logsumexp_i - logsumexp)
 *   entropy = sum_i p_i (entropy_i - log p_i),   logp = logp_i + log p_i for the part i that holds the token
 *
 * Computed in float64 from the float32 values of the parts, two parts at a time, from first to last; the order changes
 * last digits. Parts whose logits are all -inf add nothing; if all parts are, logp and logsumexp are -inf and the entropy
 * is 0. A token that is in no part has logp -inf. Masked tokens, whose values are 0 in every part, stay 0. NaN spreads.
 * A token that more than one part claims, with a finite logp, is an error: logits that every rank holds whole are no parts.
 * Device arrays are not looked at before the call: there its three outputs are NaN.
 *
 * Accuracy: within twice the largest error of the plain float32 formula on the same parts, plus the last digit, of
 * the whole vocabulary in float64.
 *
 * @param list  for each part { logp, entropy, logsumexp }, f32[T] each, computed with `vocabStart` and the same mask;
 *              a list of one gives copies
 * @returns logp, entropy, logsumexp f32[T], in nats, as tokenLogprob returns them and tokenLogprobBackward takes them
 * @throws RangeError if the list is empty, lengths differ, or a token has a finite logp in two parts
 * @see vocabulary-parallel cross entropy: Megatron-LM, arXiv:1909.08053
 * @example
 * import { array, mergeTokenLogprob, tokenLogprob } from 'grpo-kernels'
 *
 * const token = new Int32Array([2])
 * const parts = [
 *   tokenLogprob({ logits: array(new Float32Array([2, 1]), [1, 2]), token }, { vocabStart: 0 }), // tokens 0 and 1
 *   tokenLogprob({ logits: array(new Float32Array([0, -1]), [1, 2]), token }, { vocabStart: 2 }), // tokens 2 and 3
 * ]
 * console.log(parts.map(({ logp }) => logp.data[0]))
 * console.log(mergeTokenLogprob(parts).logp.data[0])
 * console.log(tokenLogprob({ logits: array(new Float32Array([2, 1, 0, -1]), [1, 4]), token }).logp.data[0])
 */
export const mergeTokenLogprob = operation(
  (list: readonly TokenLogprobPart[], options: MergeTokenLogprobOptions = {}): Call<Whole> => {
    const whole = checked(list)
    checkOverlap(whole, options?.out)
    const [first, ...others] = whole as [Whole, ...Whole[]]
    // Merging a part of nothing but -inf copies the other, and holds the options against their spec.
    if (others.length === 0) {
      const made = value(() => nothingLike(first.logp))
      return chain(made, (nothing) => thenDispose(Object.values(nothing), () => join(first, nothing, 1, options)))
    }
    // What lies between two merges is freed after the second, and computed on the stream of the last.
    const { stream } = options ?? {}
    const optionsOf = (i: number) => (i === others.length - 1 ? options : { ...(stream !== undefined && { stream }) })
    return others
      .slice(1)
      .reduce(
        (merged, part, i) =>
          chain(merged, (whole) => thenDispose(Object.values(whole), () => join(whole, part, i + 2, optionsOf(i + 1)))),
        join(first, others[0] as Whole, 1, optionsOf(0)),
      )
  },
)
