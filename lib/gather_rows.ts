import type { ArrayInput, DType, HostArray } from './array.js'
import { call, operation } from './run.js'
import type { CallOptions } from './types.js'

export interface GatherRowsInputs<D extends DType = DType> {
  x: ArrayInput<D>
  index: ArrayInput<'i32'>
}

interface GatherRows {
  <D extends DType>(inputs: GatherRowsInputs<D>, options?: CallOptions<'x'>): { x: HostArray<D> }
  /** @internal grpo-kernels/promises */
  later<D extends DType>(inputs: GatherRowsInputs<D>, options?: CallOptions<'x'>): Promise<{ x: HostArray<D> }>
}

/**
 * Rows by index.
 *
 *   y[m] = x[index[m]]
 *
 * An index may occur any number of times, and in any order. Values are copied, whatever the dtype.
 *
 * @param inputs.x      [R] or [R,D]  any dtype
 * @param inputs.index  i32[M]        from 0 to R - 1
 * @returns x [M] or [M,D], in the dtype of x
 * @throws RangeError if an index lies outside [0, R)
 */
export const gatherRows = operation((inputs: GatherRowsInputs, options: CallOptions<'x'> = {}) =>
  call('gatherRows', inputs, options),
) as unknown as GatherRows
