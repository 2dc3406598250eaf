// The policy-optimization layer: every method as a recipe.
import { adaGrpo } from './methods/ada_grpo.js'
import { apo } from './methods/apo.js'
import { bnpo } from './methods/bnpo.js'
import { branchGrpo } from './methods/branch_grpo.js'
import { cispo } from './methods/cispo.js'
import { clipCov, klCov } from './methods/cov.js'
import { d3s } from './methods/d3s.js'
import { dapo } from './methods/dapo.js'
import { dcpo } from './methods/dcpo.js'
import { disco } from './methods/disco.js'
import { dppo } from './methods/dppo.js'
import { drGrpo } from './methods/dr_grpo.js'
import { dro } from './methods/dro.js'
import { drpo } from './methods/drpo.js'
import { dynamicRewardWeighting } from './methods/dynamic_reward_weighting.js'
import { evolRl } from './methods/evol_rl.js'
import { fastMath } from './methods/fast_math.js'
import { fipo } from './methods/fipo.js'
import { g2rpo } from './methods/g2rpo.js'
import { gcpo } from './methods/gcpo.js'
import { gdpo } from './methods/gdpo.js'
import { gmpo } from './methods/gmpo.js'
import { gpg } from './methods/gpg.js'
import { grpo } from './methods/grpo.js'
import { grpoGuard } from './methods/grpo_guard.js'
import { grpoLambda } from './methods/grpo_lambda.js'
import { gspo, gspoToken, luspo } from './methods/gspo.js'
import { gtpo } from './methods/gtpo.js'
import { gvmRaft } from './methods/gvm_raft.js'
import { harpg } from './methods/harpg.js'
import { igpo } from './methods/igpo.js'
import { ipo } from './methods/ipo.js'
import { knapsack } from './methods/knapsack.js'
import { latr } from './methods/latr.js'
import { maxRl } from './methods/max_rl.js'
import { mdpo } from './methods/mdpo.js'
import { nemoGrpo } from './methods/nemo_grpo.js'
import { ngrpo } from './methods/ngrpo.js'
import { npgIgt } from './methods/npg_igt.js'
import { openRs } from './methods/open_rs.js'
import { opo } from './methods/opo.js'
import { optimalTokenBaseline } from './methods/optimal_token_baseline.js'
import { otc } from './methods/otc.js'
import { passAtK } from './methods/pass_at_k.js'
import { posteriorGrpo } from './methods/posterior_grpo.js'
import { ppo } from './methods/ppo.js'
import { prefGrpo } from './methods/pref_grpo.js'
import { rdpo } from './methods/rdpo.js'
import { real } from './methods/real.js'
import { regGrpo } from './methods/reg_grpo.js'
import { reinforcePlusPlus } from './methods/reinforce_plus_plus.js'
import { remax } from './methods/remax.js'
import { riskPo } from './methods/risk_po.js'
import { rloo } from './methods/rloo.js'
import { sGrpo } from './methods/s_grpo.js'
import { sapo } from './methods/sapo.js'
import { scafGrpo } from './methods/scaf_grpo.js'
import { simpo } from './methods/simpo.js'
import { spo } from './methods/spo.js'
import { spoChain } from './methods/spo_chain.js'
import { spoTree } from './methods/spo_tree.js'
import { srpo } from './methods/srpo.js'
import { stratifiedGrpo } from './methods/stratified_grpo.js'
import { tPpo } from './methods/t_ppo.js'
import { tempFlow } from './methods/temp_flow.js'
import { tempo } from './methods/tempo.js'
import { tgdpo } from './methods/tgdpo.js'
import { thr } from './methods/thr.js'
import { thyme } from './methods/thyme.js'
import { tpGrpo } from './methods/tp_grpo.js'
import { tpo } from './methods/tpo.js'
import { trainLong } from './methods/train_long.js'
import { trainingFreeGrpo } from './methods/training_free_grpo.js'
import { treePo } from './methods/tree_po.js'
import { unlikeliness } from './methods/unlikeliness.js'
import { vas } from './methods/vas.js'
import { vespo } from './methods/vespo.js'
import { wirelessMath } from './methods/wireless_math.js'
import { xrpo } from './methods/xrpo.js'
import { zoRank } from './methods/zo_rank.js'

export { type Corrected, type Correction, withCorrection } from './parts/corrections.js'
export { layoutOf, type PrefixTree, prefixTree, segmentValues } from './parts/prefix_tree.js'
export { presets } from './presets/index.js'
export type { Batch, Context } from './step/context.js'
export type { PolicyGradients } from './step/gradients.js'
export type { BareLossCall, LossCall } from './step/inputs.js'
export type { StepLoss } from './step/loss.js'
export type { BatchMetrics, StepMetrics } from './step/metrics.js'
export type { MicroBatch, MicroBatchGradients, MicroBatchOptions } from './step/micro_batches.js'
export type { Policy } from './step/policy.js'
export {
  type Advantages,
  type AnyRecipe,
  type Description,
  type OwnLoss,
  type Points,
  type Recipe,
  type RecipeFunction,
  recipe,
  type Selection,
  type Source,
  type Weights,
} from './step/recipe.js'
export { fromJSON, type SavedState, toJSON } from './step/state.js'
export { type BatchOf, optimizationStep, type Prepared, prepareStep, type SavedStateOf } from './step/step.js'
export type { LossPolicy, StepOptions } from './step/update.js'

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
