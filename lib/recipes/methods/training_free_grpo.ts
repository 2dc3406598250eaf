import { grpoError } from '../../addon/errors.js'
import { describe } from '../../arrays/array.js'
import { mean } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

/** A change of the library that a language model has proposed. Without an operation it is an ADD. */
export interface Operation {
  readonly operation?: 'ADD' | 'UPDATE' | 'DELETE' | 'NONE'
  readonly id?: string | null
  readonly content?: string | null
}

/** What has been learned, by the ids G0, G1, ... in this order. */
export type Experiences = Readonly<Record<string, string>>

const name = 'trainingFreeGrpo'

function checked(list: readonly unknown[]): Operation[] {
  if (!Array.isArray(list)) throw grpoError('kind', name, 'operations', `is ${describe(list)}, expected a list`)
  return list.flat().map((x, i) => {
    const { operation = 'ADD', id = null, content = null } = (x ?? { operation: 'null' }) as Operation
    if (['ADD', 'UPDATE', 'DELETE', 'NONE'].includes(operation)) return { operation, id, content }
    const problem = `has ${JSON.stringify(x)} at ${i}, expected an operation ADD, UPDATE, DELETE or NONE`
    throw grpoError('value', name, 'operations', problem)
  })
}

/**
 * One plan out of the operations of all groups: NONE and what adds or changes nothing is dropped, equal ADDs are one, of
 * the operations on one id DELETE wins, then the last UPDATE. In the order in which they first appear.
 */
function mergeOperations(operations: readonly (Operation | readonly Operation[])[]): Operation[] {
  const plan = new Map<string, Operation>()
  for (const { operation, id, content } of checked(operations)) {
    if (operation === 'NONE' || (operation === 'DELETE' ? id === null : !content)) continue
    if (operation === 'ADD' || id === null) plan.set(`ADD ${content}`, { operation: 'ADD', id: null, content })
    else if (plan.get(`id ${id}`)?.operation !== 'DELETE') plan.set(`id ${id}`, { operation, id, content })
  }
  return [...plan.values()]
}

/** The library after a plan, numbered anew. An UPDATE of an unknown id is an ADD; a DELETE of one does nothing. */
function applyOperations(experiences: Experiences, plan: readonly Operation[]): Experiences {
  const library = new Map(Object.entries(experiences))
  checked(plan).forEach(({ operation, id, content }, i) => {
    if (operation === 'DELETE') library.delete(id ?? '')
    else if (operation !== 'NONE' && content) {
      const known = operation === 'UPDATE' && library.has(id ?? '')
      library.set(known ? (id as string) : `new ${i}`, content)
    }
  })
  return Object.fromEntries([...library.values()].map((content, i) => [`G${i}`, content]))
}

export const trainingFreeGrpo = recipe(
  {
    name,
    paper: { title: 'Training-Free Group Relative Policy Optimization', arxiv: '2510.08191' },
    source: 'code',
    reads: { step: ['mask'] },
    unknown:
      'The operations of all groups are merged by a language model, whose rules are a prompt: mergeOperations does the two that it states, and lets the last UPDATE of an id win. The released code also ignores a DELETE without content; here it deletes.',
    equation: `groups that are compared: 0 < mean(g) < 1; with no ground truth all of them
the advantage is text: operations ADD, UPDATE(id), DELETE(id), NONE on a library of experiences, which enters the prompt
no parameter changes: there is no loss`,
    columns: {
      operations: 'any? what the language model proposed: a list of { operation, id, content }, or one list per group',
    },
    options: { groundTruth: ['boolean = true', 'whether rewards are known; false: every group is compared'] },
    state: {
      version: 1,
      initial: () => ({ experiences: {} as Experiences }),
      shape: { experiences: { '*': 'string' } },
    },
    example: { operations: [[{ operation: 'ADD', content: 'Check the sign.' }], [{ operation: 'NONE' }]] },
  },
  ({ groundTruth }) => ({
    advantages: () => null,
    select: (c) => {
      const rollouts = new Uint8Array(c.N).fill(1)
      if (!groundTruth) return { rollouts }
      const wrong = c.rewards.findIndex((r, i) => c.rolloutMask?.[i] !== 0 && !(r >= 0 && r <= 1))
      if (wrong >= 0) throw grpoError('value', name, 'rewards', `has ${c.rewards[wrong]} at ${wrong}, expected 0 to 1`)
      for (const { begin, end } of c.groups) {
        const share = mean(c.rewards.subarray(begin, end).filter((_, i) => c.rolloutMask?.[begin + i] ?? 1))
        if (!(share > 0 && share < 1)) rollouts.fill(0, begin, end)
      }
      return { rollouts }
    },
    objective: null,
    update: (c) => ({
      experiences: applyOperations(c.state.experiences, mergeOperations(c.columns.operations ?? [])),
    }),
    sample: {
      mergeOperations,
      applyOperations,
      /** What enters the prompt of the next rollouts. */
      next: (c) => ({ experiences: Object.entries(c.state.experiences).map(([id, text]) => `[${id}]. ${text}`) }),
    },
  }),
)
