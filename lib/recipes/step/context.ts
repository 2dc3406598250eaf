// What a method's points see: the batch, checked, with what the points before them have found out.

import { grpoError } from '../../addon/errors.js'
import type { DeviceArray } from '../../arrays/device_memory.js'
import { type GroupAdvantageOptions, groupAdvantage } from '../../group_advantage.js'
import { checkAxes, type List, listOf, missingColumn, readColumns, type WholeList } from './columns.js'
import { columnsOfBatch, HostCopies } from './host_copies.js'
import { checkBatchNames, knowColumns } from './names.js'

/**
 * What a trainer has sampled. A method asks for what it needs of it; its own columns stand beside these. Columns of tokens
 * lie on the host or on a device, each by itself: f32, mask u8, token i32.
 */
export interface Batch {
  /** number[N]   reward of each rollout, any unit */
  readonly rewards?: List
  /** integer[G+1]  first rollout of each group; ends with N */
  readonly groupStart?: WholeList
  /** integer[N+1]  first loss token of each rollout; ends with T */
  readonly sequenceStart?: WholeList
  /** flag[T]     0 = padding, tool output, or whatever else is no token of the policy */
  readonly mask?: WholeList<number | boolean> | DeviceArray
  /** flag[N]     0 = rejected: the rollout enters no statistic of its group and has advantage 0 */
  readonly rolloutMask?: WholeList<number | boolean>
  /** integer[T]  ids of the loss tokens, masked ones too, which trees compare: each fits in 32 bits */
  readonly token?: WholeList | DeviceArray
  /** f32[T]      log-probabilities under the policy that sampled, as the trainer computes them */
  readonly oldLogp?: List | DeviceArray
  /** f32[T]      under the reference policy */
  readonly refLogp?: List | DeviceArray
  /** f32[T]      as the inference engine reported them; NaN only where masked, if a correction reads them */
  readonly rolloutLogp?: List | DeviceArray
  /** f32[T]      entropy of the policy at each token, in nats */
  readonly entropy?: List | DeviceArray
  /** number[N]   advantages that the trainer has computed itself: the method's rewards and advantages are then left out */
  readonly advantage?: List
  /** f32[T]      or one per token */
  readonly tokenAdvantage?: List | DeviceArray
}

const common = {
  rewards: 'number[N]? the reward of each rollout',
  mask: 'flag[T]? which tokens are the policy’s own',
  rolloutMask: 'flag[N]? which rollouts are not rejected',
  token: 'integer[T]? the ids of the loss tokens',
  oldLogp: 'f32[T]? log-probabilities under the policy that sampled',
  refLogp: 'f32[T]? log-probabilities under the reference policy',
  rolloutLogp: 'f32[T]? log-probabilities as the inference engine reported them',
  entropy: 'f32[T]? the entropy of the policy at each token, in nats',
  advantage: 'number[N]? advantages in place of the method’s own',
  tokenAdvantage: 'f32[T]? advantages of tokens in place of the method’s own',
} as const
knowColumns([...Object.keys(common), 'groupStart', 'sequenceStart'])

/** Columns of tokens that a method hands on. */
export type TokenColumn = 'oldLogp' | 'refLogp' | 'rolloutLogp'

export interface Context<Columns = unknown, State = unknown> {
  /** The method's name, for errors. */
  readonly method: string
  readonly N: number
  readonly G: number
  readonly T: number
  /** The method's own columns. */
  readonly columns: Columns
  /** As it was before this step; in `sample.next` as it is after it. */
  readonly state: State
  /** [N] as they came; after the point `rewards` as it left them. Missing: an error when they are read, as below. */
  readonly rewards: Float64Array
  readonly groupStart: Int32Array // [G+1]
  readonly sequenceStart: Int32Array // [N+1]
  readonly token: Int32Array // [T]
  readonly oldLogp: Float32Array // [T]
  readonly refLogp: Float32Array // [T]
  readonly rolloutLogp: Float32Array // [T]
  /** [T] of the current policy; from logits or hidden states it costs a pass over them. */
  readonly logp: Float32Array
  /** [T] the batch's column if there is one, else as logp. */
  readonly entropy: Float32Array
  /** [T] 1 = counts, [N] 1 = not rejected; undefined = all do. After `select` the mask is what the loss sees. */
  readonly mask: Uint8Array | undefined
  readonly rolloutMask: Uint8Array | undefined
  /** [N] tokens of each rollout that the batch does not mask, also after `select`. */
  readonly length: Float64Array
  /** [N] or [T], whichever the point `advantages` gave. */
  readonly advantage: ArrayLike<number> | undefined
  readonly tokenAdvantage: Float32Array | undefined
  /** Whether the batch has it, for what a method can do without. */
  has(name: keyof Batch): boolean
  /**
   * The column where the policy lies, for an operation or the loss alone: from a device nothing is read. Missing: an error,
   * but for the mask.
   */
  at(name: TokenColumn): Float32Array | DeviceArray
  at(name: 'mask'): Uint8Array | DeviceArray | undefined
  /** The rollouts of each group: from begin to end - 1. */
  readonly groups: readonly { readonly g: number; readonly begin: number; readonly end: number }[]
}

