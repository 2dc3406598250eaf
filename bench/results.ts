// What a run finds out, as it is written to bench/results/*.json.
import type { Machine, Rate } from './machine.js'

export interface Row {
  /** 'grpo-kernels, in place', 'PyTorch, eager'. */
  name: string
  ours: boolean
  /** Seconds of one call. */
  median: number
  p10: number
  p90: number
  samples: number
  /** How many times as long as the first row of the case. */
  times: number
  /** Inputs and outputs, each crossing memory once; this package's rows only. */
  gigabytes?: number
  /** Of matrix products. */
  gigaflop?: number
  /** Of what this machine copies and multiplies; the second where it multiplies, else the first. */
  shareOfCopy?: number
  shareOfMultiply?: number
  /** How the results differ from ours, if they do. */
  difference?: string
}

export interface CaseResult {
  operation: string
  size: string
  dtype: string
  rows: Row[]
  skipped: { name: string; reason: string }[]
  notes: string[]
}

export interface Goal {
  operation: string
  size: string
  against: string
  wanted: number
  reached: number
}

export interface Results {
  machine: Machine
  copy: Rate
  /** Per dtype: the fastest matrix product that this run has seen. */
  multiply: Record<string, Rate>
  peers: { name: string; version: string; gflops?: number; absent?: string }[]
  cases: CaseResult[]
  goals: Goal[]
  /** Of the whole run. */
  seconds: number
}
