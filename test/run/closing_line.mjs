// A reporter whose last line is "N passed, M failed, K skipped", for whoever reads only the end. Before it: how many numbers
// of the literature the recipes' tests have compared (test/recipes/golden.ts). A sweep adds up what GRPO_TEST_COUNTS gets.
import { writeFileSync } from 'node:fs'
import process from 'node:process'

const copies = process.env.GRPO_SIMT_COPIES ?? 'late'
const landing = copies === 'random' ? 'at random' : copies
const names = {
  'cpu operations': 'of the operations, on the CPU',
  cpu: 'on the CPU',
  'cpu recipes': 'of the recipes, on the CPU',
  simt: `as CUDA kernels on the interpreter, sm_${process.env.GRPO_SIMT_ARCH ?? 90}, copies landing ${landing}`,
  'simt device': 'of device arrays alone, on the interpreter',
  'simt sm_80': 'as CUDA kernels on the interpreter, sm_80, copies landing at random',
  'simt early': 'as CUDA kernels on the interpreter, sm_90, copies landing early',
  cuda: 'as CUDA kernels on a GPU',
}

export default class ClosingLine {
  onTestRunEnd(modules, errors) {
    const count = { passed: 0, failed: errors.length, skipped: 0 }
    const backends = new Map()
    let golden = 0
    for (const module of modules) {
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        count[state === 'pending' ? 'skipped' : state]++
        const backend = test.project.name
        if (state === 'passed') {
          golden += test.meta().golden ?? 0
          backends.set(backend, (backends.get(backend) ?? 0) + 1)
        }
      }
      if (module.state() === 'failed' && module.children.size === 0) count.failed++
    }
    if (modules.length === 0) count.failed = Math.max(1, count.failed) // what had to be built does not compile
    if (golden > 0) console.log(`${golden} golden numbers of the recipes compared`)
    for (const [backend, cases] of backends) console.log(`${cases} cases passed ${names[backend] ?? backend}`)
    if (process.env.GRPO_TEST_COUNTS) writeFileSync(process.env.GRPO_TEST_COUNTS, JSON.stringify(count))
    console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`)
  }
}
