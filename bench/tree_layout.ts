import { array, prefixLayout, treeLayout } from '../lib/index.js'
import { random } from '../test/support/random.js'
import { type Case, thousands } from './cases.js'

const prompts = 128
const responses = 16
const prefix = 512
const longest = 1024

const arraysOf = ({ segmentStart, position, sequenceStart, row, place }: ReturnType<typeof treeLayout>) => ({
  segmentStart,
  position,
  sequenceStart,
  row,
  place,
})

/** Prompts with their responses. */
function groups() {
  const { integer } = random(1)
  return Array.from({ length: prompts }, () => ({
    prefix,
    responses: Array.from({ length: responses }, () => integer(longest + 1)),
  }))
}

/** Per prompt a tree of three levels: 4 first steps, each with 4 continuations, all of a quarter of the longest. */
function forest() {
  const length: number[] = []
  const parent: number[] = []
  const add = (tokens: number, up: number) => {
    length.push(tokens)
    return parent.push(up) - 1
  }
  for (let prompt = 0; prompt < prompts; prompt++) {
    const root = add(prefix, -1)
    for (let first = 0; first < 4; first++) {
      const step = add(longest / 4, root)
      for (let second = 0; second < 4; second++) add(longest / 4, step)
    }
  }
  return { length: Int32Array.from(length), parent: Int32Array.from(parent) }
}

export const cases: Case[] = [
  {
    operation: 'prefixLayout',
    size: `${prompts} prompts of ${prefix}, ${responses} responses of 0 to ${thousands(longest)}`,
    prepare() {
      const list = groups()
      const length = list.flatMap((group) => [group.prefix, ...group.responses])
      const parent = list.flatMap((_, g) => [-1, ...Array<number>(responses).fill(g * (responses + 1))])
      return {
        inputs: { length: array(Int32Array.from(length)), parent: array(Int32Array.from(parent)) },
        variants: [{ name: '', run: () => arraysOf(prefixLayout(list)) }],
      }
    },
  },
  {
    operation: 'treeLayout',
    size: `${prompts} trees of 4 x 4 branches of ${longest / 4}`,
    prepare() {
      const { length, parent } = forest()
      return {
        inputs: { length: array(length), parent: array(parent) },
        variants: [{ name: '', run: () => arraysOf(treeLayout({ length, parent })) }],
      }
    },
  },
]
