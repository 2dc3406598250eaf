// What `npm run example -- recipes` takes.
import { join } from 'node:path'
import type { Command, Values } from '../../bench/command.mjs'
import { recipes } from '../../lib/recipes/index.js'

export const command = {
  run: 'npm run example -- recipes',
  about:
    'Trains nine methods from the same policy, on the same problems, in about five minutes on two cores; or one method,\n' +
    'which has to manage with what this trainer can tell it.',
  options: {
    recipe: { type: 'text', help: 'this one alone', names: { what: 'method', known: Object.keys(recipes) } },
    seed: { type: 'number', default: 1, help: 'of everything that is drawn' },
    steps: { type: 'number', default: 160, help: 'of each method' },
    rollouts: { type: 'number', default: 256, help: 'per step' },
    group: { type: 'number', default: 8, help: 'rollouts per problem; spo takes one' },
    pool: { type: 'number', default: 512, help: 'training problems, which come back again and again' },
    updates: { type: 'number', default: 2, help: 'optimizer steps per batch' },
    rate: { type: 'number', default: 4e-4, help: 'learning rate' },
    target: { type: 'number', default: 0.5, help: 'reward whose first step is told' },
    out: { type: 'text', default: join(__dirname, 'out', 'recipes.svg'), help: 'the chart' },
  },
} as const satisfies Command

export type Options = Values<typeof command>
