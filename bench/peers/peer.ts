// What a peer is: something that a user would run instead of this package.
import type { Arrays, Numbers } from '../cases.js'
import type { Fingerprint } from '../fingerprint.js'

export interface Prepared {
  /** Does the work once. A promise of a number is the peer's own measure, in seconds, without the way there and back. */
  run(): void | Promise<void> | Promise<number>
  results(): Promise<Record<string, Fingerprint>>
  dispose(): void
}

export interface Peer {
  name: string
  /** Version, and what else decides its speed. */
  version: string
  /** GFLOP/s of a matrix product of 512 x 512 x 512, to tell beforehand what would take minutes. */
  gflops: number
  /** Its ways of doing this work; empty if it has none. */
  ways(operation: string): string[]
  /** Why it does not do a work, where that is not obvious. */
  reasons: Record<string, string>
  bf16: boolean
  prepare(operation: string, way: string, inputs: Arrays, numbers: Numbers): Promise<Prepared>
  close(): void
}
