// The dtypes of arrays, and the typed arrays that hold them.

/** In the order that the addon numbers them. f64 is for statistics only. */
export const dtypes = ['f32', 'bf16', 'f16', 'i32', 'u8', 'f64'] as const
export type DType = (typeof dtypes)[number]

export interface DataOf {
  f32: Float32Array
  bf16: Uint16Array
  f16: Uint16Array
  i32: Int32Array
  u8: Uint8Array
  f64: Float64Array
}
export type TypedArray = DataOf[DType]

/** A Float16Array, of an engine that has one. Its type is not in every compiler's library. */
export interface Float16Values {
  readonly [Symbol.toStringTag]: 'Float16Array'
  readonly length: number
  readonly buffer: ArrayBufferLike
  readonly byteOffset: number
}

export const constructors: Readonly<
  Record<DType, { BYTES_PER_ELEMENT: number; name: string; new (length: number): TypedArray }>
> = {
  f32: Float32Array,
  bf16: Uint16Array,
  f16: Uint16Array,
  i32: Int32Array,
  u8: Uint8Array,
  f64: Float64Array,
}

/** The names of the constructors, which engines look up slowly. */
export const containers = Object.fromEntries(dtypes.map((dtype) => [dtype, constructors[dtype].name])) as Readonly<
  Record<DType, string>
>

export const elementBytes = (dtype: DType): number => constructors[dtype].BYTES_PER_ELEMENT
