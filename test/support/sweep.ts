// `npm run test:sweep` runs what `npm test` has a few of: more sizes, seeds and repetitions of the same kinds of case.
import { backend } from './backend_kind.js'

/** Whether this run is a part of it. */
export const sweep = process.env.GRPO_TEST_SWEEP !== undefined

/** Cases of which a run has `some`, each kind among them, and the sweep all. */
export const few = <Case>(some: readonly Case[], more: readonly Case[]): Case[] =>
  sweep ? [...some, ...more] : [...some]

/** The same where kernels are interpreted; the CPU's are fast enough for all cases. */
export const fewOnDevice = <Case>(some: readonly Case[], more: readonly Case[]): Case[] =>
  sweep || backend === 'cpu' ? [...some, ...more] : [...some]
