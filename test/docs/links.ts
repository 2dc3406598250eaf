// The links of the pages, and what they may lead to: files that the packed tarball has, and headings.
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { promisify } from 'node:util'
import { read, root } from './pages.js'

/** Without the blocks of code, in which brackets are no links. */
const prose = (text: string) => text.replace(/^```[\s\S]*?^```$/gm, '').replace(/`[^`\n]*`/g, '``')

/** Where the links and images of a page lead, but for those into the web. */
export function targets(page: string): string[] {
  const text = prose(read(page))
  const found = [...text.matchAll(/\]\(([^)\s]+)\)/g), ...text.matchAll(/(?:src|srcset|href)="([^"]+)"/g)]
  return found.map(([, target]) => target as string).filter((target) => !/^[a-z]+:/.test(target))
}

/** The anchors of a page: its headings, as GitHub writes them. */
export function anchors(page: string): Set<string> {
  const headings = [
    ...read(page)
      .replace(/^```[\s\S]*?^```$/gm, '')
      .matchAll(/^#+ (.*)$/gm),
  ]
  const seen = new Map<string, number>()
  return new Set(
    headings.map(([, heading = '']) => {
      const plain = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase()
      const slug = plain.replace(/[^\p{L}\p{N}\- _]/gu, '').replace(/ /g, '-')
      const times = seen.get(slug) ?? 0
      seen.set(slug, times + 1)
      return times === 0 ? slug : `${slug}-${times}`
    }),
  )
}

/** The files of the tarball, by their paths from the root. */
export async function packed(): Promise<Set<string>> {
  const command = ['pack', '--dry-run', '--json', '--ignore-scripts']
  const { stdout } = await promisify(execFile)('npm', command, { cwd: root, maxBuffer: 2 ** 26 })
  const [{ files }] = JSON.parse(stdout) as [{ files: { path: string }[] }]
  return new Set(files.map(({ path }) => path))
}

/** Why a link leads nowhere; undefined if it leads somewhere. */
export function broken(page: string, target: string, inTarball: ReadonlySet<string>): string | undefined {
  const [path = '', anchor] = target.split('#')
  const file = path === '' ? page : normalize(join(dirname(page), path))
  if (!existsSync(join(root, file))) return `${page}: ${target}: there is no ${file}`
  const has = path.endsWith('/') ? [...inTarball].some((name) => name.startsWith(file)) : inTarball.has(file)
  if (!has) return `${page}: ${target}: the packed tarball has no ${file}`
  if (anchor !== undefined && !anchors(file).has(anchor)) return `${page}: ${target}: ${file} has no heading #${anchor}`
  return undefined
}
