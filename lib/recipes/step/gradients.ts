// The way back from the log-probabilities of a policy: gradients with respect to what it was given as.
import type { HostArray } from '../../arrays/array.js'
import type { DeviceArray } from '../../arrays/device_memory.js'
import type { ArrayInput } from '../../arrays/input.js'
import type { Call } from '../../call/calls.js'
import type { OnDevice } from '../../call/types.js'

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

/** The policy of this type, if it lies on a device. */
export type IsOnDevice<P> = P extends
  | { readonly logp: DeviceArray }
  | { readonly logits: DeviceArray }
  | { readonly hidden: DeviceArray }
  | { readonly mean: DeviceArray }
  ? true
  : false

/** Those that a policy of this type has, where it lies. */
export type GradientsOf<P> = [P] extends [never]
  ? PolicyGradients
  : IsOnDevice<P> extends true
    ? OnDevice<Gradients<P>>
    : Gradients<P>
type Gradients<P> = P extends { readonly logp: object }
  ? With<'gradLogp'>
  : P extends { readonly logits: object }
    ? With<'gradLogits'>
    : P extends { readonly hidden: object }
      ? With<'gradHidden' | 'gradHead'>
      : P extends { readonly mean: object }
        ? With<'gradMean'>
        : PolicyGradients

/** An array of f32 [T] where the policy lies. */
export type OfTokens = HostArray<'f32'> | DeviceArray

/** What a pass over a policy has given, where the policy lies. */
export interface Forward {
  readonly logp: OfTokens
  readonly entropy: OfTokens
  /** The call that makes the policy's gradients from those of logp and entropy, which lie on either side. */
  backward(gradLogp: ArrayInput, gradEntropy: ArrayInput | undefined, out?: object): Call<PolicyGradients>
  /** Frees what the pass has made, but for arrays that are to stay. */
  dispose(kept: readonly unknown[]): void
}
