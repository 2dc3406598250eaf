// The pages that are written from the sources: docs/operations/, docs/methods/ and docs/presets/, but for their README.md.
import { methodPages } from './method_pages.js'
import { operationPages } from './operation_pages.js'

/** By their paths from the root; without what their programs print. */
export const generatedPages = (): Map<string, string> => new Map([...operationPages(), ...methodPages()])

export const isGenerated = (page: string): boolean =>
  /^docs\/(operations|methods|presets)\//.test(page) && !page.endsWith('/README.md')
