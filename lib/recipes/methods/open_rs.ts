import { recipe } from '../step/recipe.js'

export const openRs = recipe(
  {
    name: 'openRs',
    paper: {
      title: "Reinforcement Learning for Reasoning in Small LLMs: What Works and What Doesn't",
      arxiv: '2503.16219',
    },
    source: 'code',
    unknown: `The code measures lengths in characters and lets the cosine turn back beyond maxLength; here it is clamped
unless asked otherwise. Its functions and its command line have different defaults for wrong answers: these are the
command line's.`,
    equation: `p = characters[i] / maxLength, at most 1 with clamp
cosine[i] = low + (high - low) (1 + cos(pi p)) / 2, low and high being minCorrect, maxCorrect or maxWrong, minWrong
where the reference answer cannot be parsed: correct[i] = cosine[i] = 1, whatever the length
R[i] = accuracyWeight correct[i] + formatWeight format[i] + cosineWeight cosine[i]
A[i] = (R[i] - mean(g)) / (std(g) + eps); 0 in a group of one`,
    columns: {
      correct: 'flag[N] whether the answer is right',
      unparsable: 'flag[N]? whether the reference answer cannot be parsed; default: each can',
      format: 'flag[N] whether the closing think tag stands exactly once, on a line of its own',
      characters: 'number[N] length of each completion; in characters as in the code, or in the unit of maxLength',
    },
    options: {
      maxLength: ['number = 1000 > 0', 'length at which the cosine has fallen; 3584 in experiment 3'],
      clamp: ['boolean = true', 'false: as in the code, where a completion of twice maxLength counts as an empty one'],
      minCorrect: ['number = 0.5', 'of a right answer of maxLength'],
      maxCorrect: ['number = 1', 'of an empty right answer'],
      minWrong: ['number = 0', 'of an empty wrong answer; -1 is the function’s default'],
      maxWrong: ['number = -0.5', 'of a wrong answer of maxLength'],
      accuracyWeight: ['number = 0 >= 0', 'weight of correctness alone'],
      formatWeight: ['number = 1 >= 0', 'weight of the format'],
      cosineWeight: ['number = 2 >= 0', 'weight of the cosine'],
      eps: ['number = 0.0001 >= 0', 'added to the standard deviation'],
      klCoef: ['number = 0.04 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: {
      correct: [1, 0, 1, 0, 0, 1, 0, 0],
      format: [1, 1, 1, 0, 1, 1, 1, 1],
      characters: [300, 900, 700, 1200, 400, 500, 800, 1000],
    },
  },
  (options) => ({
    rewards: ({ columns: { correct, unparsable, format, characters } }) =>
      characters.map((length, i) => {
        const p = options.clamp ? Math.min(1, length / options.maxLength) : length / options.maxLength
        const low = correct[i] ? options.minCorrect : options.maxWrong
        const high = correct[i] ? options.maxCorrect : options.minWrong
        const cosine = unparsable?.[i] ? 1 : low + 0.5 * (high - low) * (1 + Math.cos(Math.PI * p))
        const accuracy = unparsable?.[i] ? 1 : (correct[i] as number)
        const { accuracyWeight, formatWeight, cosineWeight } = options
        return accuracyWeight * accuracy + formatWeight * (format[i] as number) + cosineWeight * cosine
      }),
    advantages: { eps: options.eps },
    objective: { klCoef: options.klCoef },
  }),
)
