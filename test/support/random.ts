// A small seeded generator (splitmix32), so that every test run sees the same numbers.
export function random(seed: number) {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x9e3779b9) >>> 0
    let z = state
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32
  }
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())
  return {
    /** In [0, 1). */
    uniform: next,
    normal,
    integer: (end: number) => Math.floor(next() * end),
    normals: (n: number, scale = 1, mean = 0) => Float32Array.from({ length: n }, () => mean + scale * normal()),
    uniforms: (n: number, low = 0, high = 1) => Float32Array.from({ length: n }, () => low + (high - low) * next()),
    mask: (n: number, share = 0.7) => Uint8Array.from({ length: n }, () => Number(next() < share)),
    /** Offsets of `n` groups whose sizes are drawn from 0 to `largest`; they end wherever they end. */
    offsets: (n: number, largest: number) => {
      const start = new Int32Array(n + 1)
      for (let i = 0; i < n; i++) start[i + 1] = (start[i] as number) + Math.floor(next() * (largest + 1))
      return start
    },
  }
}
