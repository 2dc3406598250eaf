import type { HostArray } from '../../lib/index.js'

type F32 = HostArray<'f32'>
export interface Part {
  logp: F32
  entropy: F32
  logsumexp: F32
}
export const names = ['logp', 'entropy', 'logsumexp'] as const

// The float64 equation: with p = exp(logsumexp of the part - logsumexp of the whole),
//   entropy = sum p (entropy of the part - log p),   logp = logp of the part + log p.
export function reference(parts: Part[], t: number, round: (x: number) => number = (x) => x) {
  const at = (name: (typeof names)[number]) => parts.map((x) => x[name].data[t] as number)
  const max = Math.max(...at('logsumexp'))
  const sum = at('logsumexp').reduce((total, x) => round(total + round(Math.exp(round(x - max)))), 0)
  const logsumexp = round(max + round(Math.log(sum)))
  const logShare = at('logsumexp').map((x) => round(x - logsumexp))
  const entropy = at('entropy').reduce((total, h, i) => {
    const share = round(Math.exp(logShare[i] as number))
    return share === 0 ? total : round(total + round(share * round(h - (logShare[i] as number))))
  }, 0)
  return { logp: Math.max(...at('logp').map((x, i) => round(x + (logShare[i] as number)))), entropy, logsumexp }
}
