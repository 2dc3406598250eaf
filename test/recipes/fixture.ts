// The golden fixture of all losses: two sequences of four places, the last of the first one is padding. A method that
// computes its own advantages gets rewards from which they follow.
const log = (...p: number[]) => Float32Array.from(p, Math.log)

export const fixture = {
  logp: log(0.7, 0.2, 0.28, 1, 0.21, 0.35, 0.6, 0.275),
  oldLogp: log(0.5, 0.2, 0.4, 1, 0.3, 0.1, 0.6, 0.25),
  refLogp: log(0.6, 0.25, 0.3, 1, 0.3, 0.2, 0.5, 0.3),
  rolloutLogp: log(0.45, 0.22, 0.4, 1, 0.33, 0.1, 0.55, 0.24),
  sequenceStart: [0, 4, 8],
  groupStart: [0, 1, 2],
  mask: [1, 1, 1, 0, 1, 1, 1, 1],
}
/** Of the two sequences. */
export const advantage = [1.5, -0.8]

/** The numbers at the seven unmasked places. */
export const unmasked = (x: ArrayLike<number>) => Array.from(x).filter((_, t) => fixture.mask[t])

/** Two rollouts of two and three tokens, on-policy, with the entropies of the quantile's golden numbers. */
export const five = {
  logp: new Float32Array(5),
  oldLogp: new Float32Array(5),
  sequenceStart: [0, 2, 5],
  groupStart: [0, 2],
  advantage: [1, 1],
}
export const entropy = Float32Array.of(0.1, 0.5, 0.2, 0.9, 0.4)
