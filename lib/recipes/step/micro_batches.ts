// A batch in micro-batches: once through the model for the log-probabilities of every token, one loss of the whole, and
// once more for the gradient, of which each micro-batch takes its part.
import { grpoError } from '../../addon/errors.js'
import { describe, type HostArray } from '../../arrays/array.js'
import { type DeviceArray, emptyArray, isDeviceArray, used, within } from '../../arrays/device_memory.js'
import type { ArrayInput } from '../../arrays/input.js'
import { linearTokenLogprob, linearTokenLogprobBackward } from '../../linear_token_logprob.js'
import { tokenLogprob, tokenLogprobBackward } from '../../token_logprob.js'
import type { Context } from './context.js'
import type { GradientsOf, OfTokens, PolicyGradients } from './gradients.js'
import type { StepLoss } from './loss.js'
import { columnAt, type Uploads } from './placing.js'
import { besideLogits, deviceOfPolicy, logitsOptions, type Policy, policyKind, tokenAt } from './policy.js'
import { without, withProperties } from './properties.js'
import { callOf, later, now, ran, type Steps } from './steps.js'
import type { LossPolicy, PreparedBatch, StepOptions } from './update.js'

/** A part of a batch: rows of logits, and the loss tokens that they predict. Ends are not included. */
export interface MicroBatch {
  readonly rows: readonly [from: number, to: number]
  readonly tokens: readonly [from: number, to: number]
}

type Out = NonNullable<StepOptions['out']>

/** Options of micro-batches: those of a loss, and where gradients go. */
export interface MicroBatchOptions<P = Policy> extends Omit<StepOptions, 'out'> {
  /** gradHead and gradHeadBias of the whole, or, as a function, gradients of each part: `gradLogits` may be its logits. */
  readonly out?: Out | ((part: MicroBatch, policy: P) => Out)
  /** true: gradHead and gradHeadBias are added to what `out` holds; false: the first part begins them. */
  readonly accumulate?: boolean
}

/** A micro-batch with its gradients; gradHead and gradHeadBias are the sums so far. */
export type MicroBatchGradients<P = Policy> = { readonly part: MicroBatch } & GradientsOf<P>

const operation = 'microBatches'
const wholeNames = ['logp', 'entropy', 'logsumexp'] as const
type Whole = Record<(typeof wholeNames)[number], OfTokens>

/** With respect to the log-probabilities and entropies of the whole. */
interface Gradients {
  readonly gradLogp: ArrayInput
  readonly gradEntropy: ArrayInput | undefined
}

/** Throws unless the parts are the tokens of the batch, in their order. */
function checkParts(method: string, parts: readonly MicroBatch[], T: number): void {
  const wrong = (problem: string) => grpoError('value', method, 'parts', problem)
  if (!Array.isArray(parts)) {
    throw grpoError('kind', method, 'parts', `is ${describe(parts)}, expected a list of { rows, tokens }`)
  }
  let next = 0
  for (const [i, part] of parts.entries()) {
    for (const name of ['rows', 'tokens'] as const) {
      const range: unknown = part?.[name]
      const [from, to] = Array.isArray(range) && range.length === 2 ? range : []
      if (Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to) continue
      throw wrong(`has ${describe(range)} as ${name} of ${i}, expected [from, to], whole numbers that do not fall`)
    }
    const [from, to] = part.tokens
    if (from !== next) throw wrong(`has tokens from ${from} in ${i}, expected ${next}: each token is in one part, in their order`) // biome-ignore format: one text
    next = to
  }
  if (next !== T) throw wrong(`ends with token ${next}, expected ${T} (T from sequenceStart)`)
}

/** [from, to) of an array of tokens, in its memory. */
function slice(x: ArrayInput | undefined, [from, to]: MicroBatch['tokens']): ArrayInput | undefined {
  if (x === undefined) return undefined
  if (isDeviceArray(x)) return within(x, from, [to - from])
  const values = ('data' in x ? x.data : x) as Float32Array
  return values.subarray(from, to)
}

/** The two passes over the parts of a batch, and the loss between them. */
export class Passes {
  readonly #method: string
  readonly #c: Context
  readonly #temporary: DeviceArray[] = []
  /** What goes to the caller at the end. */
  readonly #results: DeviceArray[] = []
  /** Arrays of whose memory parts are used. */
  readonly #sliced = new Set<DeviceArray>()
  #kind: 'logits' | 'hidden' | undefined
  #uploads: Uploads | undefined
  #whole: Whole | undefined
  #gradients: Gradients | undefined
  /** Of the parts so far. */
  #head: Out | undefined

