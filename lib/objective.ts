/**
 * What a policy loss minimises: the same options for policyLoss, policyLossFromLogits and linearPolicyLoss.
 *
 *   loss = sum over unmasked t of f(t) (weight[t] surrogate(t) + klCoef kl(t)) - entropyCoef sum of g(t) entropy[t]
 *
 * f and g are the factors of `aggregate` and `entropyAggregate`. With d = logp - oldLogp (0 without oldLogp), A the
 * advantage, x = logp - refLogp, and r the importance ratio of `ratio`. Where A or the weight is 0, the surrogate is exactly
 * 0 whatever the ratio; only the penalty of 'dro' does not ask for A. Stop-gradients are written sg[].
 */
export interface Objective {
  /**
   * The policy term. Default 'clip'.
   * - 'clip':      -min(r A, clip(r) A), clip(r) = min(max(r, 1 - clipLow), 1 + clipHigh). At ties the gradient is kept:
   *                it is -A r where A > 0 and r <= 1 + clipHigh, or A < 0 and r >= 1 - clipLow, and 0 elsewhere (PPO).
   * - 'cispo':     -sg[clip(r)] A logp, no token without gradient (MiniMax-M1, arXiv:2506.13585)
   * - 'sapo':      -A (4 / tau) sigmoid(tau (r - 1)), tau = tauPositive where A > 0, else tauNegative (arXiv:2511.20347)
   * - 'reinforce': -A logp
   * - 'vespo':     -sg[phi] A logp, phi = W^power exp(decay (1 - W)), with powerPositive and decayPositive where A >= 0,
   *                else powerNegative and decayNegative. W is the ratio of 'sequence_product', which it needs, of d that
   *                are clamped to ± 20 each and in sum to [log 1e-8, 20]; r is W. A phi that is NaN or infinite counts as
   *                0 (arXiv:2602.10693)
   * - 'dro':       -A logp + droBeta d^2 / 2, gradient -A + droBeta d. Where A is 0 the penalty remains; a weight of 0
   *                removes both. Ratio 'token' only (arXiv:2405.19107)
   * - 'dppo_tv':   -sg[min(r, ratioCap)] A logp, and 0 without gradient where the probability p = min(exp(logp), 1) has
   *                left that of the rollout, q = min(exp(oldLogp), 1), on the side where A pushes: A > 0 and
   *                p - q > clipHigh, or A < 0 and p - q < -clipLow. Ratio 'token' only, no ratioLow and ratioHigh
   *                (arXiv:2602.04879)
   * - 'dppo_kl':   the same with the KL of the two outcomes "this token" and "another one",
   *                k = q (oldLogp - logp) + (1 - q) log((1 - q + 1e-8) / (1 - p + 1e-8)): 0 where A > 0, p > q and
   *                k > clipHigh, or A < 0, p < q and k > clipLow
   */
  surrogate?: 'clip' | 'cispo' | 'sapo' | 'reinforce' | 'vespo' | 'dro' | 'dppo_tv' | 'dppo_kl'
  /**
   * The importance ratio r. n is the number of unmasked tokens of the sequence, sums run over those. Default 'token'.
   * - 'token':            exp(d)
   * - 'sequence':         exp(sum d / n) at every token, gradient to all of them (GSPO, arXiv:2507.18071)
   * - 'sequence_token':   the same value, gradient to the own token alone: sg[exp(sum d / n)] exp(d - sg[d]) (GSPO-token)
   * - 'sequence_product': exp(sum d), gradient to all tokens (RLOO)
   * - 'geometric':        exp(sum clipped d / n), where A > 0 cuts each d at clipHigh from above and others at -clipLow from
   *                       below; a cut token gets no gradient (GMPO, arXiv:2507.20673). Surrogate 'clip' and `advantage`
   *                       only.
   */
  ratio?: 'token' | 'sequence' | 'sequence_token' | 'sequence_product' | 'geometric'
  /**
   * Lower end of the interval: 1 - clipLow; for 'geometric' -clipLow on the log-ratio; for the surrogates of DPPO see
   * there. null: none. Default 0.2.
   */
  clipLow?: number | null
  /**
   * Upper end: 1 + clipHigh; for 'geometric' clipHigh on the log-ratio; for DPPO see there. null: none. Default 0.2. TRL's
   * CISPO, which caps the ratio itself at c, is { clipLow: null, clipHigh: c - 1 }.
   */
  clipHigh?: number | null
  /** c > 1: where A < 0 the surrogate 'clip' is at most -c A, with gradient 0 beyond. Default null. verl: 3. */
  dualClip?: number | null
  /**
   * The log-ratio that is exponentiated (the sequence's, for ratios of sequences) is clamped to ± this, with gradient 0
   * outside; 'cispo' keeps its gradient, since its ratio is detached. Default null. verl: 20.
   */
  logRatioClamp?: number | null
  /** Factor of the KL to refLogp, added per token. Default 0: none; refLogp then only shows in the statistics. */
  klCoef?: number
  /** 'k3' (default): exp(-x) - 1 + x. 'k1': x. 'k2': x^2 / 2. 'abs': |x|. */
  kl?: 'k3' | 'k1' | 'k2' | 'abs'
  /**
   * 'exact' (default): the derivative of the value. 'k2': that of k2, which is x, whatever klClamp and klValueClamp (verl's
   * k3+).
   */
  klGradient?: 'exact' | 'k2'
  /**
   * What the KL of a token is multiplied by; the gradient flows through both. Without oldLogp the weight is 1, with
   * gradient: with k3 that of the product is r x. Default 'none'.
   * - 'none':        1
   * - 'ratio':       r, as `ratio` says; not defined for 'geometric' (DeepSeek-V3.2)
   * - 'token_ratio': the token's own exp(d), also where `ratio` is of sequences: unclipped, with d clamped to
   *                  ± logRatioClamp if there is one, and its gradient to the own token (TRL 1.10)
   */
  klWeight?: 'none' | 'ratio' | 'token_ratio'
  /**
   * c > 0: the weight of the KL is min(weight, c). Where it is cut it is a constant, and the KL keeps its own gradient; at a
   * tie the weight keeps its gradient too. Needs a `klWeight`. Default null: none.
   */
  klWeightClamp?: number | null
  /**
   * c > 0: weight × value of the KL, before klCoef, is clamped to ± c, with gradient 0 outside (beyond the interval, not at
   * its ends), whatever `klGradient` says. Without a `klWeight` the weight is 1. Default null: none. slime: 10.
   */
  klTermClamp?: number | null
  /** x is clamped to ± this in the KL, with gradient 0 outside. Default null. verl: 20. */
  klClamp?: number | null
  /** The KL's value is clamped to ± this, with gradient 0 outside. Default null. verl: 10. */
  klValueClamp?: number | null
  /** Factor of the entropy, which is subtracted. Default 0. */
  entropyCoef?: number
  /** How entropies are aggregated, with their own count (`normalizer` is not used). Default null: as the rest. */
  entropyAggregate?: 'token_mean' | 'sequence_mean' | 'sequence_sum' | 'constant' | 'token_sum' | null
  /** SAPO's tau where A > 0. Default 1. */
  tauPositive?: number
  /** SAPO's tau elsewhere. Default 1.05. */
  tauNegative?: number
  /**
   * The factor of a token. tokens and sequences are counts of this call, of what is unmasked. Default 'token_mean'.
   * - 'token_mean':    1 / tokens (DAPO)
   * - 'sequence_mean': 1 / (unmasked tokens of its sequence × sequences) (GRPO)
   * - 'sequence_sum':  1 / sequences
   * - 'constant':      1 / (sequences × maxLength) (Dr. GRPO, arXiv:2503.20783)
   * - 'token_sum':     1
   */
  aggregate?: 'token_mean' | 'sequence_mean' | 'sequence_sum' | 'constant' | 'token_sum'
  /** Needed by 'constant'. */
  maxLength?: number | null
  /** true: sequences without unmasked tokens count among the sequences (TRL). Default false. */
  countEmpty?: boolean
  /**
   * The whole denominator (tokens, sequences, or sequences × maxLength), for gradients that are accumulated over
   * micro-batches or summed over ranks: pass the global one. Where ranks average their gradients, divide it by the number
   * of ranks. 'sequence_mean' still divides by the tokens of each sequence. 0 gives loss 0 and gradient 0; else it is
   * at least 1.2e-38, as maxLength and SAPO's tau are: float32 has to hold the inverse. Default null.
   */
  normalizer?: number | null
  /** VESPO's power of W where A >= 0. Default 2. */
  powerPositive?: number
  /** VESPO's decay in W where A >= 0, at least 1e-4. Default 3. */
  decayPositive?: number
  /** VESPO's power of W elsewhere. Default 3. */
  powerNegative?: number
  /** VESPO's decay in W elsewhere, at least 1e-4. Default 2. */
  decayNegative?: number
  /** Factor of the penalty of 'dro', which needs it; above 0. Default null. */
  droBeta?: number | null
  /** The largest ratio that 'dppo_tv' and 'dppo_kl' multiply by. Default null: none. verl: 3. */
  ratioCap?: number | null
}
