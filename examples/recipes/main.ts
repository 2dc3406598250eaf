// npm run example -- recipes                   nine methods from the same policy, on the same problems; minutes
// npm run example -- recipes --recipe cispo    one method; it has to manage with what this trainer can tell it
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { type AnyRecipe, recipes, type SavedState } from '../../lib/recipes/index.js'
import { mean } from '../arithmetic/chart.js'
import { copyParameters, createParameters, type Parameters } from '../arithmetic/model.js'
import { drawProblems } from '../arithmetic/problems.js'
import { progressBar } from '../arithmetic/progress.js'
import { seededRandom } from '../arithmetic/random.js'
import { collect } from '../arithmetic/train.js'
import { score, warmUp } from '../arithmetic/warm_up.js'
import { curvesChart } from './chart.js'
import type { Options } from './options.js'
import { type Problems, problemsOf } from './problems.js'
import { type History, recipeStep } from './train.js'

const sweep = ['grpo', 'drGrpo', 'dapo', 'gspo', 'ngrpo', 'dcpo', 'd3s', 'tempo', 'spo']

/** Where a run smooths its rewards: over the batches of so many steps. */
const smoothing = 10

interface Run {
  readonly name: string
  readonly rewards: number[]
  /** Mean reward on held-out problems at the end. */
  readonly after: number
  readonly tokens: number
  readonly secondsPerStep: number
}

const smoothed = (rewards: readonly number[], i: number) => mean(rewards.slice(Math.max(0, i + 1 - smoothing), i + 1))

function train(recipe: AnyRecipe, warm: Parameters, pool: Problems, options: Options): Run {
  const { name } = recipe
  // The same seed for all: what differs is the method.
  const random = seededRandom(options.seed + 1)
  const policy = copyParameters(warm)
  const optimizer = tf.train.adam(options.rate, 0.9, 0.99)
  const { steps } = options
  const group = recipe.name === 'spo' ? 1 : options.group
  const bar = progressBar(name.padEnd(8), steps)
  const rewards: number[] = []
  const history: History = new Map()
  let state: SavedState | undefined
  let tokens = 0
  const begin = performance.now()
  for (let step = 0; step < steps; step++) {
    const problems = problemsOf(recipe, state, pool, Math.round(options.rollouts / group), random)
    const scored = collect(policy, problems, group, random)
    const rollouts = { problems, scored, progress: step / steps }
    const report = recipeStep(recipe, state, policy, warm, optimizer, rollouts, options.updates, history)
    state = report.state
    tokens += report.tokens
    rewards.push(mean(scored.rewards))
    bar.show(step + 1, `reward ${smoothed(rewards, step).toFixed(2)}`)
  }
  const secondsPerStep = (performance.now() - begin) / 1000 / steps
  bar.end()
  const after = score(policy, pool.heldOut, random)
  optimizer.dispose()
  tf.dispose(Object.values(policy))
  return { name, rewards, after, tokens, secondsPerStep }
}

function report(runs: readonly Run[], before: number, target: number): void {
  const reached = ({ rewards }: Run) =>
    rewards.findIndex((_, i) => i + 1 >= smoothing && smoothed(rewards, i) >= target)
  const lines = runs.map((run) => [
    run.name,
    run.after.toFixed(2),
    reached(run) < 0 ? 'not reached' : String(reached(run) + 1),
    run.tokens.toLocaleString('en'),
    `${Math.round(1000 * run.secondsPerStep)} ms`,
  ])
  const head = ['method', 'reward', `steps to ${target}`, 'tokens in the loss', 'time per step']
  const widths = head.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i]!.length)))
  for (const line of [head, ...lines]) {
    console.log(line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '))
  }
  console.log(
    `Reward: mean on 512 held-out problems, ${before.toFixed(2)} before. One seed of a small task: it shows that the ` +
      'methods run and learn, not which is better.',
  )
}

export async function run(options: Options): Promise<void> {
  const begin = performance.now()
  const names = options.recipe === undefined ? sweep : [options.recipe]
  const methods = names.map((name) => (recipes as unknown as Record<string, () => AnyRecipe>)[name]!())
  await tf.setBackend('wasm')
  const random = seededRandom(options.seed)
  const policy = createParameters(random)
  const heldOut = drawProblems(512, 'held-out', random)
  warmUp(policy, heldOut, random)
  const before = score(policy, heldOut, random)
  const pool = { training: drawProblems(options.pool, 'training', random), heldOut }
  const runs = methods.map((recipe) => train(recipe, policy, pool, options))
  report(runs, before, options.target)
  mkdirSync(dirname(options.out), { recursive: true })
  const curves = runs.map(({ name, rewards }) => ({ name, values: rewards.map((_, i) => smoothed(rewards, i)) }))
  writeFileSync(options.out, curvesChart(curves, `Addition, seed ${options.seed}: mean reward over ${smoothing} steps`))
  console.log(`${Math.round((performance.now() - begin) / 1000)} s in all. The curves are in ${options.out}`)
}
