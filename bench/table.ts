// The table that a run prints.
import type { Results, Row } from './results.js'

export function duration(seconds: number): string {
  const [value, unit] = seconds >= 1 ? [seconds, 's'] : seconds >= 1e-3 ? [seconds * 1e3, 'ms'] : [seconds * 1e6, 'us']
  return `${value.toPrecision(value >= 100 ? Math.ceil(Math.log10(value + 1)) : 3)} ${unit}`
}

const percent = (share: number) => `${Math.round(100 * share)}%`
const rate = (value: number, unit: string) => `${value.toPrecision(value >= 100 ? 4 : 3)} ${unit}`

function columns({ median, times, gigabytes, gigaflop, ...row }: Row): string[] {
  const compared = times > 1 ? `${times.toFixed(1)} x slower` : `${(1 / times).toFixed(1)} x faster`
  return [
    row.name,
    duration(median),
    `${duration(row.p10)} - ${duration(row.p90)}`,
    times === 1 ? '' : compared,
    gigabytes === undefined ? '' : rate(gigabytes / median, 'GB/s'),
    row.shareOfCopy === undefined ? '' : percent(row.shareOfCopy),
    gigaflop === undefined ? '' : rate(gigaflop / median, 'GFLOP/s'),
    row.shareOfMultiply === undefined ? '' : percent(row.shareOfMultiply),
    row.difference === undefined ? '' : `DIFFERS: ${row.difference}`,
  ]
}

const head = ['', 'median', 'p10 - p90', 'of the first row', 'memory', 'of copy', 'arithmetic', 'of multiply', '']

export function table({ cases, goals }: Results): string {
  const blocks = cases.map(({ operation, size, rows, skipped, notes }) => ({
    title: `${operation}: ${size}`,
    lines: rows.map(columns),
    below: [...notes.map((note) => `  ${note}`), ...skipped.map(({ name, reason }) => `  skipped: ${name}: ${reason}`)],
  }))
  const widths = head.map((text, i) =>
    Math.max(text.length, ...blocks.flatMap(({ lines }) => lines.map((line) => line[i]?.length ?? 0))),
  )
  const format = (line: string[]) =>
    `  ${line.map((cell, i) => (i === 0 || i === 8 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ')}`.trimEnd()
  const text = [format(head)]
  for (const { title, lines, below } of blocks) text.push('', title, ...lines.map(format), ...below)
  if (goals.length > 0) text.push('', 'Goals')
  for (const { operation, size, against, wanted, reached } of goals) {
    const verdict = reached >= wanted ? 'reached' : 'NOT reached'
    text.push(
      `  ${operation}, ${size}: ${reached.toFixed(1)} times as fast as ${against} (wanted ${wanted}): ${verdict}`,
    )
  }
  return text.join('\n')
}
