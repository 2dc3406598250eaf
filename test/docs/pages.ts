// README.md and the pages of docs/: what in them can be computed. The tables between `<!-- name -->` and
// `<!-- /name -->`, and what their programs print: each block of ```js runs by itself, as a file of its own, and the
// block after it without a language is its output. `npm run docs` writes both; pages.test.ts holds them together.
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { measuredTable } from './measured.js'
import { columnsTable, methodsTable } from './methods.js'
import { operationsTable } from './operations.js'

export const root = join(__dirname, '..', '..')

/** What stands between `<!-- name -->` and `<!-- /name -->` of some page. */
export const tables: Readonly<Record<string, () => string>> = {
  operations: operationsTable,
  measured: measuredTable,
  methods: methodsTable,
  columns: columnsTable,
}

/** README.md and every page below docs/, by its path from the root. */
export const pages: readonly string[] = [
  'README.md',
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`)
    .sort(),
]

/** The pages written by hand: those of docs/ itself, without its folders. */
export const guides = pages.filter((page) => !/^docs\/.*\//.test(page))

export const read = (page: string): string => readFileSync(join(root, page), 'utf8')

export const marks = (text: string): string[] =>
  [...text.matchAll(/^<!-- (\w+) -->$/gm)].map(([, name]) => name as string)

export function withTables(text: string): string {
  return marks(text)
    .filter((name) => name in tables)
    .reduce((before, name) => {
      const pattern = new RegExp(`(<!-- ${name} -->\n)[\\s\\S]*?(<!-- /${name} -->)`)
      if (!pattern.test(before)) throw new Error(`<!-- ${name} --> has no <!-- /${name} --> after it`)
      return before.replace(pattern, (_, open: string, close: string) => `${open}${tables[name]?.()}\n${close}`)
    }, text)
}

const separator = '-- end of a block --'

/** The kernels of CUDA as the interpreter runs them: blocks about device arrays need no GPU. */
const simulated = join(root, 'build-simt/libgrpo_kernels_cuda.so')

/**
 * What each program prints, in order. They are files inside the package, so that `grpo-kernels` is this build of it, and
 * run after one another in one process: they share no name, but what they set for the whole process.
 *
 * @param name  of the files, as a stack trace shows it
 */
async function outputs(name: string, programs: readonly { code: string; line: number }[]): Promise<string[]> {
  mkdirSync(join(root, 'build'), { recursive: true })
  const folder = mkdtempSync(join(root, 'build', 'docs-'))
  try {
    const files = programs.map(({ line }) => `${name}_line_${line}.mjs`)
    programs.forEach(({ code }, i) => writeFileSync(join(folder, files[i] as string), code))
    const each = files.map((file) => `await import('./${file}')\nconsole.log(${JSON.stringify(separator)})\n`)
    writeFileSync(join(folder, 'all.mjs'), each.join(''))
    const env = {
      ...process.env,
      GRPO_KERNELS_ISA: 'baseline', // the last digits on every machine
      ...(existsSync(simulated) && { GRPO_KERNELS_CUDA: simulated }),
      NODE_OPTIONS: '', // those of the test runner are for it alone
    }
    const { stdout } = await promisify(execFile)(process.execPath, [join(folder, 'all.mjs')], { cwd: root, env })
    return stdout.split(`${separator}\n`)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** A program, and the output that follows it, if any does. */
const blocks = /```js\n([\s\S]*?)```\n(\n```\n[\s\S]*?```\n)?/g

/** Runs the programs of a page, and puts what each prints into the block after it; one that prints nothing has none. */
export async function withOutput(page: string, text: string): Promise<string> {
  const found = [...text.matchAll(blocks)]
  if (found.length === 0) return text
  const programs = found.map(({ 1: code = '', index }) => ({ code, line: text.slice(0, index).split('\n').length + 1 }))
  const printed = await outputs(basename(page, '.md'), programs)
  return text.replace(blocks, (_, code: string) => {
    const output = printed.shift() ?? ''
    return `\`\`\`js\n${code}\`\`\`\n${output && `\n\`\`\`\n${output}\`\`\`\n`}`
  })
}

async function write(): Promise<void> {
  for (const page of guides) {
    const before = read(page)
    const after = await withOutput(page, withTables(before))
    if (after === before) continue
    writeFileSync(join(root, page), after)
    console.log(`${page} is written anew`)
  }
}

if (process.argv[1]?.endsWith('pages.ts')) {
  write().catch((error: Error & { stderr?: string }) => {
    console.error(error.stderr ?? error) // of a program: its own error names page and line
    process.exitCode = 1
  })
}
