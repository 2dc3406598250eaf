import type { GroupAdvantageOptions } from '../../lib/index.js'

// The float64 equation, from the papers: a divisor of exactly 0 divides nothing. With round = Math.fround it is the
// plain float32 formula that the kernel's accuracy is measured against.
export function reference(...given: Parameters<typeof groupReference>) {
  return groupReference(...given).advantage
}

/** The mean and the standard deviation of each group as well, with which it was standardised. */
export function groupReference(
  rewards: ArrayLike<number>,
  start: ArrayLike<number>,
  mask: ArrayLike<number> | undefined,
  o: GroupAdvantageOptions = {},
  round: (x: number) => number = (x) => x,
) {
  const { center = 'mean', scale = 'group_std', ddof = 1, eps = 1e-4, singleton = 'zero' } = o
  const ghosts = Array<number>(o.virtualCount ?? 0).fill(o.virtualReward ?? 0)
  const sum = (x: number[]) => x.reduce((total, v) => round(total + v), 0)
  const mean = (x: number[]) =>
    x.length === 0 ? 0 : x.every((v) => v === x[0]) ? (x[0] as number) : round(sum(x) / x.length)
  const variance = (x: number[]) => {
    const m = mean(x)
    return x.length > ddof ? round(sum(x.map((v) => round((v - m) ** 2))) / (x.length - ddof)) : 0
  }
  const groups = Array.from({ length: start.length - 1 }, (_, g) => {
    const members = Array.from(
      { length: (start[g + 1] as number) - (start[g] as number) },
      (_, i) => (start[g] as number) + i,
    )
    return members.filter((i) => mask === undefined || mask[i] !== 0)
  })
  const at = (members: number[]) => members.map((i) => rewards[i] as number)
  const batch = variance(groups.flatMap((members) => (members.length ? [...at(members), ...ghosts] : [])))
  const advantage = Array<number>(rewards.length).fill(0)
  const statistics = groups.map((members) => {
    const all = [...at(members), ...ghosts]
    const [whole, spread] = [mean(all), variance(all)]
    const single = members.length === 1
    const leaveOneOut = center === 'leave_one_out' || scale === 'leave_one_out_std'
    for (const i of members) {
      const r = rewards[i] as number
      if (single && singleton === 'zero') continue
      const others = leaveOneOut ? [...at(members.filter((j) => j !== i)), ...ghosts] : []
      const raw = single
      const base = center === 'none' || raw ? 0 : center === 'mean' ? whole : mean(others)
      let divisor = 1
      if (scale === 'mean') divisor = raw ? 1 : round(whole + eps)
      else if (scale !== 'none') {
        const v = raw ? 1 : scale === 'group_std' ? spread : scale === 'batch_std' ? batch : variance(others)
        divisor = v === 0 ? 1 : o.epsUnderRoot ? round(Math.sqrt(round(v + eps))) : round(round(Math.sqrt(v)) + eps)
      }
      advantage[i] = round(round(r - base) / divisor)
    }
    if (members.length === 0) return { mean: 0, std: 0 }
    return single && singleton === 'raw' ? { mean: 0, std: 1 } : { mean: whole, std: round(Math.sqrt(spread)) }
  })
  return { advantage, mean: statistics.map(({ mean }) => mean), std: statistics.map(({ std }) => std) }
}
