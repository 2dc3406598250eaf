// What `npm run example` takes.
import { join } from 'node:path'
import type { Command, Values } from '../../bench/command.mjs'

export const command = {
  run: 'npm run example',
  about:
    'Trains a small transformer to add numbers, by GRPO; about a minute on two cores. npm run example -- recipes trains it\n' +
    'by other methods, and has options of its own.',
  options: {
    seed: { type: 'number', default: 1, help: 'of everything that is drawn' },
    steps: { type: 'number', default: 200, help: 'of GRPO' },
    prompts: { type: 'number', default: 32, help: 'problems per step' },
    group: { type: 'number', default: 8, help: 'responses per problem' },
    updates: { type: 'number', default: 2, help: 'optimizer steps per batch of responses' },
    device: {
      type: 'text',
      default: 'cpu',
      names: { what: 'device', known: ['cpu', 'cuda'] },
      help: 'where attention and loss are computed',
    },
    rate: { type: 'number', default: 4e-4, help: 'learning rate' },
    out: { type: 'text', default: join(__dirname, 'out', 'reward.svg'), help: 'the chart' },
  },
} as const satisfies Command

export type Options = Values<typeof command>
