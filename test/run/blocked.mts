// Which tests cannot run because an operation is not complete: theirs are left out, and test/steps/ fails with the next
// step as its message, which is then the only failure.
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Blocks, fileOf, hasKernel, nextStep, pagesAreMissing, rowsOf } from '../steps/next_step.mjs'

export const root = join(dirname(fileURLToPath(import.meta.url)), '../..')

const steps = rowsOf(root).map((row) => ({ row, blocks: nextStep(root, row)?.blocks }))

export const blocked = new Set<Blocks | undefined>(steps.map(({ blocks }) => blocks))
if (steps.some(({ row }) => !hasKernel(root, row))) blocked.add('the kernels on a device')

const missing = pagesAreMissing(root)

/** The files of operations that cannot be called yet, and what compares pages that are not there yet. */
export const unfinished = [
  ...steps.filter(({ blocks }) => blocks === 'its own tests').map(({ row }) => `test/${fileOf(root, row)}*.test.ts`),
  ...(missing.docs ? ['test/docs/generated.test.ts', 'test/docs/pages.test.ts'] : []),
  ...(missing.kernels ? ['test/docs/cuda.test.ts'] : []),
]