function readOffsets(method: string, name: string, value: unknown, what: string): Int32Array | undefined {
  if (value === undefined || value === null) return undefined
  const list = listOf(method, name, value, `offsets: the first ${what}`, 'i32')
  const numbers = Int32Array.from(list as ArrayLike<number>)
  if (numbers.length === 0) throw grpoError('shape', method, name, 'is empty, expected 0 and what follows the last')
  numbers.forEach((x, i) => {
    if (x !== (list as number[])[i] || x < (i === 0 ? 0 : (numbers[i - 1] as number)) || (i === 0 && x !== 0)) {
      throw grpoError('value', method, name, `has ${(list as number[])[i]} at ${i}, expected offsets that rise from 0`)
    }
  })
  return numbers
}

/** The context of a method on a batch, without a policy: see `withPolicy`. */
export function createContext(
  method: string,
  columns: Readonly<Record<string, string>> | undefined,
  batch: Readonly<Record<string, unknown>>,
  state: unknown,
): Context {
  checkBatchNames(method, batch, Object.keys(columns ?? {}))
  const sizes = new Map<string, { size: number; from: string }>()
  const groupStart = readOffsets(method, 'groupStart', batch.groupStart, 'rollout of each group')
  const sequenceStart = readOffsets(method, 'sequenceStart', batch.sequenceStart, 'token of each rollout')
  if (groupStart !== undefined) {
    sizes.set('G', { size: groupStart.length - 1, from: 'groupStart' })
    sizes.set('N', { size: groupStart.at(-1) as number, from: 'groupStart' })
  }
  if (sequenceStart !== undefined) {
    if (sizes.has('N')) checkAxes(method, { name: 'sequenceStart', axes: ['N'] }, sequenceStart.length - 1, sizes)
    sizes.set('N', { size: sequenceStart.length - 1, from: 'sequenceStart' })
    sizes.set('T', { size: sequenceStart.at(-1) as number, from: 'sequenceStart' })
  }
  const onDevice = new Map<string, DeviceArray>()
  const copies = new HostCopies()
  const copyOf = (x: DeviceArray) => copies.of(x) as ArrayLike<number>
  const own = readColumns(method, common, batch, sizes, onDevice, copyOf) as Record<keyof typeof common, never>
  const extra = readColumns(method, columns, batch, sizes, onDevice, copyOf)
  const offsetsGiven: Readonly<Partial<Record<keyof Batch, unknown>>> = { groupStart, sequenceStart }
  const size = (axis: string) => sizes.get(axis)?.size ?? 0

  const lack = (name: string, type: string, meaning: string) => missingColumn(method, name, type, meaning)
  const need = <T>(name: keyof typeof common): T => {
    const [type, ...words] = common[name].replace('?', '').split(' ')
    if (own[name] === undefined) throw lack(name, type as string, words.join(' '))
    return own[name]
  }
  const lackPolicy = (what: string) =>
    lack(what, 'f32[T]', `the ${what} of the current policy, or its logits, or its hidden states and head`)
  const offsets = (x: Int32Array | undefined, name: string, type: string, meaning: string) => {
    if (x === undefined) throw lack(name, type, meaning)
    return x
  }
  let length: Float64Array | undefined
  const context = {
    method,
    N: size('N'),
    G: size('G'),
    T: size('T'),
    columns: extra,
    state,
    get mask() {
      return own.mask as Uint8Array | undefined
    },
    rolloutMask: own.rolloutMask as Uint8Array | undefined,
    advantage: own.advantage as Float64Array | undefined,
    get tokenAdvantage() {
      return own.tokenAdvantage as Float32Array | undefined
    },
    get rewards() {
      return need<Float64Array>('rewards')
    },
    get groupStart() {
      return offsets(groupStart, 'groupStart', 'integer[G+1]', 'the first rollout of each group; ends with N')
    },
    get sequenceStart() {
      return offsets(sequenceStart, 'sequenceStart', 'integer[N+1]', 'the first token of each rollout; ends with T')
    },
    get token() {
      return need<Int32Array>('token')
    },
    get oldLogp() {
      return need<Float32Array>('oldLogp')
    },
    get refLogp() {
      return need<Float32Array>('refLogp')
    },
    get rolloutLogp() {
      return need<Float32Array>('rolloutLogp')
    },
    get logp(): Float32Array {
      throw lackPolicy('logp')
    },
    get entropy(): Float32Array {
      if (own.entropy === undefined) throw lackPolicy('entropy')
      return own.entropy
    },
    get length() {
      length ??= Float64Array.from({ length: size('N') }, (_, i) => {
        const [begin, end] = [context.sequenceStart[i] as number, context.sequenceStart[i + 1] as number]
        const mask = own.mask as Uint8Array | undefined
        if (mask === undefined) return end - begin
        let tokens = 0
        for (let t = begin; t < end; t++) tokens += mask[t] as number
        return tokens
      })
      return length
    },
    has: (name: keyof Batch) =>
      onDevice.has(name) || (offsetsGiven[name] ?? own[name as keyof typeof common]) !== undefined,
    at: (name: TokenColumn | 'mask'): never => context[name] as never,
    get groups() {
      const starts = context.groupStart
      return Array.from({ length: starts.length - 1 }, (_, g) => {
        return { g, begin: starts[g] as number, end: starts[g + 1] as number }
      })
    },
  }
  columnsOfBatch.set(context, { arrays: onDevice, copies })
  return context
}

