import { expect, test } from 'vitest'
import { readme, withOutput, withTables } from './readme.js'

test('its tables are those of lib/ops.ts, lib/recipes/ and bench/results/ (npm run readme writes them)', () => {
  expect(withTables(readme())).toBe(readme())
})

test('its programs print what it says', () => {
  expect(withOutput(readme())).toBe(readme())
})

test('speaks of the commands that package.json has', async () => {
  const { scripts } = (await import('../package.json')).default as { scripts: Record<string, string> }
  for (const [, name] of readme().matchAll(/npm run ([\w:]+)/g)) expect(scripts, name).toHaveProperty(name as string)
})
