import { array, prefixLayout, tokenTree, treeLayout } from '../lib/index.js'
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

const groupCount = 16

/** Per prompt 16 sequences: its 512 tokens, one of 4 first steps, one of 4 continuations of that, an ending of its own. */
function sequences() {
  const { integer } = random(3)
  const [step, vocabulary] = [longest / 4, 32000]
  const draw = (tokens: number) => Int32Array.from({ length: tokens }, () => integer(vocabulary))
  const token = new Int32Array(groupCount * responses * (prefix + 3 * step))
  let end = 0
  const sequenceStart = [0]
  for (let group = 0; group < groupCount; group++) {
    const own = draw(prefix)
    for (let first = 0; first < 4; first++) {
      const shared = draw(step)
      for (let second = 0; second < 4; second++) {
        for (const part of [own, shared, draw(step), draw(integer(step + 1))]) {
          token.set(part, end)
          end += part.length
        }
        sequenceStart.push(end)
      }
    }
  }
  const groupStart = Int32Array.from({ length: groupCount + 1 }, (_, g) => g * responses)
  return { token: token.slice(0, end), sequenceStart: Int32Array.from(sequenceStart), groupStart }
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
  {
    operation: 'tokenTree',
    size: `${groupCount} groups of ${responses} sequences of ${thousands(prefix + longest / 2)} tokens and more, in trees of 4 x 4`,
    prepare() {
      const { token, sequenceStart, groupStart } = sequences()
      const run = () => {
        const { position, place } = tokenTree({ token, sequenceStart }, { groupStart })
        return { position, place }
      }
      return {
        inputs: { token: array(token), sequenceStart: array(sequenceStart), groupStart: array(groupStart) },
        variants: [{ name: '', run }],
      }
    },
  },
]
