// The programs of the pages, and what they print: each block of ```js runs by itself, as a file of its own, and the block
// after it without a language is its output.
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

export const root = join(__dirname, '..', '..')

const separator = '-- end of a block --'

/** The kernels of CUDA as the interpreter runs them: blocks about device arrays need no GPU. */
const simulated = join(root, 'build-simt/libgrpo_kernels_cuda.so')

interface Program {
  /** As a stack trace shows it. */
  readonly name: string
  readonly code: string
}

/**
 * What each program prints, in order. They are files inside the package, so that `grpo-kernels` is this build of it, and
 * run after one another in one process: they share no name, but what they set for the whole process.
 */
async function outputs(programs: readonly Program[]): Promise<string[]> {
  mkdirSync(join(root, 'build'), { recursive: true })
  const folder = mkdtempSync(join(root, 'build', 'docs-'))
  try {
    for (const { name, code } of programs) writeFileSync(join(folder, `${name}.mjs`), code)
    const each = programs.map(
      ({ name }) => `await import('./${name}.mjs')\nconsole.log(${JSON.stringify(separator)})\n`,
    )
    writeFileSync(join(folder, 'all.mjs'), each.join(''))
    const env = {
      ...process.env,
      GRPO_KERNELS_ISA: 'baseline', // the last digits on every machine
      ...(existsSync(simulated) && { GRPO_KERNELS_CUDA: simulated }),
      NODE_OPTIONS: '', // those of the test runner are for it alone
    }
    const { stdout } = await promisify(execFile)(process.execPath, [join(folder, 'all.mjs')], {
      cwd: root,
      env,
      maxBuffer: 2 ** 26,
    })
    return stdout.split(`${separator}\n`)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** A program, and the output that follows it, if any does. */
const blocks = /```js\n([\s\S]*?)```\n(\n```\n[\s\S]*?```\n)?/g

/** Runs the programs of pages, and puts what each prints into the block after it; one that prints nothing has none. */
export async function withOutputs(pages: ReadonlyMap<string, string>): Promise<Map<string, string>> {
  const programs = [...pages].flatMap(([page, text]) =>
    [...text.matchAll(blocks)].map(({ 1: code = '', index }) => {
      const line = text.slice(0, index).split('\n').length + 1
      return { name: `${page.replace(/\.md$/, '').replaceAll('/', '_')}_line_${line}`, code }
    }),
  )
  const printed = programs.length > 0 ? await outputs(programs) : []
  const filled = [...pages].map(([page, text]): [string, string] => [
    page,
    text.replace(blocks, (_, code: string) => {
      const output = printed.shift() ?? ''
      return `\`\`\`js\n${code}\`\`\`\n${output && `\n\`\`\`\n${output}\`\`\`\n`}`
    }),
  ])
  return new Map(filled)
}
