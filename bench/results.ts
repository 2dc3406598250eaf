// What a run finds out, as it is written to bench/results/*.json.
import type { Machine, Rate } from './machine.js'

export interface Row {
  /** 'grpo-kernels, in place', 'PyTorch, eager'. */
  name: string
  ours: boolean
  /** The GPU that it ran on; not there: the CPU. */
  gpu?: string
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
  /** Thousands of millions, of logits. */
  gigaexponentials?: number
  /** Of what this machine copies, multiplies and exponentiates. */
  shareOfCopy?: number
  shareOfMultiply?: number
  shareOfExponential?: number
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
  /** Of the GPU, where there is one. */
  gpuCopy?: Rate
  /** Per dtype. */
  exponential: Record<string, Rate>
  peers: { name: string; version: string; gflops?: number; absent?: string }[]
  cases: CaseResult[]
  goals: Goal[]
  /** Of the whole run. */
  seconds: number
}
