import { array, maskIndex } from '../lib/index.js'
import { random } from '../test/support/random.js'
import { type Case, thousands } from './cases.js'

const N = 16777216

export const cases: Case[] = [
  {
    operation: 'maskIndex',
    size: `${thousands(N)} tokens, a fifth of them kept`,
    prepare() {
      const inputs = { mask: array(random(N).mask(N, 0.2)) }
      const out = maskIndex(inputs)
      return {
        inputs,
        variants: [
          { name: 'into out', run: () => ({ ...maskIndex(inputs, { out }) }) },
          { name: 'new array', run: () => ({ ...maskIndex(inputs) }) },
        ],
      }
    },
  },
]
