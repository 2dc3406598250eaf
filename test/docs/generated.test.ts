// The pages of docs/operations/, docs/methods/ and docs/presets/ are those that `npm run docs` writes.
import { describe, expect, test } from 'vitest'
import { names, presetNames } from '../../examples/recipes/describe.js'
import * as operations from '../../lib/index.js'
import { generatedPages, isGenerated } from './generated.js'
import { pages, read, withOutputs } from './pages.js'

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

describe('every page', () => {
  test.each([...generated.keys()])('%s has a program that prints, and no empty section', (page) => {
    const text = read(page)
    expect(text).toMatch(/```js\n[\s\S]*?```\n\n```\n[\s\S]+?```\n/)
    expect(text).not.toMatch(/^#+ .*\n+#{1,2} (?!#)/m)
    expect(text.replace(/^```[\s\S]*?^```$/gm, '')).not.toMatch(
      /\bundefined\b(?! if)|\[object Object|\|\s*\|\s*\|\s*\|\s*\|/,
    )
  })
})

test('every function that the package exports has a heading', () => {
  const text = pages.filter((page) => page.startsWith('docs/operations/')).map(read).join('\n') // biome-ignore format: one text
  const headings = [...text.matchAll(/^#{1,2} (.*)$/gm)].flatMap(([, heading = '']) => heading.split(', '))
  const exported = Object.keys(operations).filter((name) => name !== 'CudaError') // docs/troubleshooting.md has it
  expect(exported.filter((name) => !headings.includes(name))).toEqual([])
})
