// The pages of docs/operations/, docs/methods/ and docs/presets/, and docs/recipes.json, are those that `npm run docs` writes.
import { describe, expect, test } from 'vitest'
import { names, presetNames } from '../../examples/recipes/describe.js'
import * as operations from '../../lib/index.js'
import { flawsOf, generatedPages, isGenerated } from './generated.js'
import { pages, read, withOutputs } from './pages.js'
import { recipesPage, recipesText } from './recipes_json.js'

const generated = generatedPages()
const withPrinted = withOutputs(generated)

test('there is a page for each, and no other', () => {
  expect(pages.filter(isGenerated).sort()).toEqual([...generated.keys()].sort())
  const methods = pages.filter((page) => /^docs\/(methods|presets)\//.test(page) && isGenerated(page))
  expect(methods.length).toBe(names.length + presetNames.length)
})

describe('as npm run docs writes it, with what its programs print', () => {
  test.each([...generated.keys()])('%s', async (page) => {
    expect(read(page)).toBe((await withPrinted).get(page))
  })
})

test('docs/recipes.json is as npm run docs writes it', () => {
  expect(read(recipesPage)).toBe(recipesText())
})

describe('every page', () => {
  test.each([...generated.keys()])('%s has a program that prints, and no empty section', (page) => {
    const flaws = flawsOf(page, read(page))
    if (flaws.length > 0) expect.fail(flaws.join('; '))
  })

  test('and where one has not, that is one sentence', () => {
    const page = 'docs/operations/row_norm.md'
    const written = (...parts: string[]) =>
      ['<!-- Written by npm run docs, from lib/row_norm.ts and what lies beside it. -->', ...parts, ''].join('\n\n')
    const [quiet, prints] = ['```js\nrowNorm()\n```', '```\n1\n```']
    const none = 'lib/row_norm.ts has no @example that prints'
    expect(flawsOf(page, written('# rowNorm', 'Text.', quiet, prints))).toEqual([])
    expect(flawsOf(page, written('# rowNorm', 'Text.', quiet))).toEqual([none])
    expect(flawsOf(page, written('# rowNorm', 'Text.', prints))).toEqual([none])
    expect(flawsOf(page, written('# rowNorm', '## Inputs', '## Outputs', 'undefined', quiet, prints))).toEqual([
      `${page} has nothing below "# rowNorm"`,
      `${page} has nothing below "## Inputs"`,
      `${page} has "undefined", which no docstring says`,
    ])
    const method = '<!-- Written by npm run docs, from lib/recipes/methods/new_po.ts. -->\n'
    const methodPage = 'docs/methods/new_po.md'
    expect(flawsOf(methodPage, method)).toEqual([`${methodPage} has no program that prints`])
  })
})

test('every function that the package exports has a heading', () => {
  const text = pages.filter((page) => page.startsWith('docs/operations/')).map(read).join('\n') // biome-ignore format: one text
  const headings = [...text.matchAll(/^#{1,2} (.*)$/gm)].flatMap(([, heading = '']) => heading.split(', '))
  const exported = Object.keys(operations).filter((name) => name !== 'CudaError') // docs/troubleshooting.md has it
  expect(exported.filter((name) => !headings.includes(name))).toEqual([])
})
