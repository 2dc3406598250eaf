// The chart that a run writes: one line per case, a dot per contender, on a logarithmic axis of time.
import type { Results } from './results.js'
import { duration } from './table.js'

const colours: Record<string, string> = {
  'grpo-kernels': '#0b6e4f',
  'plain JavaScript': '#b08900',
  'TensorFlow.js': '#d9480f',
  'jax-js': '#7048a8',
  PyTorch: '#c2255c',
}

const left = 430
const plot = 620
const right = 190
const lineHeight = 22
const top = 96

const xml = (text: string) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/"/g, '&quot;')

const text = (x: number, y: number, content: string, more = '') =>
  `<text x="${x}" y="${y}" ${more}>${xml(content)}</text>`

/** An SVG document of its own. */
export function chart({ machine, copy, peers, cases }: Results): string {
  const times = cases.flatMap(({ rows }) => rows.map(({ median }) => Math.log10(median)))
  const low = Math.floor(Math.min(...times))
  const high = Math.ceil(Math.max(...times))
  const at = (seconds: number) => left + (plot * (Math.log10(seconds) - low)) / Math.max(1, high - low)
  const bottom = top + cases.length * lineHeight
  const parts: string[] = []

  parts.push(text(16, 26, 'grpo-kernels on the CPU: median time of one call', 'font-size="16" font-weight="600"'))
  const { cpu, threads, instructionSet, node, commit, date } = machine
  const where = `${cpu}, ${threads} threads, ${instructionSet}, Node ${node}, commit ${commit}, ${date.slice(0, 10)}`
  parts.push(text(16, 46, `${where}; this machine copies ${copy.rate.toFixed(1)} GB/s`, 'fill="#555"'))
  let x = 16
  for (const [name, colour] of Object.entries(colours)) {
    const version = peers.find((peer) => peer.name === name)?.version.split(',')[0]
    if (version === undefined && name !== 'grpo-kernels') continue
    const label = version === undefined ? name : `${name} ${version}`
    parts.push(`<circle cx="${x + 5}" cy="66" r="5" fill="${colour}"/>`, text(x + 15, 70, label))
    x += 40 + 7 * label.length
  }

  for (let power = low; power <= high; power++) {
    const line = at(10 ** power)
    parts.push(`<line x1="${line}" x2="${line}" y1="${top - 6}" y2="${bottom}" stroke="#ddd"/>`)
    parts.push(text(line, bottom + 16, duration(10 ** power).replace('.00', ''), 'text-anchor="middle" fill="#555"'))
  }
  cases.forEach(({ operation, size, rows }, i) => {
    const y = top + (i + 0.5) * lineHeight
    if (i % 2 === 0)
      parts.push(
        `<rect x="0" y="${y - lineHeight / 2}" width="${left + plot + right}" height="${lineHeight}" fill="#000" opacity="0.035"/>`,
      )
    parts.push(text(left - 12, y + 4, `${operation}: ${size}`, 'text-anchor="end"'))
    const ours = rows[0]
    if (ours === undefined) return
    const places = rows.map(({ median }) => at(median))
    parts.push(`<line x1="${Math.min(...places)}" x2="${Math.max(...places)}" y1="${y}" y2="${y}" stroke="#bbb"/>`)
    for (const row of rows.toReversed()) {
      const name = Object.keys(colours).find((start) => row.name.startsWith(start)) ?? 'grpo-kernels'
      const look =
        row.ours && row !== ours ? `fill="#fff" stroke="${colours[name]}" stroke-width="2"` : `fill="${colours[name]}"`
      const title = `<title>${xml(`${row.name}: ${duration(row.median)}`)}</title>`
      parts.push(
        `<circle cx="${at(row.median).toFixed(1)}" cy="${y}" r="${row === ours ? 6 : 4.5}" ${look}>${title}</circle>`,
      )
    }
    const share =
      ours.shareOfMultiply !== undefined
        ? `${Math.round(100 * ours.shareOfMultiply)}% of multiply`
        : ours.shareOfCopy !== undefined
          ? `${Math.round(100 * ours.shareOfCopy)}% of copy`
          : ''
    parts.push(text(left + plot + 16, y + 4, duration(ours.median), 'font-weight="600"'))
    parts.push(text(left + plot + 84, y + 4, share, 'fill="#555"'))
  })
  const width = left + plot + right
  const height = bottom + 30
  const style = 'font-family="system-ui, sans-serif" font-size="12" fill="#111"'
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ${style}>
<rect width="100%" height="100%" fill="#fff"/>
${parts.join('\n')}
</svg>
`
}
