// The process that makes the calls, one at a time, and another one after a crash or a hang, which are put down to the
// call that it was making.
import { type ChildProcess, fork } from 'node:child_process'
import process from 'node:process'
import type { Case } from './cases.js'
import type { Verdict } from './check.js'

export type Outcome = Verdict | { what: 'crash' | 'hang'; text: string }

export class Caller {
  private child: Promise<ChildProcess> | undefined
  private said = ''

  /** `environment`: of that process, beside that of this one. */
  constructor(
    private readonly program: string,
    private readonly words: readonly string[] = [],
    private readonly environment: Readonly<Record<string, string>> = {},
  ) {}

  private start(): Promise<ChildProcess> {
    this.said = ''
    const child = fork(this.program, this.words, {
      execArgv: this.program.endsWith('.ts') ? ['--import', 'tsx'] : [],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      // Memory that a kernel takes and does not write is no zeros.
      env: { MALLOC_PERTURB_: '1', ...process.env, ...this.environment },
    })
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (data: Buffer) => {
        this.said = (this.said + data).slice(-6000)
      })
    }
    return new Promise((resolve, reject) => {
      child.once('message', () => resolve(child))
      child.once('exit', () => reject(new Error(`the process that makes the calls does not start: ${this.said}`)))
    })
  }

  /** @param patience  seconds */
  async run(c: Case, patience: number): Promise<Outcome> {
    this.child ??= this.start()
    const child = await this.child
    return new Promise((resolve) => {
      const done = (outcome: Outcome, gone: boolean) => {
        clearTimeout(timer)
        child.removeAllListeners('message')
        child.removeAllListeners('close')
        if (gone) this.child = undefined
        resolve(outcome)
      }
      const timer = setTimeout(() => {
        child.kill('SIGKILL')
        done({ what: 'hang', text: `no answer within ${patience} s` }, true)
      }, patience * 1000)
      child.once('message', (verdict: Verdict) => done(verdict, false))
      // After the last line that it wrote.
      child.once('close', (code, signal) => {
        done({ what: 'crash', text: `ended with ${signal ?? `status ${code}`}. ${this.said}`.trim() }, true)
      })
      child.send(c, () => undefined) // a child that is gone says so by its end
    })
  }

  async end(): Promise<void> {
    const child = await this.child
    this.child = undefined
    child?.kill()
  }
}
