// A step as a sequence of calls: on this thread one after the other, or as promises, each on another thread.
import { throwIfAborted } from '../../addon/turns.js'
import type { Call } from '../../call/calls.js'

/** Yields the calls that it needs, and gets the result of each. */
// biome-ignore lint/suspicious/noExplicitAny: each call has a result of its own, which `ran` gives its type
export type Steps<Result> = Generator<Call<any>, Result, any>

/** The result of a call, in a step: `const x = yield* ran(call)`. */
export function* ran<Result>(call: Call<Result>): Generator<Call<Result>, Result, Result> {
  return yield call
}

// biome-ignore lint/suspicious/noExplicitAny: any operation
type AnyOperation = { (...given: any[]): any; later(...given: any[]): Promise<any>; path(...given: any[]): any }

/** The call of an operation, whose arrays lie wherever they lie. */
export const callOf = <Result>(operation: AnyOperation, inputs: object, options: object): Call<Result> => ({
  now: () => operation(inputs, options) as Result,
  later: (signal) => operation.later(inputs, { ...options, ...(signal && { signal }) }) as Promise<Result>,
  path: () => operation.path(inputs, options),
})

/** The result of a step on this thread. */
export function now<Result>(steps: Steps<Result>): Result {
  let next = steps.next()
  while (next.done !== true) {
    let result: unknown
    try {
      result = next.value.now()
    } catch (error) {
      next = steps.throw(error)
      continue
    }
    next = steps.next(result)
  }
  return next.value
}

/** The same as a promise: what `steps` does between its calls runs on this thread, and the calls do not. */
export async function later<Result>(steps: Steps<Result>, signal: AbortSignal | undefined): Promise<Result> {
  throwIfAborted(signal) // also of a step without calls
  let next = steps.next()
  while (next.done !== true) {
    let result: unknown
    try {
      throwIfAborted(signal) // before a call: what one has made is the step's to free
      result = await next.value.later(signal)
    } catch (error) {
      next = steps.throw(error)
      continue
    }
    next = steps.next(result)
  }
  return next.value
}
