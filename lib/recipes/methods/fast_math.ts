import { members } from '../parts/members.js'
import { at } from '../parts/statistics.js'
import { recipe } from '../step/recipe.js'

export const fastMath = recipe(
  {
    name: 'fastMath',
    paper: {
      title:
        'A Practical Two-Stage Recipe for Mathematical LLMs: Maximizing Accuracy with SFT and Efficiency with Reinforcement Learning',
      arxiv: '2507.08267',
    },
    source: 'code',
    unknown: 'The formulas are those of the code, which measures lengths in characters; the paper may differ.',
    equation: `p = min(1, characters[i] / maxLength)
cosine[i] = 0.1 + 0.45 (1 + cos(pi p)) if correct, minus that if wrong
l[i] = 1/2 - (characters[i] - min(g)) / (max(g) - min(g));  length[i] = l if correct, min(0, l) if wrong, 0 if all equal
R[i] = formatWeight format[i] + cosineWeight cosine[i] + lengthWeight length[i]
A[i] = (R[i] - mean(g)) / (std(g) + eps); 0 in a group of one`,
    columns: {
      correct: 'flag[N] whether the answer is right; 1 in the code also where the reference answer cannot be parsed',
      format: 'flag[N] whether a boxed answer stands before the closing think tag',
      characters: 'number[N] length of each completion, in characters as in the code, or in the unit of maxLength',
    },
    options: {
      maxLength: ['number = 30000 > 0', 'length at which the cosine has fallen'],
      formatWeight: ['number = 1 >= 0', 'weight of the format'],
      cosineWeight: ['number = 1 >= 0', 'weight of the cosine'],
      lengthWeight: ['number = 1 >= 0', 'weight of the length within the group'],
      eps: ['number = 0.0001 >= 0', 'added to the standard deviation'],
      klCoef: ['number = 0.04 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
    },
    example: {
      correct: [1, 0, 1, 0, 0, 1, 0, 0],
      format: [1, 1, 1, 0, 1, 1, 1, 1],
      characters: [6000, 9000, 15000, 30000, 12000, 8000, 20000, 40000],
    },
  },
  ({ maxLength, formatWeight, cosineWeight, lengthWeight, eps, klCoef }) => ({
    rewards(c) {
      const { correct, format, characters } = c.columns
      const reward = new Float64Array(c.N)
      for (const places of members(c)) {
        const lengths = at(characters, places)
        const [shortest, longest] = [Math.min(...lengths), Math.max(...lengths)]
        for (const [k, i] of places.entries()) {
          const own = lengths[k] as number
          const cosine = 0.1 + 0.45 * (1 + Math.cos(Math.PI * Math.min(1, own / maxLength)))
          const relative = longest === shortest ? 0 : 0.5 - (own - shortest) / (longest - shortest)
          const length = correct[i] ? relative : Math.min(0, relative)
          const signed = correct[i] ? cosine : -cosine
          reward[i] = formatWeight * (format[i] as number) + cosineWeight * signed + lengthWeight * length
        }
      }
      return reward
    },
    advantages: { eps },
    objective: { klCoef },
  }),
)
