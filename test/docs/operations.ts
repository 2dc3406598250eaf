// The table of operations, from lib/ops.ts, and that of the functions without a row there.

import { type ArraySpec, operationNames, signatures } from '../../lib/addon/signatures.js'
import type { OperationName } from '../../lib/ops.js'
import { ops } from '../../lib/ops.js'
import { linkOf, others } from './operation_pages.js'

/** `mask?: u8[N]` */
function field({ name, spec, optional, condition }: ArraySpec): string {
  const type = spec.split(' ')[0]?.replace(/[|~]/g, '\\$&')
  return `\`${name}${optional || condition ? '?' : ''}\` ${type}`
}

function row(name: OperationName): string {
  const { inputs, outputs, options } = signatures[name]
  const list = (fields: readonly ArraySpec[]) => fields.map(field).join(', ') || '-'
  // The options of every loss are those of one type.
  const isObjective = (option: string) => option in ops.policyLoss.options
  const named = options.map((option) => option.name)
  const objective = named.includes('surrogate') ? ['the objective'] : []
  const others = named
    .filter((option) => objective.length === 0 || !isObjective(option))
    .map((option) => `\`${option}\``)
  const shown = [...objective, ...others].join(', ') || '-'
  return `| ${linkOf(name)} | ${list(inputs)} | ${list(outputs)} | ${shown} | ${ops[name].paper || '-'} |`
}

export function operationsTable(): string {
  const head = '| operation | inputs | outputs | options | source |\n|---|---|---|---|---|'
  return `${head}\n${operationNames.map(row).join('\n')}`
}

export function functionsTable(): string {
  const rows = others.map(({ name, what }) => `| ${linkOf(name)} | ${what} |`)
  return ['| function | what it does |', '|---|---|', ...rows].join('\n')
}
