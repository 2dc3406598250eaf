// The pages that are written from the sources: docs/operations/, docs/methods/ and docs/presets/, but for their README.md.
import { methodPages } from './method_pages.js'
import { operationPages } from './operation_pages.js'

/** By their paths from the root; without what their programs print. */
export const generatedPages = (): Map<string, string> => new Map([...operationPages(), ...methodPages()])

export const isGenerated = (page: string): boolean =>
  /^docs\/(operations|methods|presets)\//.test(page) && !page.endsWith('/README.md')

/** What a generated page lacks, each as a sentence; a page of an operation names its source, whose @example it shows, first. */
export function flawsOf(page: string, text: string): string[] {
  const source = /^<!-- Written by npm run docs, from (lib\/\w+\.ts) /.exec(text)?.[1] ?? page
  const lacking = source === page ? `${page} has no program that prints` : `${source} has no @example that prints`
  const prose = text.replace(/^```[\s\S]*?^```$/gm, '')
  const empty = [...text.matchAll(/^(#+ .*)\n+(?=#{1,2} (?!#))/gm)].map(([, heading]) => heading)
  const raw = /\bundefined\b(?! if)|\[object Object|\|\s*\|\s*\|\s*\|\s*\|/.exec(prose)?.[0]
  return [
    !/```js\n[\s\S]*?```\n\n```\n[\s\S]+?```\n/.test(text) && lacking,
    ...empty.map((heading) => `${page} has nothing below "${heading}"`),
    raw !== undefined && `${page} has "${raw.trim()}", which no docstring says`,
  ].filter((flaw) => flaw !== false)
}
