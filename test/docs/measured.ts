// The table of measurements in docs/benchmarks.md, from the newest results of a whole `npm run bench` in bench/results/.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { CaseResult, Results } from '../../bench/results.js'
import { duration } from '../../bench/table.js'
import { type Accuracy, accuracyConditions, accuracyTable } from '../accuracy/accuracy.js'

const folder = join(__dirname, '..', '..', 'bench', 'results')

/** Of all files the one with the most cases; of several the newest, whose date begins its name. */
function newest(): Results {
  const all = readdirSync(folder)
    .filter((name) => /^\d{4}-.*\.json$/.test(name))
    .sort()
    .map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')) as Results)
  const most = Math.max(...all.map(({ cases }) => cases.length))
  const whole = all.filter(({ cases }) => cases.length === most).at(-1)
  if (whole === undefined) throw new Error(`no results in ${folder}: npm run bench writes them`)
  return whole
}

/** How many times as long the fastest of a peer's ways takes as ours; '-' where it does not do the work. */
function compared({ rows }: CaseResult, peer: string): string {
  const times = rows.filter(({ name, ours }) => !ours && name.startsWith(peer)).map((row) => row.times)
  if (times.length === 0) return '-'
  const least = Math.min(...times)
  return least >= 10 ? least.toFixed(0) : least.toFixed(1)
}

function row(result: CaseResult, peers: readonly string[]): string {
  const ours = result.rows[0]
  if (ours === undefined) throw new Error(`${result.operation} has no rows`)
  const { median, gigabytes = 0, gigaflop } = ours
  const rate =
    gigaflop === undefined ? `${(gigabytes / median).toFixed(1)} GB/s` : `${(gigaflop / median).toFixed(0)} GFLOP/s`
  const share = gigaflop === undefined ? ours.shareOfCopy : ours.shareOfMultiply
  const cells = [
    `\`${result.operation}\`, ${result.size}`,
    duration(median),
    `${rate}, ${Math.round(100 * (share ?? 0))}%`,
  ]
  return `| ${[...cells, ...peers.map((peer) => compared(result, peer))].join(' | ')} |`
}

/** The commands, the machine and what stands beside it, as sentences. */
function conditions({ machine, copy, multiply, peers }: Results): string {
  const present = peers.filter(({ absent }) => absent === undefined)
  const rates = Object.entries(multiply).map(([dtype, { rate }]) => `${rate.toFixed(0)} GFLOP/s in ${dtype}`)
  return [
    `\`npm run bench\` on ${machine.date.slice(0, 10)}: ${machine.cpu}, ${machine.cores} cores, ${machine.instructionSet}, Node ${machine.node.replace('v', '')};`,
    `beside it ${present.map(({ name, version }) => `${name} ${version}`).join('; ')}.`,
    `The machine copies ${copy.rate.toFixed(0)} GB/s and multiplies ${rates.join(' and ')}; the share is of that. The last columns say how`,
    'many times as long a peer takes (its fastest way; - where it does not do the work), below 1 where it is the faster one.',
  ].join('\n')
}

function tableOf({ peers }: Results, cases: readonly CaseResult[]): string {
  const names = peers.filter(({ absent }) => absent === undefined).map(({ name }) => name)
  const head = ['operation', 'median', 'rate, share', ...names]
  return [`| ${head.join(' | ')} |`, `|${'---|'.repeat(head.length)}`, ...cases.map((one) => row(one, names))].join(
    '\n',
  )
}

export function measuredTable(): string {
  const results = newest()
  return [conditions(results), '', tableOf(results, results.cases)].join('\n')
}

/** The rows of some operations of bench/`file`.ts, with the day and the machine; undefined where none was measured. */
export function measuredOf(file: string, operations: readonly string[]): string | undefined {
  const results = newest()
  const cases = results.cases.filter(({ operation }) => operations.includes(operation))
  if (cases.length === 0) return undefined
  const { date, cpu, cores, instructionSet } = results.machine
  const where = `${date.slice(0, 10)}, ${cpu}, ${cores} cores, ${instructionSet}`
  const head = `\`npm run bench -- ${file}\` on ${where} ([how to read it](../benchmarks.md)):`
  return `${head}\n\n${tableOf(results, cases)}`
}

/** The errors of some operations against float64; undefined where none was measured. */
export function accuracyOf(operations: readonly string[]): string[] | undefined {
  const accuracy = JSON.parse(readFileSync(join(folder, 'accuracy.json'), 'utf8')) as Accuracy
  const rows = accuracy.rows.filter(({ operation }) => operations.includes(operation))
  return rows.length === 0 ? undefined : [accuracyConditions(accuracy), accuracyTable(accuracy, rows)]
}
