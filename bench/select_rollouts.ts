import { array, selectRollouts } from '../lib/index.js'
import { type Case, evenly, normals, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const [N, group, count] = [1048576, 16, 4]

export const cases: Case[] = [
  {
    operation: 'selectRollouts',
    size: `${count} of ${group} by variance, ${thousands(N)} rollouts`,
    prepare() {
      const inputs = { score: array(normals(N)), groupStart: array(evenly(N, group)) }
      return {
        inputs,
        gpu: onGpu(selectRollouts, inputs, { count }),
        numbers: { group, count },
        variants: [{ name: '', run: () => ({ ...selectRollouts(inputs, { count }) }) }],
      }
    },
  },
]
