import { expect, test } from 'vitest'
import { readme, withOutput, withTable } from './readme.js'

test('the table of operations is that of lib/ops.ts (npm run readme writes it)', () => {
  expect(withTable(readme())).toBe(readme())
})

test('its programs print what it says', () => {
  expect(withOutput(readme())).toBe(readme())
})

test('speaks of the commands that package.json has', async () => {
  const { scripts } = (await import('../package.json')).default as { scripts: Record<string, string> }
  for (const [, name] of readme().matchAll(/npm run ([\w:]+)/g)) expect(scripts, name).toHaveProperty(name as string)
})
