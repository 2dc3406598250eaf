// Normalisation over other sets than the groups of a batch: by a key within each group.
import { type GroupAdvantageOptions, groupAdvantage } from '../../group_advantage.js'
import { groupBy } from '../../group_by.js'
import type { Context } from '../step/context.js'
import { at } from './statistics.js'

/**
 * groupAdvantage where values of equal ids form a group, in whatever order they come. Where the standard deviation is below
 * `minStd` the advantage is 0.
 */
export function advantagesBy(
  ids: readonly number[],
  values: ArrayLike<number>,
  options: GroupAdvantageOptions,
  mask?: Uint8Array,
  minStd = 0,
): Float32Array {
  const { order, groupStart } = groupBy(Int32Array.from(ids))
  const places = Array.from(order.data)
  const inputs = {
    rewards: Float32Array.from(at(values, places)),
    groupStart,
    mask: mask && Uint8Array.from(at(mask, places)),
  }
  const { advantage, std } = groupAdvantage(inputs, { ...options, out: { mean: null } })
  const result = new Float32Array(values.length)
  std.data.forEach((spread, g) => {
    if (spread < minStd) return
    for (let k = groupStart.data[g] as number; k < (groupStart.data[g + 1] as number); k++) {
      result[places[k] as number] = advantage.data[k] as number
    }
  })
  return result
}

/** A number for each different pair, the same for equal pairs. */
export function pairIds(a: ArrayLike<number>, b: ArrayLike<number>): number[] {
  const seen = new Map<string, number>()
  return Array.from(a, (x, i) => {
    const key = `${x},${b[i]}`
    const id = seen.get(key) ?? seen.size
    seen.set(key, id)
    return id
  })
}

/** [T] an id of each step of denoising: that of its group and its number, by default its place in the trajectory. */
export function stepIds(c: Context, step: Int32Array | undefined): number[] {
  const group = new Int32Array(c.T)
  const place = new Int32Array(c.T)
  for (const { g, begin, end } of c.groups) {
    group.fill(g, c.sequenceStart[begin], c.sequenceStart[end])
    for (let i = begin; i < end; i++) {
      const [first, last] = [c.sequenceStart[i] as number, c.sequenceStart[i + 1] as number]
      for (let t = first; t < last; t++) place[t] = t - first
    }
  }
  return pairIds(group, step ?? place)
}
