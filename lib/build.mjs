// Builds dist/: node lib/build.mjs. The compiler's output, without files whose source is gone, and with declarations that
// TypeScript reads from 5.2 on: the compiler writes Float32Array<ArrayBuffer>, which 5.7 is the first to know, wherever it
// infers a typed array.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const compiler = createRequire(import.meta.url).resolve('typescript/bin/tsc')
const { status } = spawnSync(process.execPath, [compiler, '-p', root], { stdio: 'inherit' })

const dist = join(root, 'dist')
for (const name of readdirSync(dist, { recursive: true })) {
  const [, stem, , letter] = /^(.*?)(\.d)?\.(m?)[jt]s$/.exec(name) ?? []
  if (stem === undefined) continue
  const path = join(dist, name)
  if (!existsSync(join(root, 'lib', `${stem}.${letter}ts`))) rmSync(path)
  else if (/\.d\.m?ts$/.test(name)) {
    const text = readFileSync(path, 'utf8')
    const plain = text.replace(/\b([A-Z]\w*Array)<ArrayBuffer(?:Like)?>/g, '$1')
    if (plain !== text) writeFileSync(path, plain)
  }
}
process.exit(status ?? 1)
