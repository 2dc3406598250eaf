// What the plain JavaScript implementations have in common.
import type { Arrays, Numbers, Outputs } from '../cases.js'

/** Takes inputs and options, and returns the function that is timed. */
export type Implementation = (x: Arrays, n: Numbers) => () => Outputs

export const f32 = (x: Arrays, name: string) => x[name]!.data as Float32Array
export const i32 = (x: Arrays, name: string) => x[name]!.data as Int32Array
export const shape = (x: Arrays, name: string) => x[name]!.shape as [number, number]
