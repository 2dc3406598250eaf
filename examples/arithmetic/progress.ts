const width = 24

export interface ProgressBar {
  /** Call it after each step. */
  show(done: number, text: string): void
  /** Ends the line where it stands. */
  end(): void
}

/** A bar on one line of the terminal; where there is none, a plain line per tenth and a last one. Both to stderr. */
export function progressBar(name: string, total: number): ProgressBar {
  const begin = performance.now()
  const live = process.stderr.isTTY
  let line = ''
  let printed = ''
  const print = () => {
    if (line !== printed) console.error(line)
    printed = line
  }
  return {
    show(done, text) {
      const filled = Math.floor((width * done) / total)
      const seconds = Math.round((performance.now() - begin) / 1000)
      const count = `${String(done).padStart(String(total).length)}/${total}`
      line = `${name} ${'█'.repeat(filled)}${'░'.repeat(width - filled)} ${count}  ${text}  ${seconds} s`
      if (live) process.stderr.write(`\r\x1b[K${line}`)
      else if (Math.floor((10 * done) / total) > Math.floor((10 * (done - 1)) / total)) print()
    },
    end() {
      if (live) process.stderr.write('\n')
      else print()
    },
  }
}