  constructor(
    private readonly batch: PreparedBatch,
    readonly parts: readonly MicroBatch[],
    private readonly options: MicroBatchOptions,
    private readonly loss: (policy: LossPolicy, options: StepOptions) => Steps<StepLoss>,
  ) {
    this.#c = batch.c
    this.#method = batch.c.method
    checkParts(this.#method, parts, batch.c.T)
  }

  /** The log-probabilities of a part. */
  *first(part: MicroBatch, policy: Policy): Steps<void> {
    this.#begin(policy)
    const { inputs, options } = this.#call(part, policy)
    const whole = this.#whole as Whole
    const out = Object.fromEntries(wholeNames.map((name) => [name, this.#slice(whole[name], part.tokens)]))
    yield* ran(callOf(this.#kind === 'hidden' ? linearTokenLogprob : tokenLogprob, inputs, { ...options, out }))
    this.#noteUse()
  }

  /** The loss of the whole batch. */
  *between(): Steps<StepLoss> {
    const { out: _, accumulate: __, ...options } = this.options
    const { logp, entropy } = this.#whole ?? { logp: noTokens, entropy: noTokens }
    const policy = isDeviceArray(logp) ? { logp, entropy } : { logp: logp.data, entropy: (entropy as HostArray<'f32'>).data } // biome-ignore format: one rule
    const done = yield* this.loss(policy as LossPolicy, options)
    const { gradLogp, gradEntropy } = done
    for (const x of [gradLogp, gradEntropy]) if (isDeviceArray(x)) this.#temporary.push(x)
    for (const x of [done.loss, done.stats]) if (isDeviceArray(x)) this.#results.push(x)
    const isZero = gradEntropy === undefined || (!isDeviceArray(gradEntropy) && !gradEntropy.data.some((x) => x !== 0))
    this.#gradients = { gradLogp: gradLogp as HostArray, gradEntropy: isZero ? undefined : gradEntropy }
    const found = without(done, 'gradLogp', 'gradEntropy')
    return withProperties(found, { logp: policy.logp, entropy: policy.entropy }) as StepLoss
  }

  /** The gradients of a part. */
  *second(part: MicroBatch, policy: Policy): Steps<PolicyGradients> {
    this.#begin(policy)
    const { inputs, options } = this.#call(part, policy)
    const whole = this.#whole as Whole
    const { gradLogp, gradEntropy } = this.#gradients as Gradients
    const given = {
      ...inputs,
      logsumexp: this.#slice(whole.logsumexp, part.tokens),
      entropy: this.#slice(whole.entropy, part.tokens),
      gradLogp: this.#slice(gradLogp, part.tokens),
      gradEntropy: this.#slice(gradEntropy, part.tokens),
    }
    const { out = {}, accumulate = false } = this.options
    const own = typeof out === 'function' ? out(part, policy) : out
    if (this.#kind === 'logits') {
      const gradients = yield* ran(callOf<PolicyGradients>(tokenLogprobBackward, given, { ...options, out: own }))
      this.#noteUse()
      return gradients
    }
    const isFirst = this.#head === undefined
    const more = { ...options, accumulate: isFirst ? accumulate : true, out: { ...own, ...this.#head } }
    const gradients = yield* ran(callOf<PolicyGradients>(linearTokenLogprobBackward, given, more))
    this.#noteUse()
    const { gradHead = null, gradHeadBias = null } = gradients
    this.#head = { gradHead, ...(policy.headBias !== undefined && { gradHeadBias }) }
    return gradients
  }

  /** @param succeeded  what goes to the caller stays */
  dispose(succeeded: boolean): void {
    for (const x of this.#temporary.splice(0)) x.dispose()
    for (const x of this.#results.splice(0)) if (!succeeded) x.dispose()
  }

  /** What the first policy says of all: its kind, and where it lies. */
  #begin(policy: Policy): void {
    const kind = policyKind(this.#method, policy)
    if (kind !== 'logits' && kind !== 'hidden') {
      throw grpoError(
        'option',
        this.#method,
        'forward',
        `gives ${kind ?? 'no policy'}, expected logits, or hidden and head`,
      )
    }
    const device = deviceOfPolicy(this.#method, policy)
    if (this.#kind === undefined) {
      this.#kind = kind
      const { stream } = this.options
      if (device !== undefined) this.#uploads = this.batch.uploadsOn(device, stream)
      this.#whole = this.#allocate(device, stream ?? 0n)
      return
    }
    if (kind !== this.#kind)
      throw grpoError('option', this.#method, 'forward', `gives ${kind}, but ${this.#kind} before`)
    if (device === this.#uploads?.device) return
    throw grpoError('device', this.#method, 'forward', `gives ${kind} that lies elsewhere than before`)
  }

  #allocate(device: number | undefined, stream: bigint): Whole {
    const shape = [this.#c.T]
    const make = (name: string): OfTokens => {
      if (device === undefined) return { dtype: 'f32', shape, data: new Float32Array(this.#c.T) }
      const x = emptyArray(operation, name, device, 'f32', shape, stream)
      ;(name === 'logsumexp' ? this.#temporary : this.#results).push(x)
      return x
    }
    return { logp: make('logp'), entropy: make('entropy'), logsumexp: make('logsumexp') }
  }

  #slice(x: ArrayInput | undefined, tokens: MicroBatch['tokens']): ArrayInput | undefined {
    const part = slice(x, tokens)
    if (isDeviceArray(part)) this.#temporary.push(part)
    if (isDeviceArray(x)) this.#sliced.add(x)
    return part
  }

  /** What is enqueued on a part of an array's memory is work on the array. */
  #noteUse(): void {
    used(operation, [...this.#sliced], this.options.stream ?? 0n)
    this.#sliced.clear()
  }

  #call(part: MicroBatch, policy: Policy): { inputs: object; options: object } {
    const uploads = this.#uploads
    const mask = uploads === undefined ? this.#c.mask : uploads.keep('mask', columnAt(this.#c, 'mask'))
    const { logits, hidden, head, headBias } = policy
    const lacksHead = this.#kind === 'hidden' && (head ?? undefined) === undefined
    if (lacksHead) throw grpoError('missing', this.#method, 'head', 'is missing, but hidden is given')
    const { stream, chunkRows = null } = this.options
    const inputs = {
      ...(this.#kind === 'logits' ? { logits } : { hidden, head, headBias }),
      ...besideLogits(policy, uploads),
      token: this.#slice(tokenAt(this.#c, uploads) as ArrayInput, part.tokens),
      mask: this.#slice(mask, part.tokens),
    }
    const ofStream = uploads === undefined || stream === undefined ? {} : { stream }
    const ofHead = this.#kind === 'hidden' ? { chunkRows } : {}
    return { inputs, options: { ...logitsOptions(this.options), ...ofHead, ...ofStream } }
  }
}

const noTokens: HostArray<'f32'> = { dtype: 'f32', shape: [0], data: new Float32Array(0) }

/** The parts with their gradients, one after the other; at the end, the loss of the whole. */
export function* microBatches<P extends Policy>(
  passes: Passes,
  forward: (part: MicroBatch) => P,
): Generator<MicroBatchGradients<P>, StepLoss, void> {
  let done: StepLoss | undefined
  try {
    for (const part of passes.parts) now(passes.first(part, forward(part)))
    const loss = now(passes.between())
    for (const part of passes.parts) {
      yield { part, ...now(passes.second(part, forward(part))) } as MicroBatchGradients<P>
    }
    done = loss
    return loss
  } finally {
    passes.dispose(done !== undefined)
  }
}

/** The same as promises. */
export async function* microBatchesLater<P extends Policy>(
  passes: Passes,
  forward: (part: MicroBatch) => P | Promise<P>,
  signal: AbortSignal | undefined,
): AsyncGenerator<MicroBatchGradients<P>, StepLoss, void> {
  let done: StepLoss | undefined
  try {
    for (const part of passes.parts) await later(passes.first(part, await forward(part)), signal)
    const loss = await later(passes.between(), signal)
    for (const part of passes.parts) {
      const gradients = await later(passes.second(part, await forward(part)), signal)
      yield { part, ...gradients } as MicroBatchGradients<P>
    }
    done = loss
    return loss
  } finally {
    passes.dispose(done !== undefined)
  }
}
