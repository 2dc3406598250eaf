// The way back from the log-probabilities of a policy: gradients with respect to what it was given as.
import type { HostArray } from '../../arrays/array.js'

/** Gradients with respect to whatever the policy was given as. */
export interface PolicyGradients {
  readonly gradLogp?: HostArray<'f32'> // [T]
  readonly gradEntropy?: HostArray<'f32'> // [T]
  readonly gradLogits?: HostArray<'f32' | 'bf16' | 'f16'> // [R,V]
  readonly gradHidden?: HostArray<'f32' | 'bf16' | 'f16'> // [R,D]
  readonly gradHead?: HostArray<'f32' | 'bf16' | 'f16'> // [V,D]
  readonly gradHeadBias?: HostArray<'f32' | 'bf16' | 'f16'> // [V]
  readonly gradMean?: HostArray<'f32'> // [T,D]
}
type With<Names extends keyof PolicyGradients> = PolicyGradients & { readonly [Name in Names]-?: NonNullable<PolicyGradients[Name]> } // biome-ignore format: one type

/** Those that a policy of this type has. */
export type GradientsOf<P> = [P] extends [never] ? PolicyGradients : Gradients<P>
type Gradients<P> = P extends { readonly logp: object }
  ? With<'gradLogp'>
  : P extends { readonly logits: object }
    ? With<'gradLogits'>
    : P extends { readonly hidden: object }
      ? With<'gradHidden' | 'gradHead'>
      : P extends { readonly mean: object }
        ? With<'gradMean'>
        : PolicyGradients

export interface Forward {
  readonly logp: Float32Array // [T]
  readonly entropy: Float32Array // [T]
  backward(gradLogp: Float32Array, gradEntropy: Float32Array | undefined, out?: object): PolicyGradients
}
