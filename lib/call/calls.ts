// What a call is, and what can be made of calls without running them.
import type { GrpoError } from '../addon/errors.js'
import { isDeviceArray } from '../arrays/device_memory.js'

/** Which kernels a call runs. */
export interface KernelPath {
  /**
   * On the CPU the operation and, where its inner loops are vector code, the instruction set: 'token_logprob (avx512)'. On
   * a GPU those kernels of cuda/README.md that tell its paths apart, 'one_read_kernel'; the operation if there is one path.
   */
  readonly kernel: string
  /** Why it is not the fastest; not there if it is. */
  readonly reason?: string
}

/** A call that is ready to run, on this thread or on another. */
export interface Call<Result> {
  now(): Result
  later(signal: AbortSignal | undefined): Promise<Result>
  /** Runs nothing. */
  path(): KernelPath
}

/** A call whose outputs are read from wherever they lie, for results that are numbers: on a device it waits. */
export function toHost<Outputs extends object>(first: Call<Outputs>): Call<Outputs> {
  const disposeAll = (outputs: Outputs) => {
    for (const x of Object.values(outputs)) if (isDeviceArray(x)) x.dispose()
  }
  return {
    path: first.path,
    now: () => {
      const outputs = first.now()
      try {
        const entries = Object.entries(outputs).map(([name, x]) => [name, isDeviceArray(x) ? x.readSync() : x])
        return Object.fromEntries(entries) as Outputs
      } finally {
        disposeAll(outputs)
      }
    },
    later: async (signal) => {
      const outputs = await first.later(signal)
      try {
        const read = async ([name, x]: [string, unknown]) => [name, isDeviceArray(x) ? await x.read() : x]
        return Object.fromEntries(await Promise.all(Object.entries(outputs).map(read))) as Outputs
      } finally {
        disposeAll(outputs)
      }
    },
  }
}

/** A call followed by plain JavaScript on its result. */
export const map = <A, B>(first: Call<A>, then: (result: A) => B): Call<B> => ({
  now: () => then(first.now()),
  later: (signal) => first.later(signal).then(then),
  path: first.path,
})

/** A call that depends on the result of another, which says the path of both. */
export const chain = <A, B>(first: Call<A>, next: (result: A) => Call<B>): Call<B> => ({
  now: () => next(first.now()).now(),
  later: async (signal) => next(await first.later(signal)).later(signal),
  path: first.path,
})

/** A result that needs no kernel. */
export const value = <A>(compute: () => A): Call<A> => ({
  now: compute,
  later: async () => compute(),
  path: () => ({ kernel: 'JavaScript' }),
})

/** What `run` throws, with an error of the package replaced: the reason of a signal is whatever its owner gave. */
function throwing<A>(run: () => A, replaced: (error: GrpoError) => GrpoError): A {
  try {
    return run()
  } catch (error) {
    throw error instanceof Error && 'operation' in error ? replaced(error as GrpoError) : error
  }
}

/** A call whose errors are replaced. */
export const withErrors = <A>(first: Call<A>, replaced: (error: GrpoError) => GrpoError): Call<A> => ({
  now: () => throwing(() => first.now(), replaced),
  path: () => throwing(() => first.path(), replaced),
  later: (signal) =>
    first.later(signal).catch((error: unknown) =>
      throwing((): A => {
        throw error
      }, replaced),
    ),
})

/** A call whose errors name the public function in place of the row of the table that it runs. */
export function renamed<A>(row: string, name: string, prepare: () => Call<A>): Call<A> {
  const rename = (error: GrpoError): GrpoError => {
    if (error.operation !== row) return error
    return Object.assign(error, { operation: name, message: error.message.replace(row, name) })
  }
  return withErrors(throwing(prepare, rename), rename)
}
