import { grpoError } from '../../addon/errors.js'
import { members } from '../parts/members.js'
import { recipe } from '../step/recipe.js'

export const thyme = recipe(
  {
    name: 'thyme',
    paper: { title: 'Thyme: Think Beyond Images', arxiv: '2508.11630' },
    source: 'code',
    reads: ({ overlongFilter }: { overlongFilter: boolean }) => (overlongFilter ? { step: ['mask'] } : {}),
    unknown:
      'Which aggregation the published runs use: here the sequence mean. Tokens decoded at temperature 0 are trained with log-probabilities at temperature 1, as in the released code; no correction is published.',
    equation: `temperature of the next segment = codeTemperature where the text so far ends with "<code>", else temperature
A[i] = (R[i] - mean(g)) / (std(g) + eps); a truncated rollout counts in mean, std and the denominators, but has no tokens
loss = mean over rollouts of the mean over tokens of -min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) + klCoef k3`,
    columns: { truncated: 'flag[N]? which rollouts were cut off at the longest length' },
    options: {
      temperature: ['number = 1 > 0', 'of the segments that are text'],
      codeTemperature: ['number = 0 >= 0', 'of the segments that are code'],
      overlongFilter: ['boolean = true', 'whether truncated rollouts leave the loss'],
      dynamicSample: ['boolean = false', 'whether groups without variance are to be sampled again'],
      clipLow: ['number = 0.2 >= 0', 'lower width of the clip interval'],
      clipHigh: ['number = 0.2 >= 0', 'upper width'],
      klCoef: ['number = 0.01 >= 0', 'factor of the KL to the reference policy; 0 needs no refLogp'],
      eps: ['number = 0.0001 >= 0', 'added to the standard deviation'],
      aggregate: ['enum sequence_mean|token_mean|constant', 'how tokens are averaged'],
      maxLength: ['number? = null > 0', 'of a rollout; needed by the aggregation constant'],
    },
    example: { truncated: [0, 0, 0, 0, 0, 1, 0, 0] },
  },
  ({ temperature, codeTemperature, overlongFilter, dynamicSample, eps, ...objective }) => {
    if (objective.aggregate === 'constant' && objective.maxLength === null) {
      throw grpoError('option', 'thyme', 'maxLength', 'is null, but aggregate is constant')
    }
    return {
      advantages: { eps },
      select: (c) => ({ rollouts: overlongFilter ? c.columns.truncated?.map((cut) => 1 - cut) : undefined }),
      objective: { ...objective, countEmpty: true },
      sample: {
        /** For the segment after this text of the assistant's last turn; white space at its end does not count. */
        segmentTemperature: (text: string): number => (text.trim().endsWith('<code>') ? codeTemperature : temperature),
        /**
         * The groups whose rewards are all equal, those of rejected rollouts aside, or whose rollouts are all rejected: they
         * teach nothing, and are to be sampled again, if the method does so. A group that had no rollouts is not.
         */
        next(c) {
          const counted = members(c)
          const equal = (places: readonly number[]) =>
            places.every((i) => c.rewards[i] === c.rewards[places[0] as number])
          const same = c.groups.filter(({ g, begin, end }) => end > begin && equal(counted[g] as number[]))
          return { resample: dynamicSample ? same.map(({ g }) => g) : [] }
        },
      },
    }
  },
)
