// The numbers of a host array, and the distance between neighbours of a dtype: for tests, and for programs without them.
import type { DType, HostArray } from '../../lib/index.js'
import { fromBf16, fromF16 } from '../../lib/index.js'

/** Distance from |x| to the next number of that dtype. */
export function ulp(x: number, dtype: DType = 'f32'): number {
  const digits = { f32: 23, bf16: 7, f16: 10, f64: 52, i32: 0, u8: 0 }[dtype]
  const smallest = { f32: -126, bf16: -126, f16: -14, f64: -1022, i32: 0, u8: 0 }[dtype]
  const exponent = x === 0 ? smallest : Math.max(smallest, Math.floor(Math.log2(Math.abs(x))))
  return 2 ** (exponent - digits)
}

/** The values of a host array as numbers, whatever its dtype. */
export function values(x: HostArray): ArrayLike<number> {
  if (x.dtype === 'bf16') return fromBf16(x.data as Uint16Array)
  if (x.dtype === 'f16') return fromF16(x.data as Uint16Array)
  return x.data
}
