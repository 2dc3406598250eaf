// The TypeScript types that a row of the table stands for, read from its specs by the compiler.

import type { DType } from '../addon/dtypes.js'
import type { HostArray } from '../arrays/array.js'
import type { DeviceArray } from '../arrays/device_memory.js'
import type { ArrayInput } from '../arrays/input.js'
import type { OperationName, ops } from '../ops.js'

/** Options of every call, besides those of its row. */
export interface CallOptions<Outputs extends string = string> {
  /** Writes an output into memory that the caller owns, or, with null, leaves it uncomputed. */
  out?: { [Name in Outputs]?: ArrayInput | null }
  /**
   * A cudaStream_t of the arrays' device. Default: the package's own stream, which is ordered with the legacy default
   * stream. Ignored for host arrays.
   */
  stream?: bigint
  /** Stops a call of grpo-kernels/promises before it starts or between pieces of its work. */
  signal?: AbortSignal
}

/** The dtypes of a spec; `=q` and `~q` have those of the row's input q. */
type DTypesOf<Spec, Inputs> = Spec extends `${infer Types}[${string}`
  ? Types extends 'any'
    ? DType
    : Types extends `${'=' | '~'}${infer Model}`
      ? Model extends keyof Inputs
        ? DTypesOf<Inputs[Model], Inputs>
        : never
      : Split<Types> extends infer Names extends DType
        ? Names
        : never
  : never
type Split<Text> = Text extends `${infer Head}|${infer Tail}` ? Head | Split<Tail> : Text

type IsOptional<Spec> = Spec extends `${string}] ?${string}` | `${string} if ${string}` | `${string} asked`
  ? true
  : false
type Simple<T> = { [Key in keyof T]: T[Key] }
type Arrays<Row, Inputs, Kind extends 'input' | 'output'> = Simple<
  {
    [Name in keyof Row as IsOptional<Row[Name]> extends true ? never : Name]: One<Row[Name], Inputs, Kind>
  } & {
    [Name in keyof Row as IsOptional<Row[Name]> extends true ? Name : never]?: One<Row[Name], Inputs, Kind> | undefined
  }
>
type One<Spec, Inputs, Kind> = Kind extends 'input'
  ? ArrayInput<DTypesOf<Spec, Inputs>>
  : HostArray<DTypesOf<Spec, Inputs>>

type OptionOf<Spec> = Spec extends `enum? ${infer Choices}`
  ? Split<Choices> | null
  : Spec extends `enum ${infer Choices}`
    ? Split<Choices>
    : Spec extends `boolean${string}`
      ? boolean
      : Spec extends `${'number' | 'integer'}? ${string}`
        ? number | null
        : number
type HasDefault<Spec> = Spec extends `${string}=${string}`
  ? Spec extends `integer >= ${string}`
    ? false
    : true
  : Spec extends `enum${string}`
    ? true
    : false
export type OptionsFrom<Row> = Simple<
  { -readonly [Name in keyof Row as HasDefault<Row[Name]> extends true ? Name : never]?: OptionOf<Row[Name]> } & {
    -readonly [Name in keyof Row as HasDefault<Row[Name]> extends true ? never : Name]: OptionOf<Row[Name]>
  }
>

type Table = typeof ops
type Writable<T> = { -readonly [Key in keyof T]: T[Key] }
type Inputs<Name extends OperationName> = Writable<Table[Name]['inputs']>
export type InputsOf<Name extends OperationName> = Arrays<Inputs<Name>, Inputs<Name>, 'input'>
export type OutputsOf<Name extends OperationName> = Arrays<Writable<Table[Name]['outputs']>, Inputs<Name>, 'output'>
export type OptionsOf<Name extends OperationName> = OptionsFrom<Table[Name]['options']>

/** True if two types are the same to the letter. */
export type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false

/** The outputs that `out` may have; those of the row where there is no `out`: the results lie in no memory of a caller. */
type OutputNames<Options, All> = 'out' extends keyof Options ? keyof NonNullable<Options['out']> : All

/** The types that a public function writes out, held against its row: `true`, or a sentence that does not type-check. */
export type Matches<Name extends OperationName, Inputs, Options> =
  Same<Simple<Inputs>, InputsOf<Name>> extends true
    ? Same<Simple<Omit<Options, keyof CallOptions | 'stride'>>, OptionsOf<Name>> extends true
      ? Same<OutputNames<Options, keyof OutputsOf<Name>>, keyof OutputsOf<Name>> extends true
        ? true
        : `the names in out of ${Name} differ from the outputs of its row in lib/ops.ts`
      : `the options of ${Name} differ from its row in lib/ops.ts`
    : `the inputs of ${Name} differ from its row in lib/ops.ts`

// ---- the same types on a device -------------------------------------------------------------------------------------

/** What a result is when the inputs are device arrays: numbers stay, host arrays are device arrays. */
export type OnDevice<Result> =
  Result extends HostArray<infer D>
    ? DeviceArray<D>
    : Result extends (...parameters: never) => unknown
      ? Result
      : Result extends object
        ? { [Name in keyof Result]: OnDevice<Result[Name]> }
        : Result

type TakesArray<T> = DeviceArray extends T ? true : false
type TakesOnlyIntegers<T> =
  TakesArray<T> extends true ? (Float32Array extends T ? false : Int32Array extends T ? true : false) : false
type Any<T> = true extends T ? true : false
type HasArrays<T> = Any<{ [Name in keyof T]-?: TakesArray<T[Name]> }[keyof T]>
/** Without one of these, i32 inputs on the host would be a call on the host. */
type HasOthers<T> = Any<
  {
    [Name in keyof T]-?: TakesArray<T[Name]> extends true
      ? TakesOnlyIntegers<T[Name]> extends true
        ? false
        : true
      : false
  }[keyof T]
>
type Nothing<T> = Extract<T, null | undefined>
type Part<T, IntegersMayStay> =
  TakesArray<T> extends true
    ? TakesOnlyIntegers<T> extends IntegersMayStay
      ? T
      : DeviceArray | Nothing<T>
    : T extends object
      ? HasArrays<T> extends true
        ? { [Name in keyof T]: Part<T[Name], IntegersMayStay> }
        : T
      : T

/** An array on the host; what `any` stands for is taken to be one. */
type HostPart<T> =
  TakesArray<T> extends true
    ? Exclude<T, DeviceArray>
    : T extends readonly (infer Item)[]
      ? HasArrays<Item> extends true
        ? readonly HostPart<Item>[]
        : T
      : T extends object
        ? HasArrays<T> extends true
          ? { [Name in keyof T]: HostPart<T[Name]> }
          : T
        : T

/** The parameters of an operation whose arrays lie on the host. */
export type ParametersOnHost<Parameters extends unknown[]> = {
  [Index in keyof Parameters]: HostPart<Parameters[Index]>
}

/** `never` where an operation takes no arrays: then this overload does not exist. */
type InputsOnDevice<T> =
  TakesArray<T> extends true
    ? DeviceArray
    : T extends readonly (infer Item)[]
      ? HasArrays<Item> extends true
        ? readonly InputsOnDevice<Item>[]
        : never
      : HasArrays<T> extends true
        ? { [Name in keyof T]: Part<T[Name], HasOthers<T> extends true ? true : 'no'> }
        : never

/** The parameters of an operation whose arrays lie on a device; i32 inputs may stay on the host where others do not. */
export type ParametersOnDevice<Parameters extends unknown[]> = {
  [Index in keyof Parameters]: Index extends '0' ? InputsOnDevice<Parameters[Index]> : Part<Parameters[Index], 'no'>
}