export function checkLength(method: string, name: string, x: ArrayLike<unknown> | undefined, length: number): void {
  if (x === undefined || x.length === length) return
  throw grpoError('shape', method, name, `has ${x.length} values, expected ${length}`)
}

/** [T] 1 = unmasked in the batch, of a rollout that is kept, and kept itself; undefined keeps all. */
export function masked(c: Context, rollouts: Uint8Array | undefined, tokens: Uint8Array | undefined): Uint8Array {
  const mask = c.mask?.slice() ?? new Uint8Array(c.T).fill(1)
  if (tokens !== undefined) {
    for (let t = 0; t < mask.length; t++) mask[t] = (mask[t] as number) & (tokens[t] as number)
  }
  rollouts?.forEach((keep, i) => {
    if (!keep) mask.fill(0, c.sequenceStart[i], c.sequenceStart[i + 1])
  })
  return mask
}

/** A context that knows more: what a point has found out. Not a spread, which would ask for every column. */
export const extended = (c: Context, more: Partial<Context>): Context =>
  Object.defineProperties(Object.create(c), Object.getOwnPropertyDescriptors(more)) as Context

/** The context of the batch that `extended` began with: one per step, whatever points and policies have added. */
export function origin(c: Context): Context {
  let batch = c
  for (let below = c; 'method' in below; below = Object.getPrototypeOf(below)) batch = below
  return batch
}

/** The context without the policy of its batch, whose logits would else stay in memory as long as what is decided does. */
export function withoutPolicy(c: Context): Context {
  const below = Object.getPrototypeOf(c) as Context
  if (!('method' in below)) return c
  return Object.hasOwn(c, 'logp') ? withoutPolicy(below) : extended(withoutPolicy(below), c)
}

/** groupAdvantage of `rewards` (default: the context's) in the context's groups. */
export function groupAdvantages(
  c: Context,
  options: GroupAdvantageOptions = {},
  rewards: ArrayLike<number> = c.rewards,
): { advantage: Float32Array } {
  const inputs = { rewards: Float32Array.from(rewards), groupStart: c.groupStart, mask: c.rolloutMask }
  return { advantage: groupAdvantage(inputs, { ...options, out: { mean: null, std: null } }).advantage.data }
}
