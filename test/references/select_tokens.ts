import type { SelectTokensInputs, SelectTokensOptions } from '../../lib/index.js'

export type Inputs = {
  [Name in keyof SelectTokensInputs]: Extract<SelectTokensInputs[Name], ArrayBufferView> | undefined
} & {
  sequenceStart: Int32Array
}

/** How many of n: the contract's formula, in float64. */
export const howMany = (n: number, { count, fraction }: SelectTokensOptions) =>
  typeof count === 'number' ? Math.min(n, count) : Math.min(n, Math.max(1, Math.ceil((fraction as number) * n - 1e-9)))

// Score every unmasked token, sort all of them, keep the first k. The product is one float32 rounding of the float64 one.
export function reference(inputs: Inputs, o: SelectTokensOptions): number[] {
  const { advantage, tokenAdvantage, entropy, sequenceStart: start, mask } = inputs
  const T = start[start.length - 1] as number
  const sequence = Array.from(start.subarray(1)).flatMap((end, s) => Array<number>(end - (start[s] as number)).fill(s))
  const scores = Array.from({ length: T }, (_, t): number => {
    const a = Math.abs((tokenAdvantage?.[t] ?? advantage?.[sequence[t] as number]) as number)
    if (o.rule === 'advantage') return a
    return o.rule === 'entropy' ? (entropy?.[t] as number) : Math.fround(a * (entropy?.[t] as number))
  })
  const score = (t: number) => scores[t] as number
  const kept = Array<number>(T).fill(0)
  const choose = (tokens: number[]) => {
    const unmasked = tokens.filter((t) => mask === undefined || mask[t] !== 0)
    const candidates = unmasked.filter((t) => !Number.isNaN(score(t)))
    if (candidates.every((t) => score(t) === 0)) return
    candidates.sort((x, y) => (score(x) === score(y) ? x - y : score(x) > score(y) ? -1 : 1))
    for (const t of candidates.slice(0, howMany(unmasked.length, o))) kept[t] = 1
  }
  const all = Array.from({ length: T }, (_, t) => t)
  if (o.scope !== 'sequence') choose(all)
  else for (let s = 0; s + 1 < start.length; s++) choose(all.slice(start[s], start[s + 1]))
  return kept
}
