// What the methods are, from their descriptions.
//   npm run recipes -- list     a table of all of them, and of the trainers in `presets`
//   npm run recipes -- dcpo     one of them: equations, columns, options, and a program that runs it; also a preset, as trl

import { parseCommand } from '../../bench/command.mjs'
import { parseOption } from '../../lib/addon/signatures.js'
import { type AnyRecipe, presets, recipes } from '../../lib/recipes/index.js'
import { gradients, type Make, neededColumns, needsLines, stepOf } from './needs.js'

const points = { gaussian: 'policy', rewards: 'rewards', advantages: 'advantages', select: 'selection', weights: 'weights', objective: 'objective', update: 'state', sample: 'sampling' } // biome-ignore format: a table
export const names = Object.keys(recipes)
export const presetNames = Object.keys(presets)

/** A method or a preset, as a function of its options. */
export const makeOf = (name: string) => ({ ...recipes, ...presets })[name as 'grpo'] as unknown as Make

/** A method, or a preset, with its defaults. */
export const recipeOf = (name: string): AnyRecipe => makeOf(name)()

/** The points of a step that the method fills. */
export function changes(recipe: AnyRecipe): string[] {
  return Object.entries(points).flatMap(([point, what]) => (recipe[point as keyof typeof points] ? [what] : []))
}

/** The shortest decimal that is this float32. */
function shortest(x: number): string {
  for (let digits = 1; digits < 9; digits++) {
    const text = String(Number(x.toPrecision(digits)))
    if (Object.is(Math.fround(Number(text)), x)) return text
  }
  return String(x)
}

function literal(x: unknown): string {
  if (x instanceof Float32Array) return `Float32Array.of(${Array.from(x, shortest).join(', ')})`
  if (ArrayBuffer.isView(x)) return `${x.constructor.name}.of(${Array.from(x as Uint8Array).join(', ')})`
  if (Array.isArray(x)) return `[${x.map(literal).join(', ')}]`
  if (typeof x === 'object' && x !== null && 'dtype' in x) {
    const { data, shape } = x as unknown as { data: unknown; shape: readonly number[] }
    return `array(${literal(data)}, ${literal(shape)})` // a literal's dtype would have the type string
  }
  if (typeof x === 'object' && x !== null) {
    const key = (name: string) => (/^[a-z_$][\w$]*$/i.test(name) ? name : literal(name))
    const fields = Object.entries(x).map(([name, value]) => `${key(name)}: ${literal(value)}`)
    return fields.length > 0 ? `{ ${fields.join(', ')} }` : '{}'
  }
  if (typeof x === 'string') return /['\\\n]/.test(x) ? JSON.stringify(x) : `'${x}'`
  return String(x)
}

/** A program that makes one step of the method on a batch of literals. */
export function snippet(name: string): string {
  const recipe = recipeOf(name)
  const batch = neededColumns(recipe)
  const step = stepOf(recipe)
  const gradient = gradients.find((name) => name in step(recipe, batch))
  const results = [
    ...(gradient === undefined ? ['rollouts'] : ['loss', gradient]),
    ...(recipe.state === undefined ? [] : ['state']),
    ...(recipe.sample?.next === undefined ? [] : ['sample']),
  ].join(', ')
  const from = presetNames.includes(name) ? 'presets' : 'recipes'
  const lines = Object.entries(batch).map(([column, value]) => `  ${column}: ${literal(value)},`)
  const imports = lines.some((line) => line.includes(': array(')) ? "import { array } from 'grpo-kernels'\n" : ''
  return `${imports}import { ${step.name}, ${from} } from 'grpo-kernels/recipes'

const batch = {
${lines.join('\n')}
}
const { ${results} } = ${step.name}(${from}.${name}(), batch)
console.log(${results.replace(/grad\w+/, '$&.data')})
`
}

const paperOf = ({ title, arxiv }: AnyRecipe['paper']) => (arxiv === undefined ? title : `${title}, arXiv:${arxiv}`)
const oneLine = (text: string) => text.replace(/\s+/g, ' ')
const cut = (text: string, width: number) => (text.length > width ? `${text.slice(0, width - 1)}…` : text)

/** A row for each method, then for each preset. */
export function list(): string {
  const all = [...names, ...presetNames]
  const rows = all.map(recipeOf).map((recipe) => {
    const { name, paper, source, unknown = '' } = recipe
    const id = paper.arxiv === undefined ? '' : `arXiv:${paper.arxiv} `
    return [name, cut(id + paper.title, 60), changes(recipe).join(', '), source, oneLine(unknown)]
  })
  const table = [['name', 'paper', 'changes', 'source', 'unknown'], ...rows]
  const widths = table[0]!.map((_, k) => Math.max(...table.map((row) => row[k]!.length)))
  const line = (row: string[]) => row.map((cell, k) => (k < 4 ? cell.padEnd(widths[k]!) : cell)).join('  ').trimEnd() // biome-ignore format: one text
  const lines = table.map(line)
  const methods = lines.slice(0, names.length + 1)
  return [...methods, '', 'presets: the numbers of a trainer', ...lines.slice(methods.length)].join('\n')
}

/** `clipLow = 0.2 (number >= 0): lower width of the clip interval` */
function optionLine([name, [text, meaning]]: [string, readonly [spec: string, meaning: string]]): string {
  const { kind, choices, nullable, fallback } = parseOption(name, text)
  const range = text.replace(/^\w+\?? ?(= \S+)? ?/, kind === 'enum' ? '' : `${kind} `).trim()
  const allowed = kind === 'enum' ? choices.join(' | ') : range
  return `  ${name} = ${fallback} (${allowed}${nullable ? ' or null' : ''}): ${meaning}`
}

/** Everything about one method or preset. */
export function describe(name: string): string {
  const { paper, source, unknown, description } = recipeOf(name)
  const lines = (list: string[]) => (list.length > 0 ? list.join('\n') : '  none')
  return `${name}: ${paperOf(paper)}

${description.equation}

Columns of the batch beside those of every method:
${lines(Object.entries(description.columns ?? {}).map(([key, text]) => `  ${key}: ${text}`))}

Of the columns of every method, by running an example without each of them, and with each option changed alone:
${needsLines(makeOf(name))}

Options:
${lines(Object.entries(description.options ?? {}).map(optionLine))}

Source: ${source}. Unknown: ${unknown ?? 'nothing.'}

${snippet(name)}`
}

const command = {
  run: 'npm run recipes',
  about:
    'list: a table of the methods, and of the presets of trainers. A name: the equations, columns and options of that one,\n' +
    'and a program that runs it.',
  options: {},
  names: { what: 'method', known: ['list', ...names, ...presetNames], most: 1 },
} as const

/** What `npm run recipes` prints for these words; or why it refuses them. */
export function answer(words: readonly string[]): { text: string; status: 0 | 2 } {
  const { help, refusal, names = [] } = parseCommand(command, words)
  if (refusal !== undefined) return { text: refusal, status: 2 }
  if (help !== undefined) return { text: help, status: 0 }
  const [name] = names
  if (name === undefined) return { text: parseCommand(command, ['--help']).help!, status: 2 }
  return { text: name === 'list' ? list() : describe(name), status: 0 }
}

if (process.argv[1]?.endsWith('describe.ts')) {
  const { text, status } = answer(process.argv.slice(2))
  if (status === 0) console.log(text)
  else console.error(text)
  process.exitCode = status
}
