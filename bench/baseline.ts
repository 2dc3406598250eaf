// What share of a limit of the machine each row of this package reaches, and whether it has fallen since the baseline. A
// share holds where seconds do not: the limit is measured in the same run, on the machine as it is then.
import type { Results, Row } from './results.js'

/** The limit that a row is held to: of products where it multiplies, of exponentials where it has logits, else of copies. */
export type Limit = 'multiply' | 'exponential' | 'copy'

export interface Share {
  readonly limit: Limit
  readonly share: number
}

export interface Shares {
  /** Processor, instruction set, threads, and whose products are the limit. */
  readonly machine: string
  /** By operation, size, dtype and variant. */
  readonly rows: Readonly<Record<string, Share>>
}

/** A row has fallen below this part of its baseline. */
const least = 0.8

function shareOf({ shareOfCopy, shareOfMultiply, shareOfExponential }: Row): Share | undefined {
  if (shareOfMultiply !== undefined) return { limit: 'multiply', share: shareOfMultiply }
  if (shareOfExponential !== undefined) return { limit: 'exponential', share: shareOfExponential }
  return shareOfCopy === undefined ? undefined : { limit: 'copy', share: shareOfCopy }
}

export function sharesOf({ machine: { cpu, instructionSet, threads }, multiply, cases }: Results): Shares {
  const rows = cases.flatMap(({ operation, size, dtype, rows: all }) =>
    all.flatMap((row) => {
      const share = row.ours ? shareOf(row) : undefined
      return share === undefined ? [] : [[`${operation}: ${size}: ${dtype}: ${row.name}`, share] as const]
    }),
  )
  const limit = multiply.f32 === undefined ? '' : `, products of ${multiply.f32.how.split(',')[0]}`
  return { machine: `${cpu}, ${instructionSet}, ${threads} threads${limit}`, rows: Object.fromEntries(rows) }
}

const percent = (share: number) => `${(100 * share).toFixed(share < 1 ? 1 : 0)} %`

/** What has fallen, in words; rows that the baseline lacks; and the baseline's machine, if it is another. */
export function compare(baseline: Shares, now: Shares) {
  const fallen: string[] = []
  const without: string[] = []
  for (const [row, { limit, share }] of Object.entries(now.rows)) {
    const before = baseline.rows[row]
    if (before === undefined || before.limit !== limit) without.push(row)
    else if (!(share >= least * before.share)) {
      const much = `${percent(share)} of the ${limit} rate, ${percent(before.share)} in the baseline`
      fallen.push(`${row}: ${much}; at least ${percent(least * before.share)} is expected`)
    }
  }
  return { fallen, without, otherMachine: baseline.machine === now.machine ? undefined : baseline.machine }
}
