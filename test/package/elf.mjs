// What an ELF file asks of the system that loads it, by objdump of binutils (which every g++ brings).
import { execFileSync } from 'node:child_process'
import { closeSync, openSync, readSync } from 'node:fs'

/** The newest of each that a binary of the package may ask for: those of Debian 10 and RHEL 8, the oldest for Node 20. */
const newest = { GLIBC: '2.28', GLIBCXX: '3.4.25', CXXABI: '1.3.11', GCC: '7.0.0' }

export function isElf(path) {
  const head = Buffer.alloc(4)
  const file = openSync(path, 'r')
  readSync(file, head)
  closeSync(file)
  return head.toString('latin1') === '\x7fELF'
}

const parts = (version) => version.split('.').map(Number)
const newer = (x, y) => {
  const [a, b] = [parts(x), parts(y)]
  const at = a.findIndex((part, i) => part !== (b[i] ?? 0))
  return at >= 0 && a[at] > (b[at] ?? 0)
}

/** The newest version of each library that the file names: { GLIBC: '2.18', ... } */
export function versions(path) {
  const text = execFileSync('objdump', ['-p', path], { encoding: 'utf8' })
  const needed = text.slice(text.indexOf('Version References'))
  const found = {}
  for (const [, name, version] of needed.matchAll(/\b(GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)/g)) {
    if (found[name] === undefined || newer(version, found[name])) found[name] = version
  }
  return found
}

/** Why the file would not load everywhere; empty if it does. */
export function shortcomings(path) {
  const found = versions(path)
  const tooNew = Object.keys(found).filter((name) => newer(found[name], newest[name]))
  const wanting = tooNew.map((name) => `needs ${name}_${found[name]}, at most ${newest[name]} is there everywhere`)
  // Without a version: no library that it was linked with has the symbol, so that only luck finds it.
  const symbols = execFileSync('objdump', ['-T', path], { encoding: 'utf8', maxBuffer: 2 ** 28 })
  const unknown = [...symbols.matchAll(/^[\da-f]+ [^w\n]*\*UND\*\t[\da-f]+\s+(?:Base\s+)?([A-Za-z_]\S*)$/gm)]
  const strays = unknown.map(([, name]) => name).filter((name) => !/^(napi|node_api)_/.test(name))
  return strays.length > 0 ? [...wanting, `has no library for ${strays.join(', ')}`] : wanting
}
