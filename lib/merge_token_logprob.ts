import { type GrpoError, grpoError } from './addon/errors.js'
import { native } from './addon/native.js'
import { allocate, describe, type HostArray, hostArray } from './arrays/array.js'
import { type DeviceArray, emptyArray, isDeviceArray, live, reshaped, within } from './arrays/device_memory.js'
import type { ArrayInput } from './arrays/input.js'
import { checkFixed } from './call/execute.js'
import { type Call, call, operation, withErrors } from './call/run.js'
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

// Here too, and not in the C interface alone: it sees a copy of the parts where there are more than two.
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

type Column = Whole['logp'] | DeviceArray<'f32'>
const columns = ({ logp, entropy, logsumexp }: Whole): Column[] => [logp, entropy, logsumexp]

/** Row i of what lies as [N,T]. */
const rowOf = (stack: Column, i: number, T: number): Column =>
  isDeviceArray(stack)
    ? within(stack, i * T, [T])
    : { dtype: 'f32', shape: [T], data: stack.data.subarray(i * T, (i + 1) * T) }

/** The parts but the first, each of the three as [N,T]: no part, or one where it lies. */
function inPlace(first: Whole, others: readonly Whole[], T: number): Column[] {
  const [other] = others
  if (other !== undefined) {
    return columns(other).map((x) => (isDeviceArray(x) ? reshaped(x, [1, T]) : { ...x, shape: [1, T] }))
  }
  return columns(first).map((x) =>
    isDeviceArray(x) ? within(x, 0, [0, T]) : { dtype: 'f32', shape: [0, T], data: new Float32Array(0) },
  )
}

/** The error for a token that is claimed twice, in the words of whoever gave a list. */
function ofList(error: GrpoError): GrpoError {
  const [claim, row, before] = / in row (\d+), as (?:logp|row (\d+) of otherLogp)/.exec(error.message) ?? []
  if (error.code !== 'ERR_GRPO_VALUE' || claim === undefined) return error
  const place = (of: string | undefined) => `list[${of === undefined ? 0 : Number(of) + 1}].logp`
  const problem = error.message.replace(/^mergeTokenLogprob: otherLogp /, '').replace(claim, `, as ${place(before)}`)
  return grpoError('value', 'mergeTokenLogprob', place(row), problem)
}

function merge(first: Whole, others: readonly Column[], options: MergeTokenLogprobOptions): Call<Whole> {
  const [otherLogp, otherEntropy, otherLogsumexp] = others as [Column, Column, Column]
  return withErrors(call('mergeTokenLogprob', { ...first, otherLogp, otherEntropy, otherLogsumexp }, options), ofList)
}

/** As merge, of parts that are copied side by side for it. */
function copied(
  first: Whole,
  others: readonly Whole[],
  options: MergeTokenLogprobOptions,
  T: number,
): Omit<Call<Whole>, 'path'> {
  const { stream } = options ?? {}
  const made: DeviceArray[] = []
  const noted = <X extends Column>(x: X): X => {
    if (isDeviceArray(x)) made.push(x)
    return x
  }
  const prepare = () => {
    const shape = [others.length, T]
    const { logp: model } = first
    const stacks = names.map(
      (): Column =>
        isDeviceArray(model)
          ? noted(emptyArray('mergeTokenLogprob', 'list', model.device, 'f32', shape, stream ?? 0n))
          : allocate('mergeTokenLogprob', 'list', 'f32', [...shape]),
    )
    const copies = others.flatMap((part, i) =>
      columns(part).map((x, k) => {
        const out = { x: noted(rowOf(stacks[k] as Column, i, T)) }
        const argument = `list[${i + 1}].${names[k]}`
        return withErrors(call('convert', { x }, { out, ...(stream !== undefined && { stream }) } as never), (error) =>
          Object.assign(error, {
            message: error.message.replace(/^convert:( x\b)?/, `mergeTokenLogprob: ${argument}`),
            operation: 'mergeTokenLogprob',
            argument,
          }),
        )
      }),
    )
    return { copies, whole: merge(first, stacks, options) }
  }
  const disposeAll = () => {
    for (const x of made) x.dispose()
  }
  return {
    now: () => {
      try {
        const { copies, whole } = prepare()
        for (const copy of copies) copy.now()
        return whole.now()
      } finally {
        disposeAll()
      }
    },
    later: async (signal) => {
      try {
        const { copies, whole } = prepare()
        // On a device all of it is enqueued before this function returns; on the host other threads copy as well.
        for (const copy of copies) isDeviceArray(first.logp) ? copy.now() : await copy.later(signal)
        return await whole.later(signal)
      } finally {
        disposeAll()
      }
    },
  }
}

/**
 * The outputs of tokenLogprob for the whole of a vocabulary, from those of its parts (one per rank).
 *
 *   logsumexp = log sum_i exp(logsumexp_i),   p_i = exp(logsumexp_i - logsumexp)
 *   entropy = sum_i p_i (entropy_i - log p_i),   logp = logp_i + log p_i for the part i that claims the token
 *
 * Which part that is, and whether a token is masked, is known when all parts are seen at once:
 *
 *   masked = logp_i = entropy_i = logsumexp_i = 0 for all i,   claims = #{ i : logp_i is finite }
 *   masked: 0, 0, 0;   else claims = 1: as above;   claims = 0: logp = -inf;   claims > 1: an error
 *
 * So a part that says 0, 0, 0 claims the token with probability 1 unless all parts say so, and logits that every rank holds
 * whole are refused: they are no parts. Device arrays are not looked at before the call: there the three outputs of a token
 * that is claimed twice are NaN. Parts whose logits are all -inf add nothing; if all parts are, logp and logsumexp are -inf
 * and the entropy is 0. NaN spreads.
 *
 * All parts are merged at once: in float64 from their float32 values, summed in the order of the list, and rounded once. So
 * ranks that hold the same list on the same kind of processor have the same bits, and another order changes a last digit at
 * most. More than two parts are first copied side by side, 12 bytes for each token of each part but the first.
 *
 * Accuracy: of these parts, within half a unit in the last place of float32 and what float64 loses in as many sums as there
 * are parts; of the whole vocabulary, within twice the largest error of the plain float32 formula on the same parts, plus
 * the last digit.
 *
 * @param list  for each part { logp, entropy, logsumexp }, f32[T] each, computed with `vocabStart` and the same mask;
 *              a list of one gives copies
 * @returns logp, entropy, logsumexp f32[T], in nats, as tokenLogprob returns them and tokenLogprobBackward takes them: with
 *              the whole's logsumexp and entropy it gives each part the gradient of its own columns
 * @throws RangeError if the list is empty, lengths differ, or a token has a finite logp in two parts and is not masked
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
    const T = first.logp.shape[0] as number
    // Of more than two parts this holds the options against their spec, before anything is copied.
    const ofTwo = merge(first, inPlace(first, others, T), options)
    const { now, later } = others.length < 2 ? ofTwo : copied(first, others, options, T)
    return {
      now,
      path: ofTwo.path,
      later: async (signal) => {
        for (const [i, part] of whole.entries())
          for (const name of names)
            if (!isDeviceArray(part[name])) checkFixed('mergeTokenLogprob', `list[${i}].${name}`, part[name])
        return later(signal)
      },
    }
  },
)
