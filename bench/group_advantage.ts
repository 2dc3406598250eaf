import { array, groupAdvantage } from '../lib/index.js'
import { type Case, evenly, normals, ragged, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const N = 1048576

function groups(groupStart: Int32Array, size: string, group: number): Case {
  return {
    operation: 'groupAdvantage',
    size: `${thousands(N)} rollouts, ${size}`,
    prepare() {
      const inputs = { rewards: array(normals(N)), groupStart: array(groupStart) }
      const out = groupAdvantage(inputs)
      return {
        inputs,
        gpu: onGpu(groupAdvantage, inputs, {}),
        // 0 stands for groups of different sizes.
        numbers: { group, eps: 1e-4 },
        variants: [
          { name: 'into out', run: () => ({ ...groupAdvantage(inputs, { out }) }) },
          { name: 'new arrays', run: () => ({ ...groupAdvantage(inputs) }) },
        ],
      }
    },
  }
}

export const cases: Case[] = [groups(evenly(N, 16), 'groups of 16', 16), groups(ragged(N, 16), 'groups of 0 to 32', 0)]
