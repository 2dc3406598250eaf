// Every operation of the table and every method has its file in every layer: the message of a failure is the next step
// of whoever adds one.
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { onlyMethodFiles, onlyOperations } from '../support/only.js'
import { methodFiles, nextMethodStep, nextStep, rowsOf } from './next_step.mjs'

const root = join(__dirname, '..', '..')

test.each(onlyOperations(rowsOf(root)))('%s has all that an operation has', (row) => {
  const step = nextStep(root, row)
  if (step !== undefined) expect.fail(`${row}: next step: ${step.text}`)
})

test.each(onlyMethodFiles(methodFiles(root)))('lib/recipes/methods/%s.ts has all that a method has', (file) => {
  const step = nextMethodStep(root, file)
  if (step !== undefined) expect.fail(`${file}: next step: ${step}`)
})
