// Several curves over the same axis of steps, as SVG.
export interface Curve {
  readonly name: string
  readonly values: readonly number[]
}

const [width, height, left, right, top, bottom] = [760, 420, 56, 130, 48, 370]
const colors = ['#1d4ed8', '#b45309', '#15803d', '#be123c', '#7e22ce', '#0e7490', '#a16207', '#4b5563', '#db2777']

export function curvesChart(curves: readonly Curve[], title: string): string {
  const steps = Math.max(1, ...curves.map(({ values }) => values.length))
  const x = (step: number) => left + ((width - left - right) * step) / steps
  const y = (value: number) => bottom - (bottom - top) * value
  const ticks = [0, 0.25, 0.5, 0.75, 1]
  const level = (value: number) =>
    `<line x1="${left}" x2="${width - right}" y1="${y(value)}" y2="${y(value)}" stroke="#e0e0e0"/>` +
    `<text x="${left - 8}" y="${y(value) + 4}" text-anchor="end">${value.toFixed(2)}</text>`
  const tick = (part: number) =>
    `<text x="${x(part * steps)}" y="${bottom + 20}" text-anchor="middle">${Math.round(part * steps)}</text>`
  const line = ({ values }: Curve, i: number) => {
    const points = values.map((value, step) => `${x(step + 0.5).toFixed(1)},${y(value).toFixed(1)}`).join(' ')
    return `<polyline fill="none" stroke="${colors[i % colors.length]}" stroke-width="1.6" points="${points}"/>`
  }
  const legend = ({ name }: Curve, i: number) => {
    const at = top + 20 * i
    return (
      `<rect x="${width - right + 16}" y="${at - 6}" width="14" height="4" fill="${colors[i % colors.length]}"/>` +
      `<text x="${width - right + 36}" y="${at}">${name}</text>`
    )
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">
<rect width="${width}" height="${height}" fill="white"/>
<text x="${left}" y="24" font-size="15">${title}</text>
${ticks.map(level).join('\n')}
${curves.map(line).join('\n')}
${curves.map(legend).join('\n')}
${ticks.map(tick).join('\n')}
</svg>
`
}
