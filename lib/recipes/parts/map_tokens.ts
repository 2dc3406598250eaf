// Values computed from values, as plain loops: TypedArray.from(x, f) goes through an iterator, which is many times
// slower over the tokens of a batch.
type Numbers = ArrayLike<number>
type OfValue = (value: number, t: number) => number

/** Float32Array.from(x, f): each value in float64, rounded once. */
export function float32Map(x: Numbers, f: OfValue): Float32Array {
  const result = new Float32Array(x.length)
  for (let t = 0; t < x.length; t++) result[t] = f(x[t] as number, t)
  return result
}

/** Float64Array.from(x, f). */
export function float64Map(x: Numbers, f: OfValue): Float64Array {
  const result = new Float64Array(x.length)
  for (let t = 0; t < x.length; t++) result[t] = f(x[t] as number, t)
  return result
}

/** x[t] - y[t] */
export function difference(x: Float32Array, y: Float32Array): Float32Array {
  const result = new Float32Array(x.length)
  for (let t = 0; t < x.length; t++) result[t] = (x[t] as number) - (y[t] as number)
  return result
}

/** The product of weights, rounded after each of them; undefined without any. */
export function product(factors: readonly Float32Array[]): Float32Array | undefined {
  const [first, ...others] = factors
  if (first === undefined || others.length === 0) return first
  const result = first.slice()
  for (const factor of others) {
    for (let t = 0; t < result.length; t++) result[t] = (result[t] as number) * (factor[t] as number)
  }
  return result
}

/** 1 where each of the masks has 1; undefined without any. */
export function allOf(masks: readonly Uint8Array[]): Uint8Array | undefined {
  const [first, ...others] = masks
  if (first === undefined || others.length === 0) return first
  const result = first.slice()
  for (const mask of others) {
    for (let t = 0; t < result.length; t++) result[t] = (result[t] as number) & (mask[t] as number)
  }
  return result
}

/** The values that the mask counts, in their order. */
export function unmasked(x: Float32Array, mask: Uint8Array): Float32Array {
  const result = new Float32Array(x.length)
  let n = 0
  for (let t = 0; t < x.length; t++) if (mask[t] !== 0) result[n++] = x[t] as number
  return result.subarray(0, n)
}
