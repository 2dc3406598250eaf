// The interpreter names every fault that is planted in faults/*.cu, at a line whose comment lists that kind of report, in
// every seed and every mode of asynchronous copies, and nothing in the correct twins.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'

const linesOf = (file: string) => readFileSync(join(__dirname, 'faults', file), 'utf8').split('\n')
const program = join(__dirname, '../../build-simt/simt_faults')
const { stdout, status, error } = spawnSync(program, { encoding: 'utf8' })

const results = new Map<string, string[]>()
for (const line of (stdout ?? '').split('\n').filter((text) => text !== '')) {
  const [, name = '', result = ''] = /^(.*?): (.*)$/.exec(line) ?? []
  results.set(name, [...(results.get(name) ?? []), result])
}
const faults = [...results.keys()].filter((name) => !name.endsWith(' (right)'))

test('the program runs, with a correct twin for every fault', () => {
  expect(error).toBeUndefined()
  expect(status).toBe(0)
  expect(faults.length).toBeGreaterThanOrEqual(71)
  expect([...results.keys()].sort()).toEqual(faults.flatMap((name) => [name, `${name} (right)`]).sort())
})

describe.each(faults)('%s', (name) => {
  test('is reported by kind and line', () => {
    for (const result of results.get(name) as string[]) {
      const [, kind = '', file = '', line] = /^(.*) @ (\w+\.cu):(\d+)$/.exec(result) ?? []
      expect(line, `${result}: a report with a line`).toBeDefined()
      const comment = linesOf(file)[Number(line) - 1]?.split('// ')[1] ?? ''
      expect(comment.split(', '), `${file}:${line}`).toContain(kind)
    }
  })

  test('is not seen in its correct twin', () => {
    expect(results.get(`${name} (right)`)).toEqual(['nothing'])
  })
})
