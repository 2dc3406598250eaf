import type { DType } from './addon/dtypes.js'
import type { HostArray } from './arrays/array.js'
import type { DeviceArray } from './arrays/device_memory.js'
import type { ArrayInput } from './arrays/input.js'
import { call, type KernelPath, operation } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

export interface ScatterRowsOptions extends CallOptions<'x'> {
  /** R, the rows of the result. */
  rows: number
}

export interface ScatterRowsInputs<D extends DType = DType> {
  x: ArrayInput<D>
  index: ArrayInput<'i32'>
}

export const matches: Matches<'scatterRows', ScatterRowsInputs, ScatterRowsOptions> = true

type OnHost<D extends DType> = {
  x: Exclude<ArrayInput<D>, DeviceArray>
  index: Exclude<ArrayInput<'i32'>, DeviceArray>
}
type OnDevice<D extends DType> = { x: DeviceArray<D>; index: ArrayInput<'i32'> }

interface ScatterRows {
  <D extends DType>(inputs: OnHost<D>, options: ScatterRowsOptions): { x: HostArray<D> }
  <D extends DType>(inputs: OnDevice<D>, options: ScatterRowsOptions): { x: DeviceArray<D> }
  <D extends DType>(inputs: ScatterRowsInputs<D>, options: ScatterRowsOptions): { x: HostArray<D> }
  /** As of every operation, see KernelPath. */
  path(inputs: ScatterRowsInputs, options: ScatterRowsOptions): KernelPath
  /** @internal grpo-kernels/promises */
  later: {
    path(inputs: ScatterRowsInputs, options: ScatterRowsOptions): KernelPath
    <D extends DType>(inputs: OnHost<D>, options: ScatterRowsOptions): Promise<{ x: HostArray<D> }>
    <D extends DType>(inputs: OnDevice<D>, options: ScatterRowsOptions): Promise<{ x: DeviceArray<D> }>
    <D extends DType>(inputs: ScatterRowsInputs<D>, options: ScatterRowsOptions): Promise<{ x: HostArray<D> }>
  }
}

/**
 * Adds rows up at their index: the transpose of gatherRows, and so its gradient.
 *
 *   y[r] = sum_m x[m],   m with index[m] = r;   0 where there is none
 *
 * Rows that meet are added in the order of m: in float32 for bf16 and f16, rounded once; in their own precision for f32
 * and f64; whole numbers wrap.
 *
 * Accuracy: the sum in the order of m in that arithmetic, bit for bit.
 *
 * @param inputs.x      [M] or [M,D]  any dtype
 * @param inputs.index  i32[M]        from 0 to rows - 1
 * @param options.rows  R, below 2^31
 * @returns x [R] or [R,D], in the dtype of x
 * @throws RangeError if an index lies outside [0, rows), or no axis has so many rows; TypeError without rows. An index
 *         on a device is not looked at beforehand: the row of one that lies outside is added to nothing, and nothing
 *         says so
 * @example
 * import { array, scatterRows } from 'grpo-kernels'
 *
 * const x = array(new Float32Array([1, 2, 3, 4, 5, 6]), [3, 2])
 * console.log(scatterRows({ x, index: new Int32Array([2, 0, 2]) }, { rows: 4 }).x.data)
 */
export const scatterRows = operation((inputs: ScatterRowsInputs, options: ScatterRowsOptions) =>
  call('scatterRows', inputs, options),
) as unknown as ScatterRows
