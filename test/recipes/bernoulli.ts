// A policy that succeeds with probability p, so small that every group of rollouts can be enumerated: estimators of its
// gradient are held against their exact expectation.

/** Expectation over all groups of n rollouts of sum of A[i] d log(probability of rollout i) / dp. */
export function expectedGradient(n: number, p: number, advantages: (rewards: number[]) => ArrayLike<number>): number {
  let total = 0
  for (let group = 0; group < 2 ** n; group++) {
    const rewards = Array.from({ length: n }, (_, i) => (group >> i) & 1)
    const probability = rewards.reduce((product, reward) => product * (reward ? p : 1 - p), 1)
    const advantage = advantages(rewards)
    const score = rewards.reduce((sum, reward, i) => sum + advantage[i]! * (reward ? 1 / p : -1 / (1 - p)), 0)
    total += probability * score
  }
  return total
}
