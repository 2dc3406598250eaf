// What the loss operation of a prepared batch is called with, for callers that run it elsewhere: in Python, in C, in another
// process, on a GPU.

import { grpoError } from '../../addon/errors.js'
import { isDeviceArray } from '../../arrays/device_memory.js'
import type { ArrayInput } from '../../arrays/input.js'
import type { LinearPolicyLossInputs } from '../../linear_policy_loss.js'
import type { Objective } from '../../objective.js'
import type { PolicyLossInputs } from '../../policy_loss.js'
import type { PolicyLossFromLogitsInputs } from '../../policy_loss_from_logits.js'
import { type Context, extended } from './context.js'
import { type LogitsOptions, logitsOptions } from './policy.js'
import type { AnyRecipe } from './recipe.js'
import { isSeparate } from './separate_loss.js'
import { now } from './steps.js'
import {
  besidePolicy,
  checkLoss,
  decide,
  defined,
  fetchForUpdate,
  hasExactKl,
  type LossPolicy,
  openPolicy,
  operationInputs,
  type PreparedBatch,
  type StepOptions,
} from './update.js'

/** The inputs of the operation that a policy of this type asks for. */
type InputsOf<P> = P extends { readonly logits: object }
  ? PolicyLossFromLogitsInputs
  : P extends { readonly hidden: object }
    ? LinearPolicyLossInputs
    : PolicyLossInputs
type ObjectiveOf<P> = P extends { readonly logits: object }
  ? Objective & LogitsOptions
  : P extends { readonly hidden: object }
    ? Objective & LogitsOptions & { readonly chunkRows?: number | null }
    : Objective

/** What a loss operation is called with, for a policy that is given. What would be undefined is left out. */
export interface LossCall<P = LossPolicy> {
  /** Of policyLoss for `logp` and `mean`, of policyLossFromLogits for `logits`, of linearPolicyLoss for `hidden`. */
  readonly inputs: InputsOf<P>
  /** Its options. */
  readonly objective: ObjectiveOf<P>
}

/** The same for a policy that is elsewhere. */
export interface BareLossCall {
  /** Of policyLoss but `logp`, with the `entropy` that the batch has: `policyLoss({ ...inputs, logp }, objective)`. */
  readonly inputs: Omit<PolicyLossInputs, 'logp'>
  readonly objective: Objective
  /** [T] of the batch, for logits and hidden states: `const { entropy, ...rest } = inputs` are then `{ logits, token, ...rest }`. */
  readonly token: Int32Array | undefined
}

/** The context of a policy that nobody has given. */
function withoutPolicy(c: Context): Context {
  const lacking = (name: string) => {
    const problem = `is missing: the method looks at the ${name} of the current policy to find its weights or its loss, expected inputs(policy) with one of logp, logits, hidden, mean`
    return grpoError('missing', c.method, 'policy', problem)
  }
  return extended(c, {
    get logp(): Float32Array {
      throw lacking('logp')
    },
    get entropy(): Float32Array {
      if (!c.has('entropy')) throw lacking('entropy')
      return c.entropy
    },
  } as Partial<Context>)
}

/** What the loss operation is called with; `policy` undefined: what does not depend on it. */
export function lossCall(
  recipe: AnyRecipe,
  { c: prepared, uploadsOn }: PreparedBatch,
  policy: LossPolicy | undefined,
  options: StepOptions,
): { readonly inputs: object; readonly objective: object; readonly token?: ArrayInput | undefined } {
  checkLoss(recipe)
  const { stream, chunkRows = null } = options
  const ofDevice = (device: number) => uploadsOn(device, stream)
  const update = policy === undefined ? undefined : openPolicy(recipe, prepared, policy, options, ofDevice)
  const c = update?.c ?? withoutPolicy(prepared)
  const refuse = (why: string) =>
    grpoError(
      'kind',
      c.method,
      'inputs',
      `do not exist: ${why}, which no single operation computes; prepared.loss(policy) does`,
    )
  if (update !== undefined) now(fetchForUpdate(update, recipe))
  const decided = decide(recipe, c, policy ?? {}, options, update?.uploads)
  if ('own' in decided) throw refuse('the method has a loss of its own')
  const { objective, weights } = decided
  if (update?.kind !== 'mean' && isSeparate(objective, weights)) {
    const bonus = weights.entropyWeight !== undefined && (objective.entropyCoef ?? 0) !== 0
    throw refuse(
      bonus
        ? 'the entropy bonus has a weight for each token'
        : 'the KL is weighted by another ratio than that of the surrogate',
    )
  }
  if (policy === undefined || update === undefined) {
    const entropy = c.has('entropy') ? c.entropy : undefined
    const inputs = defined({ entropy, ...besidePolicy(c, decided, undefined) })
    return { inputs, objective: defined(objective), token: c.has('token') ? c.token : undefined }
  }
  const { kind, current } = update
  if (kind === 'mean' && hasExactKl(policy, decided)) throw refuse('the KL of two Gaussians is a term of its own')
  const logp = kind === 'logp' || kind === 'mean' ? now(current.forward()).logp : undefined
  const inputs = operationInputs(update, decided, logp && (isDeviceArray(logp) ? logp : (logp.data as never)))
  const ofLogits = logitsOptions(options)
  const more = kind === 'logits' ? ofLogits : kind === 'hidden' ? { ...ofLogits, chunkRows } : {}
  return { inputs: defined(inputs), objective: { ...more, ...defined(objective) } }
}
