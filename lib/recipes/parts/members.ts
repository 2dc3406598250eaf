// Which rollouts count in a group.
import type { Context } from '../step/context.js'

/** The places of the rollouts of each group that are not rejected; a group without any has an empty list. */
export const members = (c: Context): number[][] =>
  c.groups.map(({ begin, end }) =>
    Array.from({ length: end - begin }, (_, k) => begin + k).filter((i) => c.rolloutMask?.[i] !== 0),
  )
