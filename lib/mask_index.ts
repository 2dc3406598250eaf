import type { HostArray } from './arrays/array.js'
import type { ArrayInput } from './arrays/input.js'
import { type Call, call, chain, checkLength, checkNames, map, operation, toHost } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

type Inputs = { mask: ArrayInput<'u8'> }
type Options = CallOptions<'index'>

// The number of values sizes the other output, and is not given out itself.
export const matches: Matches<'maskIndex', Inputs, Options & CallOptions<'count'>> = true

/**
 * The places where a mask is not 0, ascending: the index that gatherRows takes.
 *
 * On a GPU it waits, since the length of the result has to be known.
 *
 * Accuracy: whole numbers, exact.
 *
 * @param inputs.mask  u8[N]
 * @returns index i32[M], M values that are not 0
 * @throws RangeError if an `out.index` has another length than M
 * @example
 * import { maskIndex } from 'grpo-kernels'
 *
 * console.log(maskIndex({ mask: new Uint8Array([1, 0, 0, 1, 1]) }).index.data)
 */
export const maskIndex = operation((inputs: Inputs, options: Options = {}): Call<{ index: HostArray<'i32'> }> => {
  checkNames('maskIndex', options?.out ?? {}, ['index'], 'output')
  const counted = toHost(call('maskIndex', inputs, { ...options, out: { index: null } }))
  return chain(counted, ({ count }) => {
    const M = count.data[0] as number
    const out = { count: null, ...options?.out }
    checkLength('maskIndex', 'index', out.index, M, 'the number of values in mask that are not 0')
    return map(call('maskIndex', inputs, { ...options, out }, { M }), ({ index }) => ({ index }))
  })
})
