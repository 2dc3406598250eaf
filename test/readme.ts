// What the README says that can be computed: the tables of operations (lib/ops.ts), methods (lib/recipes/)
// and measurements (bench/results/), and the output of its programs.
// `npm run readme` writes both; readme.test.ts holds them together.
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type ArraySpec, operationNames, signatures } from '../lib/addon/spec.js'
import type { OperationName } from '../lib/ops.js'
import { ops } from '../lib/ops.js'
import { measuredTable } from './readme_measured.js'
import { columnsTable, methodsTable } from './readme_methods.js'

const path = join(__dirname, '..', 'README.md')

/** `mask?: u8[N]` */
function field({ name, spec, optional, condition }: ArraySpec): string {
  const type = spec.split(' ')[0]?.replace(/\|/g, '\\|')
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
  return `| \`${name}\` | ${list(inputs)} | ${list(outputs)} | ${shown} | ${ops[name].paper || '-'} |`
}

export function operationsTable(): string {
  const head = '| operation | inputs | outputs | options | source |\n|---|---|---|---|---|'
  return `${head}\n${operationNames.map(row).join('\n')}`
}

/** What stands between `<!-- name -->` and `<!-- /name -->`. */
const tables: Readonly<Record<string, () => string>> = {
  operations: operationsTable,
  measured: measuredTable,
  methods: methodsTable,
  columns: columnsTable,
}

export const readme = () => readFileSync(path, 'utf8')

/** Runs all ```js blocks as one program of the built package, and puts what each prints into the block after it. */
export function withOutput(text: string): string {
  const pattern = /(```js\n([\s\S]*?)```\n\n)```\n[\s\S]*?```\n/g
  const blocks = [...text.matchAll(pattern)].map((match) => match[2])
  const separator = '-- next block --'
  const program = blocks.join(`\nconsole.log('${separator}')\n`)
  const root = join(__dirname, '..')
  const env = { ...process.env, GRPO_KERNELS_ISA: 'baseline' } // the last digits on every machine
  const output = execFileSync(process.execPath, ['--input-type=module', '-e', program], {
    cwd: root,
    encoding: 'utf8',
    env,
  })
  const printed = output.split(`${separator}\n`)
  return text.replace(pattern, (_, code: string) => `${code}\`\`\`\n${printed.shift() ?? ''}\`\`\`\n`)
}

export function withTables(text: string): string {
  return Object.entries(tables).reduce((before, [name, table]) => {
    const pattern = new RegExp(`(<!-- ${name} -->\n)[\\s\\S]*?(\n<!-- /${name} -->)`)
    if (!pattern.test(before)) throw new Error(`README.md has no <!-- ${name} --> ... <!-- /${name} -->`)
    return before.replace(pattern, (_, open: string, close: string) => open + table() + close)
  }, text)
}

if (process.argv[1]?.endsWith('readme.ts')) writeFileSync(path, withOutput(withTables(readme())))
