import type { DType } from './addon/dtypes.js'
import type { HostArray } from './arrays/array.js'
import type { DeviceArray } from './arrays/device_memory.js'
import type { ArrayInput } from './arrays/input.js'
import { call, type KernelPath, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface GatherRowsInputs<D extends DType = DType> {
  x: ArrayInput<D>
  index: ArrayInput<'i32'>
}

export const matches: Matches<'gatherRows', GatherRowsInputs, CallOptions<'x'>> = true

type OnHost<D extends DType> = {
  x: Exclude<ArrayInput<D>, DeviceArray>
  index: Exclude<ArrayInput<'i32'>, DeviceArray>
}
type OnDevice<D extends DType> = { x: DeviceArray<D>; index: ArrayInput<'i32'> }

interface GatherRows {
  <D extends DType>(inputs: OnHost<D>, options?: CallOptions<'x'>): { x: HostArray<D> }
  <D extends DType>(inputs: OnDevice<D>, options?: CallOptions<'x'>): { x: DeviceArray<D> }
  <D extends DType>(inputs: GatherRowsInputs<D>, options?: CallOptions<'x'>): { x: HostArray<D> }
  /** As of every operation, see KernelPath. */
  path(inputs: GatherRowsInputs, options?: CallOptions<'x'>): KernelPath
  /** @internal grpo-kernels/promises */
  later: {
    path(inputs: GatherRowsInputs, options?: CallOptions<'x'>): KernelPath
    <D extends DType>(inputs: OnHost<D>, options?: CallOptions<'x'>): Promise<{ x: HostArray<D> }>
    <D extends DType>(inputs: OnDevice<D>, options?: CallOptions<'x'>): Promise<{ x: DeviceArray<D> }>
    <D extends DType>(inputs: GatherRowsInputs<D>, options?: CallOptions<'x'>): Promise<{ x: HostArray<D> }>
  }
}

/**
 * Rows by index.
 *
 *   y[m] = x[index[m]]
 *
 * An index may occur any number of times, and in any order. Values are copied, whatever the dtype.
 *
 * Accuracy: values are copied, bit for bit.
 *
 * @param inputs.x      [R] or [R,D]  any dtype
 * @param inputs.index  i32[M]        from 0 to R - 1
 * @returns x [M] or [M,D], in the dtype of x
 * @throws RangeError if an index lies outside [0, R). An index on a device is not looked at beforehand: one that lies
 *         outside gives a row of NaN, or of 0 for i32 and u8
 * @example
 * import { array, gatherRows } from 'grpo-kernels'
 *
 * const x = array(new Float32Array([1, 2, 3, 4, 5, 6]), [3, 2])
 * console.log(gatherRows({ x, index: new Int32Array([2, 0, 2]) }).x.data)
 */
export const gatherRows = operation((inputs: GatherRowsInputs, options: CallOptions<'x'> = {}) =>
  call('gatherRows', inputs, options),
) as unknown as GatherRows
