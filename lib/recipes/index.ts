// The policy-optimization layer: every method as a recipe.
import { adaGrpo } from './ada_grpo.js'
import { apo } from './apo.js'
import { bnpo } from './bnpo.js'
import { branchGrpo } from './branch_grpo.js'
import { cispo } from './cispo.js'
import { clipCov, klCov } from './cov.js'
import { d3s } from './d3s.js'
import { dapo } from './dapo.js'
import { dcpo } from './dcpo.js'
import { disco } from './disco.js'
import { dppo } from './dppo.js'
import { drGrpo } from './dr_grpo.js'
import { dro } from './dro.js'
import { drpo } from './drpo.js'
import { dynamicRewardWeighting } from './dynamic_reward_weighting.js'
import { evolRl } from './evol_rl.js'
import { fastMath } from './fast_math.js'
import { fipo } from './fipo.js'
import { g2rpo } from './g2rpo.js'
import { gcpo } from './gcpo.js'
import { gdpo } from './gdpo.js'
import { gmpo } from './gmpo.js'
import { gpg } from './gpg.js'
import { grpo } from './grpo.js'
import { grpoGuard } from './grpo_guard.js'
import { grpoLambda } from './grpo_lambda.js'
import { gspo, gspoToken, luspo } from './gspo.js'
import { gtpo } from './gtpo.js'
import { gvmRaft } from './gvm_raft.js'
import { harpg } from './harpg.js'
import { igpo } from './igpo.js'
import { ipo } from './ipo.js'
import { knapsack } from './knapsack.js'
import { latr } from './latr.js'
import { maxRl } from './max_rl.js'
import { mdpo } from './mdpo.js'
import { nemoGrpo } from './nemo_grpo.js'
import { ngrpo } from './ngrpo.js'
import { npgIgt } from './npg_igt.js'
import { openRs } from './open_rs.js'
import { opo } from './opo.js'
import { optimalTokenBaseline } from './optimal_token_baseline.js'
import { otc } from './otc.js'
import { passAtK } from './pass_at_k.js'
import { posteriorGrpo } from './posterior_grpo.js'
import { ppo } from './ppo.js'
import { prefGrpo } from './pref_grpo.js'
import { rdpo } from './rdpo.js'
import { real } from './real.js'
import { regGrpo } from './reg_grpo.js'
import { reinforcePlusPlus } from './reinforce_plus_plus.js'
import { remax } from './remax.js'
import { riskPo } from './risk_po.js'
import { rloo } from './rloo.js'
import { sGrpo } from './s_grpo.js'
import { sapo } from './sapo.js'
import { scafGrpo } from './scaf_grpo.js'
import { simpo } from './simpo.js'
import { spo } from './spo.js'
import { spoChain } from './spo_chain.js'
import { spoTree } from './spo_tree.js'
import { srpo } from './srpo.js'
import { stratifiedGrpo } from './stratified_grpo.js'
import { tPpo } from './t_ppo.js'
import { tempFlow } from './temp_flow.js'
import { tempo } from './tempo.js'
import { tgdpo } from './tgdpo.js'
import { thr } from './thr.js'
import { thyme } from './thyme.js'
import { tpGrpo } from './tp_grpo.js'
import { tpo } from './tpo.js'
import { trainLong } from './train_long.js'
import { trainingFreeGrpo } from './training_free_grpo.js'
import { treePo } from './tree_po.js'
import { unlikeliness } from './unlikeliness.js'
import { vas } from './vas.js'
import { vespo } from './vespo.js'
import { wirelessMath } from './wireless_math.js'
import { xrpo } from './xrpo.js'
import { zoRank } from './zo_rank.js'

export type { Batch, Context } from './context.js'
export { type Corrected, type Correction, withCorrection } from './corrections.js'
export type { LossPolicy, StepLoss, StepOptions } from './loss.js'
export type { Policy, PolicyGradients } from './policy.js'
export { layoutOf, type PrefixTree, prefixTree, segmentValues } from './prefix_tree.js'
export { presets } from './presets/index.js'
export type {
  Advantages,
  AnyRecipe,
  Description,
  OwnLoss,
  Points,
  Recipe,
  RecipeFunction,
  Selection,
  Source,
  Weights,
} from './recipe.js'
export { fromJSON, type SavedState, toJSON } from './state.js'
export { type BatchOf, optimizationStep, type Prepared, prepareStep, type SavedStateOf } from './step.js'

/** Every method by its name: a function of its options, whose defaults are the published ones where there are any. */
export const recipes = {
  adaGrpo,
  apo,
  bnpo,
  branchGrpo,
  cispo,
  clipCov,
  d3s,
  dapo,
  dcpo,
  disco,
  dppo,
  drGrpo,
  dro,
  drpo,
  dynamicRewardWeighting,
  evolRl,
  fastMath,
  fipo,
  g2rpo,
  gcpo,
  gdpo,
  gmpo,
  gpg,
  grpo,
  grpoGuard,
  grpoLambda,
  gspo,
  gspoToken,
  gtpo,
  gvmRaft,
  harpg,
  igpo,
  ipo,
  klCov,
  knapsack,
  latr,
  luspo,
  maxRl,
  mdpo,
  nemoGrpo,
  ngrpo,
  npgIgt,
  openRs,
  opo,
  optimalTokenBaseline,
  otc,
  passAtK,
  posteriorGrpo,
  ppo,
  prefGrpo,
  rdpo,
  real,
  regGrpo,
  reinforcePlusPlus,
  remax,
  riskPo,
  rloo,
  sGrpo,
  sapo,
  scafGrpo,
  simpo,
  spo,
  spoChain,
  spoTree,
  srpo,
  stratifiedGrpo,
  tPpo,
  tempFlow,
  tempo,
  tgdpo,
  thr,
  thyme,
  tpGrpo,
  tpo,
  trainLong,
  trainingFreeGrpo,
  treePo,
  unlikeliness,
  vas,
  vespo,
  wirelessMath,
  xrpo,
  zoRank,
} as const
