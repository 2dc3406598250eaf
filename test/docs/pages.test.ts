import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { recipeOf } from '../../examples/recipes/describe.js'
import { exampleBatch } from '../../examples/recipes/example_batch.js'
import { optimizationStep, presets } from '../../lib/recipes/index.js'
import { broken, packed, targets } from './links.js'
import { guides, marks, pages, read, root, tables, withOutputs, withTables } from './pages.js'

test.concurrent('links lead to files that the tarball has, and to headings', async () => {
  const inTarball = await packed()
  const wrong = pages.flatMap((page) => targets(page).map((target) => broken(page, target, inTarball)))
  expect(wrong.filter((problem) => problem !== undefined)).toEqual([])
})

describe.concurrent('programs print what the page says (npm run docs writes it)', () => {
  test.each(guides)('%s', async (page) => {
    expect((await withOutputs(new Map([[page, read(page)]]))).get(page)).toBe(read(page))
  })
})

describe('tables', () => {
  test.each(guides)('of %s are those that npm run docs writes', (page) => {
    expect(withTables(read(page))).toBe(read(page))
  })

  test('each stands on one page', () => {
    const found = pages.flatMap((page) => marks(read(page))).filter((name) => name in tables)
    expect(found.sort()).toEqual(Object.keys(tables).sort())
  })
})

test('every page is linked from docs/README.md, and docs/README.md from README.md', () => {
  const linked = new Set(targets('docs/README.md').map((target) => target.split('#')[0]))
  const own = guides.filter((page) => page.startsWith('docs/') && page !== 'docs/README.md')
  expect(own.map((page) => page.replace('docs/', '')).filter((page) => !linked.has(page))).toEqual([])
  expect(targets('README.md')).toContain('docs/README.md')
})

test('the commands that pages name are those of package.json', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
  for (const page of pages) {
    for (const [, name] of read(page).matchAll(/npm run ([\w:]*\w)/g)) {
      expect(Object.keys(scripts), `${page}: npm run ${name}`).toContain(name)
    }
  }
})

test('README.md has 250 lines at most', () => {
  expect(read('README.md').trimEnd().split('\n').length).toBeLessThanOrEqual(250)
})

/** The rows of the table under a heading, as cells. */
function tableUnder(page: string, heading: string): string[][] {
  const text = read(page).split(`\n## ${heading}\n`)[1]?.split('\n## ')[0] ?? ''
  const rows = [...text.matchAll(/^\|(.*)\|$/gm)].map(([, row = '']) => row)
  return rows.map((row) => row.split(/(?<!\\)\|/).map((cell) => cell.trim()))
}

/** Of a method with a column `truncated`, on a batch with everything. */
const metricNames = () =>
  Object.keys((optimizationStep(recipeOf('thyme'), exampleBatch(recipeOf('thyme'))) as { metrics: object }).metrics)

describe('words of trainers', () => {
  const names = (text = '') => [...text.matchAll(/`(\w+)(?:: [^`]*)?`/g)].map(([, name]) => name as string)

  test.each(['trl', 'verl'] as const)('the options of presets.%s are those of its page', (name) => {
    const cells = tableUnder(`docs/coming_from_${name}.md`, 'The configuration').map((row) => row[1] ?? '')
    // Words alone are options; where there is none stands a sentence.
    const found = cells.filter((cell) => /^`[^`]+`(, `[^`]+`)*$/.test(cell)).flatMap(names)
    expect([...new Set(found)].sort()).toEqual(Object.keys(presets[name].description.options).sort())
  })

  test('docs/metrics.md has all metrics, in their order', () => {
    const [, , ...rows] = tableUnder('docs/metrics.md', 'The names')
    expect(rows.flatMap((row) => names(row[0]))).toEqual(metricNames())
  })

  test.each(['trl', 'verl'])('metrics of %s: the names on our side exist', (name) => {
    const words = tableUnder(`docs/coming_from_${name}.md`, 'Metrics').flatMap((row) => names(row[1]))
    const known = [...metricNames(), 'truncated']
    expect(words.filter((word) => !known.includes(word) && !word.includes('_'))).toEqual([])
    expect(words.length).toBeGreaterThan(5)
  })
})

/** The names of the environment variables that our programs read. */
function variables(folder: string): string[] {
  const reads = [
    /process\.env\.([A-Z_]+)\b/g,
    /pathVariable\('([A-Z_]+)'\)/g, // of lib/addon/load.ts
    /getenv\("([A-Z_]+)"\)/g,
    /environ(?:\.get\(|\[)["']([A-Z_]+)\b/g,
  ]
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(ts|mts|mjs|cjs|cc|h|cu|cuh|hpp|py)$/.test(name))
    .map((name) => readFileSync(join(root, folder, name), 'utf8'))
    .flatMap((text) => reads.flatMap((pattern) => [...text.matchAll(pattern)].map(([, name]) => name as string)))
}

test('docs/troubleshooting.md has every environment variable that is read, and no other', () => {
  const folders = ['lib', 'native', 'cuda', 'test', 'bench', 'examples'].filter((name) => existsSync(join(root, name)))
  const found = new Set(folders.flatMap(variables))
  const rows = tableUnder('docs/troubleshooting.md', 'Environment variables')
  const named = rows.flatMap(([cell = '']) => /^`([A-Z_]+)`$/.exec(cell)?.[1] ?? [])
  expect(named.sort()).toEqual([...found].sort())
})

test('docs/troubleshooting.md has every code of an error', () => {
  const found = read('lib/addon/errors.ts').matchAll(/code(?::|\b.*=) '(ERR_GRPO_[A-Z]+)'/g)
  const rows = tableUnder('docs/troubleshooting.md', 'Errors')
  const named = rows.flatMap(([cell = '']) => /^`([A-Z_]+)`$/.exec(cell)?.[1] ?? [])
  expect(named.sort()).toEqual([...new Set(Array.from(found, ([, code]) => code))].sort())
})

test('docs/rooms.svg has every room', () => {
  const drawn = new Set([...read('docs/rooms.svg').matchAll(/(\w+)\//g)].map(([, name]) => name))
  const rooms = ['lib', 'lib/recipes', 'native', 'cuda'].flatMap((layer) =>
    readdirSync(join(root, layer), { withFileTypes: true }).filter((entry) => entry.isDirectory()),
  )
  expect(rooms.map(({ name }) => name).filter((name) => !drawn.has(name))).toEqual([])
})
