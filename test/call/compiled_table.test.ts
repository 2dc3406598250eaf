// The table against what a binary was compiled with: a row that differs is named, with the file that has it.
import { expect, test } from 'vitest'
import { compare, native } from '../../lib/addon/native.js'
import { operationNames } from '../../lib/addon/signatures.js'

const { operations } = native
const other = (change: (field: (typeof operations)[number]['fields'][number]) => typeof field) =>
  operations.map(({ name, fields }) => ({ name, fields: name === 'policy_loss_from_logits' ? fields.map(change) : fields })) // biome-ignore format: a row
const problem = (table: typeof operations) => {
  try {
    compare(table, 'native', 'cc')
  } catch (error) {
    expect(error).toMatchObject({ code: 'ERR_GRPO_LOAD', operation: 'grpo-kernels' })
    return (error as Error).message.replace('grpo-kernels: ', '')
  }
  return 'nothing'
}

test('each row has its number in the table of the binary, in whatever order that is', () => {
  expect([...compare(operations, 'native', 'cc').keys()].sort()).toEqual([...operationNames].sort())
  const reversed = [...operations].reverse()
  const numbers = compare(reversed, 'native', 'cc')
  expect(numbers.get('policyLossFromLogits')).toBe(reversed.findIndex(({ name }) => name === 'policy_loss_from_logits'))
})

test('a row that is missing', () => {
  const fewer = operations.filter(({ name }) => name !== 'policy_loss_from_logits')
  const file = 'native/policy_loss_from_logits.cc'
  expect(problem(fewer)).toBe(`lib/ops.ts has a row policyLossFromLogits, which the binary lacks: is ${file} built?`)
})

test('a field with another spec, another name, one more and one less', () => {
  const row = 'row policyLossFromLogits of lib/ops.ts has'
  const compiled = 'native/policy_loss_from_logits.cc was compiled with'
  const wider = other((field) => (field.name === 'row_temperature' ? { ...field, spec: 'f32[T] ?' } : field))
  expect(problem(wider)).toBe(`${row} "rowTemperature: f32[R] ?" where ${compiled} "rowTemperature: f32[T] ?"`)
  const renamed = other((field) => (field.name === 'row_temperature' ? { ...field, name: 'heat_of_row' } : field))
  expect(problem(renamed)).toBe(`${row} "rowTemperature: f32[R] ?" where ${compiled} "heatOfRow: f32[R] ?"`)
  const last = operations.find(({ name }) => name === 'policy_loss_from_logits')!.fields.at(-1)!
  const change = (fields: (typeof operations)[number]['fields']) =>
    operations.map((one) => (one.name === 'policy_loss_from_logits' ? { ...one, fields } : one))
  const all = operations.find(({ name }) => name === 'policy_loss_from_logits')!.fields
  expect(problem(change([...all, { ...last, name: 'one_more' }]))).toMatch(/ has "nothing" where .* with "oneMore: /)
  expect(problem(change(all.slice(0, -1)))).toMatch(/ has "klTermClamp: .*" where .* with "nothing"$/)
  expect(problem([...operations])).toBe('nothing')
})
