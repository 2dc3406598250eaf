// What is missing of an operation or a method, as one sentence: the next step of "Adding an operation" and "Adding a
// method". Reads files and runs nothing, so that it can be asked before anything is built (vitest.config.mts), and of a
// temporary folder (next_step.test.ts).
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** What cannot run before the step is done. */
export type Blocks = 'everything' | 'its own tests' | 'the kernels on a device' | 'nothing'
export interface Step {
  text: string
  blocks: Blocks
}

export const snakeCase = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

const read = (root: string, path: string) =>
  existsSync(join(root, path)) ? readFileSync(join(root, path), 'utf8') : undefined

/** The text of all files of a folder and of those below it that end so. */
const textOf = (root: string, folder: string, suffix: RegExp) =>
  !existsSync(join(root, folder))
    ? ''
    : readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
        .filter((file) => suffix.test(file))
        .map((file) => readFileSync(join(root, folder, file), 'utf8'))
        .join('\n')

/** The rows of lib/ops.ts. */
export function rowsOf(root: string): string[] {
  const table = /export const ops = \{\n([\s\S]*?)\n\}/.exec(read(root, 'lib/ops.ts') ?? '')?.[1] ?? ''
  return [...table.matchAll(/^ {2}(\w+): \{/gm)].map(([, name]) => name as string)
}

/**
 * The name of the files of a row: its own, or that of the row that it belongs to, as a backward pass and a plan have it
 * whose functions stand in the file of what they belong to.
 */
export function fileOf(root: string, row: string): string {
  const own = snakeCase(row)
  if (existsSync(join(root, `lib/${own}.ts`))) return own
  const longer = rowsOf(root).filter((other) => other !== row && row.startsWith(other))
  const home = longer.find((other) => read(root, `lib/${snakeCase(other)}.ts`)?.includes(`'${row}'`))
  return home === undefined ? own : snakeCase(home)
}

/** The names that a file of operations exports, and which of them have a promise. */
function exportsOf(text: string): { names: string[]; operations: string[] } {
  const all = [...text.matchAll(/^export const (\w+)(.*)/gm)].map(([, name = '', rest = '']) => ({ name, rest }))
  const names = all.filter(({ name }) => !name.startsWith('matches'))
  const operations = names.filter(({ rest }) => /= (operation\(|Object\.assign\()/.test(rest))
  return { names: names.map(({ name }) => name), operations: operations.map(({ name }) => name) }
}

/** Names as a sentence has them. */
const listed = (names: readonly string[]) => [names.slice(0, -1).join(', '), names.at(-1)].filter(Boolean).join(' and ')

/** Public names of a file that lib/index.ts lacks, or whose promises lib/promises.ts lacks. */
function missingDoor(root: string, file: string): Step | undefined {
  const { names, operations } = exportsOf(read(root, `lib/${file}.ts`) ?? '')
  const [index, promises] = [read(root, 'lib/index.ts') ?? '', read(root, 'lib/promises.ts') ?? '']
  const whole = index.includes(`export * from './${file}.js'`)
  const named = new RegExp(`\\{([^}]*)\\} from './${file}\\.js'`).exec(index)?.[1]?.split(/[\s,]+/) ?? []
  const hidden = names.filter((name) => !whole && !named.includes(name))
  if (hidden.length > 0) {
    return { text: `${listed(hidden)} among the exports of lib/index.ts`, blocks: 'its own tests' }
  }
  const without = operations.filter((name) => !new RegExp(`^export const ${name}\\b`, 'm').test(promises))
  if (without.length === 0) return undefined
  const lines = without.map((name) => `export const ${name} = operations.${name}.later`)
  return { text: `its promise in lib/promises.ts: ${lines.join('; ')}`, blocks: 'its own tests' }
}

/** What the file of a function lacks for the compiler, which holds its types against the row, and for its page. */
function missingWords(root: string, row: string, file: string): Step | undefined {
  const source = read(root, `lib/${file}.ts`) ?? ''
  const isFunction = exportsOf(source).names.includes(row)
  const home = rowsOf(root).find((other) => snakeCase(other) === file && row.startsWith(other)) ?? row
  const line = `export const matches${row.slice(home.length)}: Matches<'${row}', Inputs, Options> = true`
  const parts = [
    isFunction &&
      !new RegExp(`^export const matches\\w*: Matches<\\s*'${row}'`, 'm').test(source) &&
      `the line that holds its types against its row (${line})`,
    !/@param|@returns/.test(source) && 'shapes in its docstring (@param, @returns)',
    !source.includes(' * Accuracy: ') && 'a paragraph "Accuracy: ..." in its docstring',
    !/^ \* @example\n( \*.*\n)*? \*.*\bconsole\.log\(/m.test(source) && 'an @example that prints, in its docstring',
  ].filter((part) => part !== false)
  return parts.length === 0 ? undefined : { text: `in lib/${file}.ts ${listed(parts)}`, blocks: 'nothing' }
}

/** Whether the CUDA library can have it: that is loaded with all operations or with none. */
export const hasKernel = (root: string, row: string): boolean =>
  new RegExp(`GRPO_CUDA_OPERATION\\(\\w+, ${snakeCase(row)}\\)`).test(textOf(root, 'cuda', /\.cu$/))

/** The next step of a row of the table; undefined if nothing is missing. */
export function nextStep(root: string, row: string): Step | undefined {
  const name = snakeCase(row)
  const file = fileOf(root, row)
  const variable = `k${row[0]?.toUpperCase()}${row.slice(1)}`
  const header = read(root, 'native/ops.h') ?? ''
  const list = read(root, 'native/interface/operation_list.h') ?? ''
  const has = (path: string) => existsSync(join(root, path))
  const everything = (text: string): Step => ({ text, blocks: 'everything' })

  const inHeader = [
    !header.includes(`} grpo_${name}_args;`) && `its struct grpo_${name}_args beside those of its subject`,
    !header.includes(`(*${name})(`) &&
      `its pointer at the end of grpo_api: int (*${name})(const grpo_${name}_args* args, void* stream);`,
  ].filter((part) => part !== false)
  if (inHeader.length > 0) return everything(`in native/ops.h ${listed(inHeader)}`)
  if (!list.includes(`X(${name}, `)) {
    const place = 'at the end of the list in native/interface/operation_list.h, after a \\ on the line before'
    return everything(`its name ${place}: X(${name}, ${variable})`)
  }
  if (!new RegExp(`GRPO_OPERATION(_BY\\(\\w+, |\\()\\w+, ${name},`).test(textOf(root, 'native', /\.cc$/))) {
    const descriptor = `GRPO_OPERATION(${variable}, ${name}, kFields)`
    return everything(`the plain C++ version, native/${file}.cc, which ends with ${descriptor}`)
  }
  if (!has(`lib/${file}.ts`)) return { text: `the TypeScript function, lib/${file}.ts`, blocks: 'its own tests' }
  const door = missingDoor(root, file)
  if (door !== undefined) return door
  const words = missingWords(root, row, file)
  if (words !== undefined) return words
  if (!has(`test/${file}.test.ts`)) {
    return { text: `the test with its float64 equation, test/${file}.test.ts`, blocks: 'nothing' }
  }
  if (!hasKernel(root, row)) {
    const end = `GRPO_CUDA_OPERATION(${variable}, ${name})`
    return { text: `the CUDA kernel, cuda/${file}.cu, which ends with ${end}`, blocks: 'the kernels on a device' }
  }
  if (kernelsUnwritten(root, file)) {
    return { text: `the lines of its kernels in cuda/README.md: npm run docs:cuda writes them`, blocks: 'nothing' }
  }
  const bench = read(root, `bench/${file}.ts`)
  if (bench === undefined) return { text: `the benchmark, bench/${file}.ts`, blocks: 'nothing' }
  const cases = [...bench.matchAll(/operation: '(\w+)'/g)].map(([, operation]) => operation as string)
  const peers = textOf(root, 'bench/peers', /\.(ts|py)$/)
  const alone = cases.find((operation) => !new RegExp(`\\b(${operation}|${snakeCase(operation)})\\b`).test(peers))
  if (cases.length === 0 || alone !== undefined) {
    const place = 'in bench/peers/ (javascript.ts at least), or in `reasons` there why there is nothing'
    return { text: `what a user would run instead of ${alone ?? row}, ${place}`, blocks: 'nothing' }
  }
  const page = pageOf(file)
  return has(page) ? undefined : { text: `its page, ${page}: npm run docs writes it`, blocks: 'nothing' }
}

const pageOf = (file: string) => `docs/operations/${file}.md`

const kernelsUnwritten = (root: string, file: string) =>
  (read(root, `cuda/${file}.cu`) ?? '').includes('__global__') &&
  !(read(root, 'cuda/README.md') ?? '').includes(`(${file}.cu)`)

const methods = 'lib/recipes/methods'

/** The files of methods, without the extension. */
export const methodFiles = (root: string) =>
  readdirSync(join(root, methods))
    .filter((name) => name.endsWith('.ts'))
    .map((name) => name.slice(0, -3))
    .sort()

/** The methods of a file. */
export const methodsIn = (root: string, file: string) =>
  [...(read(root, `${methods}/${file}.ts`) ?? '').matchAll(/^export const (\w+) = recipe\(/gm)].map(
    ([, name]) => name as string,
  )

/** The next step of a file of methods; undefined if nothing is missing. */
export function nextMethodStep(root: string, file: string): string | undefined {
  const names = methodsIn(root, file)
  if (names.length === 0) return `its recipe in ${methods}/${file}.ts: export const ... = recipe(...)`
  const index = read(root, 'lib/recipes/index.ts') ?? ''
  const imported = new RegExp(`^import \\{([^}]*)\\} from './methods/${file}\\.js'`, 'm').exec(index)?.[1] ?? ''
  const table = /export const recipes = \{([\s\S]*?)\}/.exec(index)?.[1] ?? ''
  const absent = names.filter((name) => ![imported, table].every((text) => text.split(/[\s,]+/).includes(name)))
  if (absent.length > 0) return `${listed(absent)} in lib/recipes/index.ts: its import, and its place in \`recipes\``
  const test = `test/recipes/methods/${file}.test.ts`
  if (!existsSync(join(root, test))) return `the test with golden numbers and edge cases, ${test}`
  const page = names.map((name) => `docs/methods/${snakeCase(name)}.md`).find((path) => !existsSync(join(root, path)))
  return page && `the page ${page}: npm run docs writes it`
}

/** Whether a page, or a line of cuda/README.md, is missing: what compares all of them would say the same once more. */
export const pagesAreMissing = (root: string) => ({
  docs:
    rowsOf(root).some((row) => !existsSync(join(root, pageOf(fileOf(root, row))))) ||
    methodFiles(root).some((file) => nextMethodStep(root, file) !== undefined),
  kernels: rowsOf(root).some((row) => kernelsUnwritten(root, fileOf(root, row))),
})
