// npm test: all tests, or those of the operations, methods and files that are named.
//   npm test -- group_advantage        the files of an operation, and its part of the sweeps, on every backend
//   npm test -- dapo --bail 1          the files of a method; options are vitest's
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { fileOf, methodFiles, methodsIn, rowsOf, snakeCase } from '../steps/next_step.mjs'
import { root } from './blocked.mjs'
import { prepare } from './prepare.mjs'

const testFiles = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.test.ts'))
  .map((file) => `test/${file.replaceAll('\\', '/')}`)

const operations = new Map(rowsOf(root).map((row) => [snakeCase(row), fileOf(root, row)]))
const methods = new Map(
  methodFiles(root).flatMap((file) =>
    [file, ...methodsIn(root, file).map(snakeCase)].map((name) => [name, file] as const),
  ),
)

/** test/<operation>.test.ts and what goes on from it (policy_loss_surrogates), but not another operation's. */
function filesOfOperation(file: string): string[] {
  const others = [...operations.values()].filter((other) => other.startsWith(`${file}_`))
  const own = new RegExp(`^test/(device/)?${file}(_\\w+)?\\.test\\.ts$`)
  const isOthers = (path: string) => others.some((other) => new RegExp(`/${other}(_\\w+)?\\.test\\.ts$`).test(path))
  return testFiles.filter((path) => own.test(path) && !isOthers(path))
}

/** The names that have a part of the word. */
function near(word: string): string {
  const parts = word.split('_').filter((part) => part.length > 2)
  const names = [...operations.keys(), ...methods.keys()].filter((name) => parts.some((part) => name.includes(part)))
  return names.length === 0 ? '' : `; there are ${names.slice(0, 8).join(', ')}`
}

const options: string[] = []
const files: string[] = []
const only: string[] = []
const given = process.argv.slice(2)
given.forEach((argument, i) => {
  const before = given[i - 1]
  if (argument.startsWith('-') || (before?.startsWith('--') && !before.includes('='))) {
    options.push(argument)
    return
  }
  const name = snakeCase(argument)
  const operation = operations.get(name)
  const method = methods.get(name)
  if (operation !== undefined) {
    only.push(operation)
    files.push(...filesOfOperation(operation), 'test/all_ops.test.ts', 'test/device/contents.test.ts')
  } else if (method !== undefined) {
    only.push(method)
    files.push(`test/recipes/methods/${method}.test.ts`, 'test/recipes/all_recipes.test.ts')
  } else if (existsSync(argument) || testFiles.some((path) => path.includes(argument))) {
    files.push(argument)
  } else {
    console.error(`npm test: ${argument} is no operation, no method and part of no test file's name${near(name)}`)
    process.exit(1)
  }
})
if (only.length > 0) files.push('test/steps/steps.test.ts')

const problem = prepare()
if (problem !== undefined) {
  console.error(problem)
  console.log('0 passed, 1 failed, 0 skipped') // as closing_line.mjs ends a run
  process.exit(1)
}
const vitest = [join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--config', 'test/vitest.config.mts']
const { status } = spawnSync(process.execPath, [...vitest, ...options, ...new Set(files)], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, GRPO_TEST_PREPARED: '1', ...(only.length > 0 && { GRPO_TEST_ONLY: only.join() }) },
})
process.exit(status ?? 1)
