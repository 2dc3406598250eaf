// What precedes the tests of a run: what is out of date is built, and the package is loaded once, so that a binary that
// does not fit the table is one message and not a failure of every file.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import process from 'node:process'
import { blocked, root } from './blocked.mjs'
import { bringUpToDate } from './up_to_date.js'

const say = (line: string) => process.stderr.write(`${line}\n`)

/** Why the package, or its library of CUDA kernels, cannot be used: a sentence; undefined if it can. */
function load(kernels: boolean): string | undefined {
  const library = { GRPO_KERNELS_CUDA: kernels ? join(root, 'build-simt/libgrpo_kernels_cuda.so') : '' }
  const program = `
    const { cuda } = require('./dist/index.js')
    if (process.env.GRPO_KERNELS_CUDA && !cuda.available) throw new Error(cuda.reason)`
  const { status, stderr } = spawnSync(process.execPath, ['-e', program], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...library },
  })
  return status === 0 ? undefined : (/^\w*Error: (.*)$/m.exec(stderr)?.[1] ?? stderr)
}

/** Why no test can run: a sentence, after what a compiler said; undefined if nothing is in the way. */
export function prepare(): string | undefined {
  if (blocked.has('everything')) return undefined
  const addon = process.env.GRPO_KERNELS_ADDON
  if (addon) say(`the addon is ${addon}, as GRPO_KERNELS_ADDON has it: that of this folder is not built`)
  const kernels = !blocked.has('the kernels on a device') && !process.env.GRPO_KERNELS_SANITIZED
  const parts = [...(addon ? [] : ['addon']), 'dist/', ...(kernels ? ['interpreter'] : [])]
  const problem = bringUpToDate(root, parts, say)
  // A sanitizer's runtime has to be loaded before node itself: those runs load the package in their own way.
  return problem ?? (process.env.GRPO_KERNELS_SANITIZED ? undefined : load(kernels))
}
