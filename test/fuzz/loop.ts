// Calls of one kind, drawn by fast-check; the first that fails is made smaller, and the rest go on with another seed.
import fc from 'fast-check'
import type { Caller, Outcome } from './caller.js'
import type { Case } from './cases.js'

export interface Kind {
  /** Of an operation, a method or a preset. */
  name: string
  how: string
  cases: fc.Arbitrary<Case>
  /** How many calls it gets, beside the others. */
  share: number
}

export interface Failure {
  name: string
  how: string
  outcome: Outcome
  smallest: Case
}

export interface Count {
  computed: number
  refused: number
  wrong: number
  crash: number
  hang: number
  /** Calls that made a failing one smaller. */
  shrinking: number
  /** Calls that were not made, since the kind had failed three times. */
  left: number
}
export const noCalls = (): Count => ({ computed: 0, refused: 0, wrong: 0, crash: 0, hang: 0, shrinking: 0, left: 0 })

/** A call that fails now and then: how it failed, and that the same call did not. */
const notAgain = (outcome: Outcome, { what }: Outcome): Outcome =>
  'text' in outcome ? { ...outcome, text: `${outcome.text} (and ${what} when it was made once more)` } : outcome

const failuresOfAKind = 3
/** Of a hang fewer, each of which is waited for. */
const triesToShrink = { wrong: 300, crash: 300, hang: 60 }

export async function fuzz(
  { name, how, cases }: Kind,
  runs: number,
  seed: number,
  caller: Pick<Caller, 'run'>,
  patience: number,
  found: (failure: Failure) => void,
): Promise<Count> {
  const count = { ...noCalls(), left: runs }
  for (let failures = 0; count.left > 0 && failures < failuresOfAKind; failures++) {
    let first: 'wrong' | 'crash' | 'hang' | undefined
    let last: Outcome | undefined
    let tries = 0
    const property = fc.asyncProperty(cases, async (c) => {
      if (first !== undefined && ++tries > triesToShrink[first]) return true
      // What hangs once is waited for a tenth of the time when it is made smaller.
      const outcome = await caller.run(c, first === 'hang' ? patience / 10 : patience)
      const { what } = outcome
      if (what === (first ?? what)) last = outcome
      if (first !== undefined) {
        count.shrinking++
        return what !== first
      }
      count.left--
      count[what]++
      if (what === 'computed' || what === 'refused') return true
      first = what
      return false
    })
    const { failed, counterexample } = await fc.check(property, { seed: seed + failures, numRuns: count.left })
    if (!failed) break
    const [smallest] = counterexample as [Case]
    const again = await caller.run(smallest, patience)
    found({ name, how, outcome: again.what === first ? again : notAgain(last as Outcome, again), smallest })
  }
  return count
}
