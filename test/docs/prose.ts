// Comments of the sources as Markdown: paragraphs, equations (indented lines) and lists.

const width = 118
/** At the beginning of a line these would be a list, a heading or a quotation. */
const marks = /^([-+*>#=|]+|\d+[.)])$/

/** One paragraph in lines of at most `width`. */
export function wrap(text: string, indent = ''): string {
  const lines: string[] = []
  for (const word of text.split(/ +/)) {
    const last = lines.at(-1)
    if (last !== undefined && (`${indent}${last} ${word}`.length <= width || marks.test(word))) {
      lines[lines.length - 1] = `${last} ${word}`
    } else lines.push(word)
  }
  return lines.join(`\n${indent}`)
}

/** Changes what stands outside of `backticks`. */
const outsideCode = (text: string, change: (plain: string) => string) =>
  text
    .split(/(`[^`]*`)/)
    .map((part, i) => (i % 2 === 0 ? change(part) : part))
    .join('')

/** What Markdown would read as its own; objects of options and the values of options become code. */
const escaped = (text: string) => {
  const objects = outsideCode(text, (plain) => plain.replace(/\{ [^{}]* \}/g, '`$&`'))
  const values = outsideCode(objects, (plain) => plain.replace(/(?<![\w'’])'[a-z][a-z_0-9]*'(?!\w)/g, '`$&`'))
  return outsideCode(values, (plain) => plain.replace(/\*|<(?=[a-z/!?])/gi, '\\$&'))
}

/** A text of one paragraph, on one line: for cells of tables too. `link` may make links of names. */
export type Link = (text: string) => string
export const inline = (text: string, link: Link = (same) => same): string => link(escaped(text.replace(/\s+/g, ' ')))

const fenced = (lines: readonly string[]) => {
  const least = Math.min(...lines.filter((line) => line !== '').map((line) => line.search(/\S/)))
  return ['```text', ...lines.map((line) => line.slice(least)), '```'].join('\n')
}

/** Text as it is, in a block of its own: equations. */
export const block = (text: string): string => fenced(text.trimEnd().split('\n'))

function list(lines: readonly string[], link: Link): string {
  const items: string[] = []
  for (const line of lines) {
    if (line.startsWith('- ')) items.push(line.slice(2))
    else items[items.length - 1] += ` ${line.trim()}`
  }
  return items.map((item) => `- ${wrap(inline(item, link), '  ')}`).join('\n')
}

/** The lines of a comment by paragraphs; a list or an equation may follow its sentence without an empty line. */
function parts(lines: readonly string[]): string[][] {
  const kind = (line: string) => (line.startsWith('- ') ? 'item' : line.startsWith('  ') ? 'equation' : 'text')
  const result: string[][] = [[]]
  for (const line of lines) {
    const last = result.at(-1) as string[]
    const [before, now] = [kind(last[0] ?? line), kind(line)]
    const goesOn = before === now || (before === 'item' && now === 'equation')
    if (line === '') result.push([])
    else if (goesOn) last.push(line)
    else result.push([line])
  }
  return result.filter((part) => part.length > 0)
}

/** Paragraphs of a comment, each as Markdown. */
export function paragraphs(lines: readonly string[], link: Link = (text) => text): string[] {
  const isEquation = (part: readonly string[] | undefined) => part?.[0]?.startsWith('  ') ?? false
  // Equations with nothing but an empty line between them are one block.
  const joined: string[][] = []
  for (const part of parts(lines)) {
    const last = joined.at(-1)
    if (isEquation(last) && isEquation(part)) last?.push('', ...part)
    else joined.push(part)
  }
  return joined.map((part) => {
    if (isEquation(part)) return fenced(part)
    return part[0]?.startsWith('- ') ? list(part, link) : wrap(inline(part.join(' '), link))
  })
}

/** A table with one row at least; '' without rows. Columns that are empty everywhere are left out. */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  right: readonly number[] = [],
): string {
  const kept = head.map((_, k) => k).filter((k) => rows.some((row) => row[k] !== ''))
  if (rows.length === 0) return ''
  const line = (cells: readonly string[]) => `| ${kept.map((k) => (cells[k] as string).replace(/(?<!\\)\|/g, '\\|')).join(' | ')} |`.replace(/ {2,}/g, ' ') // biome-ignore format: one text
  return [line(head), `|${kept.map((k) => (right.includes(k) ? '---:' : '---')).join('|')}|`, ...rows.map(line)].join(
    '\n',
  )
}
