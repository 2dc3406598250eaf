// How good a set of measurements of several objectives is: the volume that they dominate.
import { sum } from './statistics.js'

/** The volume of the union of the boxes from 0 to each point, in slices along the last axis. */
export function hypervolume(points: readonly (readonly number[])[]): number {
  const last = (point: readonly number[] | undefined) => point?.at(-1) ?? 0
  if ((points[0]?.length ?? 0) <= 1) return Math.max(0, ...points.map(last))
  const sorted = [...points].sort((a, b) => last(b) - last(a))
  const slices = sorted.map((point, i) => {
    const depth = last(point) - last(sorted[i + 1])
    return depth > 0 ? depth * hypervolume(sorted.slice(0, i + 1).map((p) => p.slice(0, -1))) : 0
  })
  return sum(slices)
}
