import { array, moments } from '../lib/index.js'
import { type Case, normals, thousands } from './cases.js'

const N = 1048576

export const cases: Case[] = [
  {
    operation: 'moments',
    size: `${thousands(N)} advantages`,
    prepare() {
      const inputs = { x: array(normals(N, 1, 0.5)) }
      return { inputs, variants: [{ name: '', run: () => ({ ...moments(inputs) }) }] }
    },
  },
]
