// What npm run accuracy measures, and how the pages show it.
import type { AccuracyRow } from './rows.js'

export interface Accuracy {
  date: string
  machine: string
  /** Where the CUDA kernels ran: 'on the interpreter'. */
  cuda?: string | undefined
  rows: (AccuracyRow & { cuda?: number | undefined })[]
}

const digits = (x: number | undefined) => x?.toExponential(2) ?? '-'

export function accuracyTable({ cuda }: Accuracy, rows: Accuracy['rows']): string {
  const head = ['operation', 'output', 'CPU', ...(cuda ? ['CUDA'] : []), 'plain float32', 'others']
  const lines = rows.map(({ operation, size, output, ours, cuda: onCuda, plain, rounded, others }) => [
    `\`${operation}\`, ${size}`,
    `\`${output}\``,
    digits(ours),
    ...(cuda ? [digits(onCuda)] : []),
    digits(plain),
    others === undefined ? '-' : `${digits(rounded)}, ${others}`,
  ])
  return [head, head.map(() => '---'), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

/** The commands, the machine, and what the numbers are, in sentences. */
export const accuracyConditions = ({ date, machine, cuda }: Accuracy): string =>
  [
    `Root mean square error relative to the equation in float64, by \`npm run accuracy\` on ${date}, ${machine}`,
    cuda ? `; CUDA: the kernels ${cuda}` : '',
    '. 16-bit results of the plain float32 formula are rounded once; the last column has the arithmetic of trainers that keep log-probabilities, or logits and their gradient, in bf16:',
  ].join('')
