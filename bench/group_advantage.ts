import { array, groupAdvantage } from '../lib/index.js'
import { type Case, evenly, normals, ragged, thousands } from './cases.js'
import { onGpu } from './gpu.js'

const N = 1048576
const calls = 10000

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

/** As it is installed: what runs lib/ for the benchmark names each function anew at each call, half of the time here. */
async function compiled(): Promise<typeof groupAdvantage> {
  const name: string = 'grpo-kernels'
  try {
    return ((await import(name)) as typeof import('../lib/index.js')).groupAdvantage
  } catch (cause) {
    throw new Error('dist/ is missing: npm run build:ts makes it', { cause })
  }
}

/** What a call costs before a kernel has anything to do: names, kinds, sizes, and the way to the addon and back. */
const small: Case = {
  operation: 'groupAdvantage',
  size: `eight rollouts, ${thousands(calls)} times`,
  async prepare() {
    const call = await compiled()
    const inputs = { rewards: array(normals(8)), groupStart: array(evenly(8, 8)) }
    const out = call(inputs)
    const repeated = (once: () => typeof out) => () => {
      for (let i = 1; i < calls; i++) once()
      return { ...once() }
    }
    return {
      inputs,
      numbers: { group: 8, eps: 1e-4, calls },
      variants: [
        { name: 'into out', run: repeated(() => call(inputs, { out })) },
        { name: 'new arrays', run: repeated(() => call(inputs)) },
      ],
    }
  },
}

export const cases: Case[] = [
  groups(evenly(N, 16), 'groups of 16', 16),
  groups(ragged(N, 16), 'groups of 0 to 32', 0),
  small,
]
