import { recipe } from '../step/recipe.js'

export const dppo = recipe(
  {
    name: 'dppo',
    paper: { title: 'Rethinking the Trust Region in LLM Reinforcement Learning', arxiv: '2602.04879' },
    source: 'code',
    unknown:
      'The cap of the ratio: 3 is what verl runs with, 20 what its code falls back to and its documentation says.',
    equation: `p, p' the probabilities of a token now and in oldLogp
D = p - p' (tv), or the KL of (p', 1 - p') to (p, 1 - p), with 1e-8 added to 1 - p' and 1 - p (kl)
inside the trust region:  tv: D <= clipHigh where A > 0, else D >= -clipLow
                          kl: D <= clipHigh or p <= p' where A > 0, else D <= clipLow or p >= p'
loss = mean over tokens of -A sg[min(r, ratioCap)] logp inside, 0 outside`,
    options: {
      divergence: ['enum tv|kl', 'total variation, or the KL of the two-valued distributions'],
      clipLow: ['number = 0.2 >= 0', 'how far a token of advantage <= 0 may lie off'],
      clipHigh: ['number = 0.2 >= 0', 'how far one of advantage > 0 may'],
      ratioCap: ['number = 3 > 0', 'largest ratio that counts'],
    },
  },
  ({ divergence, clipLow, clipHigh, ratioCap }) => ({
    objective: { surrogate: divergence === 'tv' ? 'dppo_tv' : 'dppo_kl', clipLow, clipHigh, ratioCap },
  }),
)
