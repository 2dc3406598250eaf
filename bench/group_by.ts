import { array, groupBy } from '../lib/index.js'
import { type Case, integers, thousands } from './cases.js'

const [N, G] = [1048576, 65536]

export const cases: Case[] = [
  {
    operation: 'groupBy',
    size: `${thousands(N)} rollouts in any order, ids below ${thousands(G)}`,
    prepare() {
      const inputs = { ids: array(integers(N, G)) }
      return { inputs, variants: [{ name: '', run: () => ({ ...groupBy(inputs.ids) }) }] }
    },
  },
]
