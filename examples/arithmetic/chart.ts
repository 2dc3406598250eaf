// The reward curve as SVG, written by hand: two panels over the same axis of steps.

export interface Curves {
  readonly reward: readonly number[]
  readonly kl: readonly number[]
  readonly entropy: readonly number[]
  /** Mean reward on the held-out problems before the first step and after the last. */
  readonly heldOut: readonly [number, number]
}

const [width, height, left, right] = [720, 500, 56, 24]
const panels = { reward: { top: 48, bottom: 280 }, policy: { top: 334, bottom: 434 } }
type Panel = (typeof panels)[keyof typeof panels]

/** Where the mean of so many steps is drawn over the rewards of single batches. */
const smoothing = 10

export function rewardChart({ reward, kl, entropy, heldOut }: Curves, title: string): string {
  const x = (step: number) => left + ((width - left - right) * step) / Math.max(1, reward.length)
  const yOf = (panel: Panel, highest: number) => (value: number) =>
    panel.bottom - (panel.bottom - panel.top) * (value / highest)
  const top = Math.max(...kl, ...entropy, 0.1)
  const [rewardY, policyY] = [yOf(panels.reward, 1), yOf(panels.policy, top)]
  const line = (values: readonly number[], y: (value: number) => number, style: string) => {
    const points = values.map((value, i) => `${x(i + 0.5).toFixed(1)},${y(value).toFixed(1)}`).join(' ')
    return `<polyline fill="none" ${style} points="${points}"/>`
  }
  const level = (y: number, label: string, style = 'stroke="#e0e0e0"') =>
    `<line x1="${left}" x2="${width - right}" y1="${y.toFixed(1)}" y2="${y.toFixed(1)}" ${style}/>` +
    `<text x="${left - 8}" y="${(y + 4).toFixed(1)}" text-anchor="end">${label}</text>`
  const legend = (at: number, y: number, color: string, label: string) =>
    `<rect x="${at}" y="${y - 8}" width="14" height="4" fill="${color}"/><text x="${at + 20}" y="${y}">${label}</text>`
  const tick = (step: number) =>
    `<text x="${x(step)}" y="${panels.policy.bottom + 20}" text-anchor="middle">${step}</text>`
  const heldOutStyle = 'stroke="#b45309" stroke-dasharray="5 4"'
  const ticks = [0, 0.25, 0.5, 0.75, 1]
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">
<rect width="${width}" height="${height}" fill="white"/>
<text x="${left}" y="24" font-size="15">${title}</text>
${ticks.map((value) => level(rewardY(value), value.toFixed(2))).join('\n')}
${heldOut.map((value) => level(rewardY(value), '', heldOutStyle)).join('\n')}
${line(reward, rewardY, 'stroke="#93c5fd"')}
${line(movingMean(reward), rewardY, 'stroke="#1d4ed8" stroke-width="2"')}
${legend(left, 304, '#1d4ed8', `mean reward of a batch, and its mean over ${smoothing} steps`)}
${legend(left + 400, 304, '#b45309', 'held-out problems, before and after')}
${[0, top].map((value) => level(policyY(value), value.toFixed(2))).join('\n')}
${line(entropy, policyY, 'stroke="#15803d" stroke-width="1.5"')}
${line(kl, policyY, 'stroke="#be123c" stroke-width="1.5"')}
${legend(left, 482, '#15803d', 'entropy')}
${legend(left + 120, 482, '#be123c', 'KL to the policy before the first step (nats per token)')}
${ticks.map((part) => tick(Math.round(part * reward.length))).join('\n')}
</svg>
`
}

function movingMean(values: readonly number[]): number[] {
  return values.map((_, i) => mean(values.slice(Math.max(0, i + 1 - smoothing), i + 1)))
}

export function mean(values: ArrayLike<number>): number {
  return Array.from(values).reduce((sum, value) => sum + value, 0) / values.length
}
