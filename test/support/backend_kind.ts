// Which backend the tests of this run compute on: host arrays on the CPU, or device arrays, on the interpreter of
// test/simt/ or on a real GPU. vitest.config.mts runs the numeric test files once for each.
import { describe, test } from 'vitest'

export type Backend = 'cpu' | 'simt' | 'cuda'
export const backend = (process.env.GRPO_TEST_BACKEND ?? 'cpu') as Backend

const nothing = (..._: unknown[]): void => undefined
const never = Object.assign(nothing, { each: () => nothing })

/** A test of what only host arrays have (threads, instruction sets, the identity of `out`): not part of other runs. */
export const cpuTest = (backend === 'cpu' ? test : never) as typeof test
export const cpuDescribe = (backend === 'cpu' ? describe : never) as typeof describe
