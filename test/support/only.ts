// `npm test -- NAME` runs the files of one operation or method, and of the sweeps over all of them its part alone:
// test/run/run.mts names its file in GRPO_TEST_ONLY.
import { join } from 'node:path'
import { fileOf, methodFiles, methodsIn } from '../steps/next_step.mjs'

const root = join(__dirname, '..', '..')
const wanted = process.env.GRPO_TEST_ONLY?.split(',')

/** The operations that this run is about. */
export const onlyOperations = <Name extends string>(rows: readonly Name[]): Name[] =>
  rows.filter((row) => wanted === undefined || wanted.includes(fileOf(root, row)))

/** The files of methods that this run is about. */
export const onlyMethodFiles = (files: readonly string[]): string[] =>
  files.filter((file) => wanted === undefined || wanted.includes(file))

/** The methods that this run is about. */
export function onlyMethods<Name extends string>(names: readonly Name[]): Name[] {
  if (wanted === undefined) return [...names]
  const own = methodFiles(root).filter((file) => wanted.includes(file))
  return names.filter((name) => own.some((file) => methodsIn(root, file).includes(name)))
}
