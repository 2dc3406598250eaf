import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { at, descending } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

type Random = () => number

/** Tokens from `begin` to `end` - 1 of the solution, placed at `place` of the generation. */
export interface Hint {
  readonly begin: number
  readonly end: number
  readonly place: number
}

/** `count` of the places 0 to n - 1, in the order in which they were drawn. */
function draw(n: number, count: number, random: Random): number[] {
  const places = Array.from({ length: n }, (_, i) => i)
  for (let i = 0; i < count; i++) {
    const j = i + Math.floor(random() * (n - i))
    ;[places[i], places[j]] = [places[j]!, places[i]!]
  }
  return places.slice(0, count)
}

export const igpo = recipe(
  {
    name: 'igpo',
    paper: { title: 'Inpainting-Guided Policy Optimization for Diffusion Large Language Models', arxiv: '2509.10396' },
    source: 'code',
    reads: { step: ['mask', 'entropy', 'inpainted'] },
    unknown:
      'The released sequence ratio averages over all positions, padding and left-out hints included; here it averages over the tokens that enter the loss. Defaults are those of the released script.',
    equation: `if all rollouts of a group are wrong: inpaint as many, k-th with hint ratio u_(k), u ~ U[hintLow, hintHigh] sorted,
  and overwrite the first of the group by at most maxReplacements of the inpainted ones that are right
A[i] = R[i] - mean(g)
of the hint tokens of a rollout the max(1, floor(hintShare n)) with the highest entropy (the first of equals) enter the loss, of the others all
loss = mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) + klCoef k3`,
    columns: {
      correct: 'flag[N] which rollouts have the right answer',
      inpainted: 'flag[T] which tokens were given as hints; a mask of the batch tells which positions were noised',
    },
    options: {
      hintLow: ['number = 0.2 0..1', 'smallest hint ratio; 0.1 in the configuration of the code'],
      hintHigh: ['number = 0.6 0..1', 'largest hint ratio; 0.5 there'],
      chunkLow: ['integer = 5 >= 1', 'tokens of the shortest chunk; 4 there'],
      chunkHigh: ['integer = 10 >= 1', 'tokens of the longest chunk; 8 there'],
      freeEnd: ['integer = 30 >= 0', 'tokens at the end of the generation that get no hints'],
      maxScale: ['number = 1.5 >= 1', 'how far the gaps between hints may be stretched'],
      maxSpacing: ['integer = 100 >= 0', 'longest gap between hints'],
      maxReplacements: ['integer = 4 >= 0', 'rollouts of a group that are replaced; 1 there'],
      hintShare: ['number = 0.2 0..1', 'share of the hint tokens that enter the loss'],
      ratio: ['enum sequence|token', 'importance ratio: GSPO’s as in the script, or per token'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      klCoef: ['number = 0.01 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: { correct: [1, 0, 1, 0, 0, 1, 0, 0], inpainted: [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
  },
  ({ hintLow, hintHigh, chunkLow, chunkHigh, freeEnd, maxScale, maxSpacing, maxReplacements, hintShare, ...rest }) => {
    if (hintLow > hintHigh) throw grpoError('option', 'igpo', 'hintLow', `is ${hintLow}, expected at most hintHigh`)
    if (chunkLow > chunkHigh)
      throw grpoError('option', 'igpo', 'chunkLow', `is ${chunkLow}, expected at most chunkHigh`)
    /** Chunks of random size. A tail that is shorter than the shortest chunk is in none, so it is never a hint. */
    const chunks = (length: number, random: Random): { begin: number; end: number }[] => {
      const list = []
      for (let begin = 0; length - begin >= chunkLow; ) {
        const size = Math.min(chunkLow + Math.floor(random() * (chunkHigh - chunkLow + 1)), length - begin)
        list.push({ begin, end: begin + size })
        begin += size
      }
      return list
    }
    return {
      advantages: { scale: 'none' },
      select(c) {
        const { inpainted } = c.columns
        const hints = inpainted.map((given, t) => given & (c.mask?.[t] ?? 1))
        const tokens = inpainted.map((given) => 1 - given)
        for (let i = 0; i < c.N; i++) {
          const [begin, end] = [c.sequenceStart[i] as number, c.sequenceStart[i + 1] as number]
          const places = Array.from({ length: end - begin }, (_, k) => begin + k).filter((t) => hints[t])
          if (places.length === 0) continue
          const count = Math.max(1, Math.floor(places.length * hintShare))
          for (const k of descending(at(c.entropy, places)).slice(0, count)) tokens[places[k] as number] = 1
        }
        return { tokens }
      },
      objective: rest,
      sample: {
        /** The groups that are to be inpainted: all rollouts are wrong, of which rejected ones count as neither. */
        next: (c) => ({
          inpaint: [...members(c).entries()]
            .filter(([, places]) => places.length > 0 && places.every((i) => !c.columns.correct[i]))
            .map(([g]) => g),
        }),
        /** Of the inpainted rollouts of a group, in rising order. */
        hintRatios: (size: number, random: Random): number[] =>
          Array.from({ length: size }, () => hintLow + random() * (hintHigh - hintLow)).sort((a, b) => a - b),
        chunks,
        /**
         * Where hints of a solution of `length` tokens go in a generation of `room` tokens. floor((1 - ratio) n) of the n
         * chunks are left to the model, the last one never. No ratio, no hints.
         */
        hints: (length: number, room: number, ratio: number, random: Random): Hint[] => {
          const usable = Math.max(0, room - freeEnd)
          if (ratio <= 0 || length === 0) return []
          const scale = Math.min(maxScale, Math.max(1, usable / length))
          const all = chunks(Math.min(length, usable), random)
          const hidden = new Set(draw(all.length, Math.max(0, Math.floor(all.length * (1 - ratio))), random))
          const list: Hint[] = []
          let [before, place] = [0, 0]
          for (const { begin, end } of all.filter((_, k) => !hidden.has(k) || k === all.length - 1)) {
            const gap = Math.floor((begin - before) * scale)
            place += before === 0 ? gap : Math.min(gap, maxSpacing)
            if (place >= usable) break
            const size = Math.min(end - begin, usable - place)
            list.push({ begin, end: begin + size, place })
            place += size
            before = end
          }
          return list
        },
        /** Which inpainted rollout overwrites which of the group; none if none is right. */
        replace: (correct: ArrayLike<number | boolean>, random: Random): { slot: number; inpainted: number }[] => {
          const right = Array.from(correct, (yes, i) => (yes ? i : -1)).filter((i) => i >= 0)
          if (right.length > maxReplacements) {
            return draw(right.length, maxReplacements, random).map((k, slot) => ({ slot, inpainted: right[k]! }))
          }
          return right.map((inpainted, slot) => ({ slot, inpainted }))
        },
      },
    }
  },
)
