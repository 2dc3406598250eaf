// Memory that a call has to write over, filled with what is no result. Bytes of 0xa5 are nobody's numbers and show where
// nothing was written, but as a float they are -3e-16, which vanishes in a sum that begins with them; bytes of 0xff are
// NaN in every floating dtype, which no sum and no product loses.
import type { TypedArray } from '../../lib/addon/dtypes.js'
import type { HostArray } from '../../lib/index.js'

export const poisons = [0xa5, 0xff] as const
type Poison = (typeof poisons)[number]

/** Bytes before and after, which are nobody's. */
const around = 64

/** An array of the same dtype and shape in the middle of poisoned memory. */
export function poisoned<X extends HostArray>(x: X, poison: Poison): X {
  const memory = new ArrayBuffer(x.data.byteLength + 2 * around)
  new Uint8Array(memory).fill(poison)
  type Constructor = new (buffer: ArrayBuffer, offset: number, length: number) => TypedArray
  return { ...x, data: new (x.data.constructor as Constructor)(memory, around, x.data.length) }
}

/** Whether nothing was written before or after a poisoned array. */
export function leftAlone(x: HostArray, poison: Poison): boolean {
  const bytes = new Uint8Array(x.data.buffer)
  const end = around + x.data.byteLength
  return bytes.every((byte, i) => byte === poison || (i >= around && i < end))
}
