// README.md and the pages of docs/: what in them can be computed. The tables between `<!-- name -->` and
// `<!-- /name -->`, what their programs print (programs.ts), whole pages (generated.ts), and docs/recipes.json beside them.
// `npm run docs` writes all; pages.test.ts and generated.test.ts hold them against what it would write.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { generatedPages, isGenerated } from './generated.js'
import { measuredTable } from './measured.js'
import { columnsTable, methodsTable, presetsTable } from './methods.js'
import { functionsTable, operationsTable } from './operations.js'
import { root, withOutputs } from './programs.js'
import { recipesPage, recipesText } from './recipes_json.js'

export { root, withOutputs }

/** What stands between `<!-- name -->` and `<!-- /name -->` of some page. */
export const tables: Readonly<Record<string, () => string>> = {
  operations: operationsTable,
  functions: functionsTable,
  measured: measuredTable,
  methods: methodsTable,
  presets: presetsTable,
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

/** The pages written by hand. */
export const guides = pages.filter((page) => !isGenerated(page))

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

async function write(): Promise<void> {
  const written = new Map<string, string>()
  const add = async (some: ReadonlyMap<string, string>) =>
    (await withOutputs(some)).forEach((text, page) => written.set(page, text))
  for (const page of guides) await add(new Map([[page, withTables(read(page))]]))
  const generated = generatedPages()
  await add(generated)
  for (const page of pages.filter((page) => isGenerated(page) && !generated.has(page))) rmSync(join(root, page))
  written.set(recipesPage, recipesText())
  for (const [page, text] of written) {
    if (existsSync(join(root, page)) && text === read(page)) continue
    mkdirSync(dirname(join(root, page)), { recursive: true })
    writeFileSync(join(root, page), text)
    console.log(`${page} is written anew`)
  }
}

if (process.argv[1]?.endsWith('pages.ts')) {
  write().catch((error: Error & { stderr?: string }) => {
    console.error(error.stderr ?? error) // of a program: its own error names page and line
    process.exitCode = 1
  })
}
