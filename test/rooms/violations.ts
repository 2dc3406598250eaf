// What breaks the order of the rooms (layers.ts), a sentence each.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { ICruiseResult, IForbiddenRuleType } from 'dependency-cruiser'
import { ops } from '../../lib/ops.js'
import { cuda, type Level, native, type Room, typescript } from './layers.js'

const files = (root: string, folder: string, suffix: RegExp) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((name) => `${folder}/${name.replaceAll('\\', '/')}`)
    .filter((path) => suffix.test(path))
    .sort()

const roomOf = (levels: readonly Level[], path: string): Room | undefined =>
  levels.flat().find((room) => new RegExp(room.files).test(path))

/** The rooms that a room may import from: itself, and all levels below its own. */
function below(levels: readonly Level[], room: Room): readonly Room[] {
  const own = levels.findIndex((level) => level.includes(room))
  return [room, ...levels.slice(own + 1).flat()]
}

const imports = (from: string, to: string, { name, holds }: Room) =>
  `${from} imports ${to}, which stands above it or beside it. ${name}: ${holds}`

const roomless = (levels: readonly Level[], paths: readonly string[]) =>
  paths
    .filter((path) => roomOf(levels, path) === undefined)
    .map((path) => {
      const names = levels.flat().map((room) => room.name)
      return `${path} stands in no room: the rooms of this layer are ${names.join(', ')}`
    })

// ---- TypeScript -----------------------------------------------------------------------------------------------------

/** dependency-cruiser reads the imports, types included. */
async function ofTypeScript(root: string): Promise<string[]> {
  const forbidden: IForbiddenRuleType[] = typescript.flat().map((room) => ({
    name: room.name,
    severity: 'error',
    from: { path: room.files },
    to: {
      path: '^lib/',
      pathNot: below(typescript, room)
        .map((each) => each.files)
        .join('|'),
    },
  }))
  forbidden.push({ name: 'circle', severity: 'error', from: {}, to: { circular: true } })
  const { cruise } = await import('dependency-cruiser')
  const { output } = await cruise(['lib'], {
    baseDir: root,
    ruleSet: { forbidden },
    validate: true,
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
  })
  const { violations } = (output as ICruiseResult).summary
  const found = violations.map(({ from, to, rule, cycle }) => {
    if (rule.name === 'circle') return `${from} imports itself through ${cycle?.map((step) => step.name).join(', ')}`
    return imports(from, to, roomOf(typescript, from) as Room)
  })
  return [...found, ...roomless(typescript, files(root, 'lib', /\.m?ts$/))]
}

// ---- C++ and CUDA ---------------------------------------------------------------------------------------------------

const source = /\.(cc|h|cu|cuh)$/

/** Includes of the package, as paths from the root; `undefined` for one that is not written from a root. */
function includesOf(root: string, path: string): [written: string, path: string | undefined][] {
  const layer = path.slice(0, path.indexOf('/'))
  const text = readFileSync(join(root, path), 'utf8')
  return [...text.matchAll(/^#include "([^"]+)"/gm)].map((match) => {
    const written = match[1] as string
    const candidates = [`${layer}/${written}`, written]
    return [written, candidates.find((candidate) => existsSync(join(root, candidate)))]
  })
}

function circles(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>()
  const found: string[] = []
  const walk = (path: string, above: readonly string[]) => {
    if (above.includes(path))
      found.push(`${path} includes itself through ${above.slice(above.indexOf(path) + 1).join(', ')}`)
    if (above.includes(path) || done.has(path)) return
    for (const next of graph.get(path) ?? []) walk(next, [...above, path])
    done.add(path)
  }
  for (const path of graph.keys()) walk(path, [])
  return found
}

function ofSources(root: string, folder: 'native' | 'cuda', levels: readonly Level[]): string[] {
  const paths = files(root, folder, source)
  const graph = new Map<string, string[]>()
  const found: string[] = []
  for (const path of paths) {
    const room = roomOf(levels, path)
    const edges: string[] = []
    for (const [written, to] of includesOf(root, path)) {
      if (to === undefined) {
        found.push(`${path} includes "${written}": write it from ${folder}/, or from the root for another layer's file`)
        continue
      }
      if (to.startsWith(`${folder}/`)) edges.push(to)
      const allowed = to.startsWith(`${folder}/`)
        ? room === undefined || below(levels, room).includes(roomOf(levels, to) as Room)
        : mayCross(path, to)
      if (!allowed) found.push(imports(path, to, room as Room))
    }
    graph.set(path, edges)
  }
  return [...found, ...circles(graph), ...roomless(levels, paths), ...strangers(folder, paths)]
}

/** CUDA kernels take formulas and descriptors from native/, and ptx.cuh its simulated bodies from the interpreter. */
const mayCross = (from: string, to: string) =>
  dirname(from).startsWith('cuda') &&
  ((to.startsWith('native/') && !to.startsWith('native/node/')) ||
    (from === 'cuda/launch/ptx.cuh' && to.startsWith('test/simt/')))

const operations = Object.keys(ops).map((name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`))

/** Files on the top of native/ or cuda/ that are no operation. */
const strangers = (folder: string, paths: readonly string[]) =>
  paths
    .filter((path) => dirname(path) === folder && path !== 'native/ops.h')
    .filter((path) => !operations.includes(path.slice(folder.length + 1).replace(source, '')))
    .map((path) => `${path} is named as no row of lib/ops.ts: only operations stand on the top of ${folder}/`)

/** All of them, in a checkout at `root`; none in a tidy one. */
export async function violations(root: string): Promise<string[]> {
  return [...(await ofTypeScript(root)), ...ofSources(root, 'native', native), ...ofSources(root, 'cuda', cuda)]
}
