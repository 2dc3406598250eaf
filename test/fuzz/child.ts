// The process in which the calls happen: a crash or a hang ends it, and not the fuzzer. Gets a case, says what came of it.
import process from 'node:process'
import { call } from '../../lib/call/run.js'
import type { Case } from './cases.js'
import { Checker } from './check.js'
import { checkRecipe } from './recipes.js'

const device = process.argv.includes('--device')

async function main(): Promise<void> {
  const make = device ? (await import('../support/backend.js')).call : call
  const checker = new Checker(make as never)
  process.on('message', async (c: Case) => {
    try {
      process.send?.(c.kind === 'operation' ? await checker.check(c) : checkRecipe(c))
    } catch (error) {
      process.send?.({ what: 'wrong', text: `the fuzzer itself: ${(error as Error).stack}` })
    }
  })
  process.send?.('ready')
}

main()
