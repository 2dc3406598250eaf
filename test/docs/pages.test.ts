import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { broken, packed, targets } from './links.js'
import { guides, marks, pages, read, root, tables, withOutput, withTables } from './pages.js'

describe.concurrent('programs print what the page says (npm run docs writes it)', () => {
  test.each(guides)('%s', async (page) => {
    expect(await withOutput(page, read(page))).toBe(read(page))
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

test('links lead to files that the tarball has, and to headings', () => {
  const inTarball = packed()
  const wrong = pages.flatMap((page) => targets(page).map((target) => broken(page, target, inTarball)))
  expect(wrong.filter((problem) => problem !== undefined)).toEqual([])
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

/** The names of the environment variables that our programs read. */
function variables(folder: string): string[] {
  const reads = [/process\.env\.([A-Z_]+)/g, /getenv\("([A-Z_]+)"\)/g, /environ(?:\.get\(|\[)["']([A-Z_]+)/g]
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(ts|mts|mjs|cjs|cc|h|cu|cuh|hpp|py)$/.test(name))
    .map((name) => readFileSync(join(root, folder, name), 'utf8'))
    .flatMap((text) => reads.flatMap((pattern) => [...text.matchAll(pattern)].map(([, name]) => name as string)))
}

test('docs/troubleshooting.md has every environment variable that is read, and no other', () => {
  const folders = ['lib', 'native', 'cuda', 'test', 'bench', 'examples'].filter((name) => existsSync(join(root, name)))
  const found = new Set(folders.flatMap(variables))
  const table = [...read('docs/troubleshooting.md').matchAll(/^\| `([A-Z_]+)` \|/gm)].map(([, name]) => name as string)
  expect(table.sort()).toEqual([...found].sort())
})
