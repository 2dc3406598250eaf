// What the sources say of themselves: the docstrings of lib/, and the comment at the top of a file.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'
import { root } from './programs.js'

export interface Docstring {
  /** The lines before the first tag; paragraphs stand between empty ones. */
  readonly prose: readonly string[]
  /** `inputs.logits`, or several names of one object under `inputs` alone. */
  readonly params: readonly { readonly name: string; readonly text: string }[]
  readonly returns: string
  readonly throws: string
  readonly see: string
  /** The program that shows it. */
  readonly example: string
}

/** The lines of a block comment, without what is there for the comment's sake. */
const linesOf = (comment: string) =>
  comment
    .replace(/^\/\*\*[ \t]*\n?/, '')
    .replace(/\s*\*\/$/, '')
    .split('\n')
    .map((line) => line.replace(/^\s*\* ?/, '').trimEnd())

function parse(comment: string): Docstring {
  // A tag may follow a sentence on its line, as in one-line comments.
  const lines = linesOf(comment).flatMap((line) => line.split(/ (?=@(?:throws|returns|see)\b)/))
  const starts = lines.flatMap((line, i) => (/^@\w/.test(line) ? [i] : []))
  const tags = starts.map((start, k) => {
    const [, tag = '', first = ''] = /^@(\w+) ?(.*)$/.exec(lines[start] as string) ?? []
    return { tag, lines: [first, ...lines.slice(start + 1, starts[k + 1])] }
  })
  const join = (list: readonly string[]) =>
    list
      .map((line) => line.trim())
      .join(' ')
      .trim()
  const of = (tag: string) => tags.filter((one) => one.tag === tag)
  return {
    prose: lines.slice(0, starts[0]),
    params: of('param').map(({ lines }) => {
      const [, name = '', text = ''] = /^(\S+)\s*(.*)$/.exec(join(lines)) ?? []
      return { name, text }
    }),
    returns: of('returns').map(({ lines }) => join(lines)).join(' '), // biome-ignore format: as the next two
    throws: of('throws').map(({ lines }) => join(lines)).join('; '), // biome-ignore format: one line
    see: of('see').map(({ lines }) => join(lines)).join('; '), // biome-ignore format: one line
    example: of('example').map(({ lines }) => lines.join('\n').trim()).join('\n'), // biome-ignore format: one line
  }
}

/** The object literal of `= {...}`, `= Object.assign(f, {...})` or `= f(..., {...})`; undefined for others. */
function literalOf(x: ts.Expression | undefined): ts.ObjectLiteralExpression | undefined {
  if (x === undefined) return undefined
  if (ts.isAsExpression(x) || ts.isSatisfiesExpression(x)) return literalOf(x.expression)
  if (ts.isObjectLiteralExpression(x)) return x
  return ts.isCallExpression(x) ? literalOf(x.arguments.at(-1)) : undefined
}

const sources = new Map<string, ts.SourceFile>()

/** A file of the repository, parsed. */
export function sourceOf(path: string): ts.SourceFile {
  const known = sources.get(path)
  if (known !== undefined) return known
  const text = readFileSync(join(root, path), 'utf8')
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true)
  sources.set(path, source)
  return source
}

/** The docstring right before a node; undefined without one. */
export function docstringOf(node: ts.Node): Docstring | undefined {
  const comment = ts.getJSDocCommentsAndTags(node).filter(ts.isJSDoc).at(-1)
  return comment && parse(comment.getText())
}

/** The docstrings of what a file exports, by name, and those of its members by `name.member`, in the order of the file. */
export function docstrings(path: string): Map<string, Docstring> {
  const found = new Map<string, Docstring>()
  const add = (name: string, node: ts.Node) => {
    const docstring = docstringOf(node)
    if (docstring !== undefined && !found.has(name)) found.set(name, docstring)
  }
  const members = (name: string, list: readonly ts.Node[]) => {
    for (const member of list) {
      const key = (member as ts.PropertySignature).name
      if (key !== undefined) add(`${name}.${key.getText()}`, member)
    }
  }
  for (const statement of sourceOf(path).statements) {
    const exported = ts.canHaveModifiers(statement) && ts.getModifiers(statement)?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword) // biome-ignore format: one question
    if (!exported) continue
    if (ts.isVariableStatement(statement)) {
      for (const { name, initializer } of statement.declarationList.declarations) {
        add(name.getText(), statement)
        members(name.getText(), literalOf(initializer)?.properties ?? [])
      }
    } else if (ts.isInterfaceDeclaration(statement)) {
      add(statement.name.text, statement)
      members(statement.name.text, statement.members)
    } else if (ts.isFunctionDeclaration(statement) && statement.name !== undefined) add(statement.name.text, statement)
  }
  return found
}

/** What lib/index.ts exports that is no type: the names, by the file that has them. */
export function publicNames(): Map<string, string[]> {
  const found = new Map<string, string[]>()
  for (const statement of sourceOf('lib/index.ts').statements) {
    if (!ts.isExportDeclaration(statement) || statement.isTypeOnly) continue
    const from = (statement.moduleSpecifier as ts.StringLiteral).text
    const file = join('lib', from.replace(/\.js$/, '.ts'))
    const { exportClause } = statement
    const names =
      exportClause !== undefined && ts.isNamedExports(exportClause)
        ? exportClause.elements.filter((one) => !one.isTypeOnly).map((one) => one.name.text)
        : valuesOf(file)
    if (names.length > 0) found.set(file, names)
  }
  return found
}

/** The exported constants and functions of a file that have a docstring: those without serve the compiler. */
function valuesOf(file: string): string[] {
  const values = sourceOf(file).statements.flatMap((statement) => {
    if (ts.isVariableStatement(statement))
      return statement.declarationList.declarations.map(({ name }) => name.getText())
    return ts.isFunctionDeclaration(statement) && statement.name !== undefined ? [statement.name.text] : []
  })
  const documented = docstrings(file)
  return values.filter((name) => documented.has(name))
}

/** The comment that a C++ or CUDA file begins with, as lines; empty without one. */
export function headerOf(path: string): string[] {
  const lines = readFileSync(join(root, path), 'utf8').split('\n')
  const end = lines.findIndex((line) => !line.startsWith('//'))
  return lines.slice(0, end).map((line) => line.replace(/^\/\/ ?/, ''))
}
