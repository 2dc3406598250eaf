// What the simulated runtime says of host code: streams that nothing orders and memory that is used before or after its
// time are reported whichever stream is waited for first, launches that a GPU refuses have the CUDA runtime's error, and
// nothing is said of the correct twins.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'

const { stdout, status } = spawnSync(join(__dirname, '../../build-simt/simt_runtime_faults'), { encoding: 'utf8' })
const results = new Map(
  (stdout ?? '')
    .trim()
    .split('\n')
    .map((line) => line.split(': ') as [string, string]),
)

const expected: Record<string, string> = {
  write_then_read: 'race between streams',
  read_then_write: 'race between streams',
  write_then_write: 'race between streams',
  event_too_early: 'race between streams',
  through_a_third: 'race between streams',
  host_waits: 'race between streams',
  default_stream: 'race between streams',
  upload_then_read: 'race between streams',
  write_then_download: 'race between streams',
  fill_then_upload: 'race between streams',
  released_in_another_stream: 'race between streams',
  'released_in_another_stream, backwards': 'use after free',
  released_then_used: 'use after free',
  used_before_its_allocation: 'race between streams',
  released_twice: 'cudaErrorInvalidValue',
  copy_past_the_end: 'cudaErrorInvalidValue',
  fault_is_returned_once: 'global out of bounds',
  too_many_threads: 'cudaErrorInvalidConfiguration',
  no_threads: 'cudaErrorInvalidConfiguration',
  no_blocks: 'cudaErrorInvalidConfiguration',
  too_many_blocks: 'cudaErrorInvalidConfiguration',
  too_many_rows: 'cudaErrorInvalidConfiguration',
  block_too_deep: 'cudaErrorInvalidConfiguration',
  cluster_too_large: 'cudaErrorInvalidClusterSize',
  cluster_does_not_divide: 'cudaErrorInvalidClusterSize',
  shared_not_asked_for: 'cudaErrorInvalidValue',
  shared_struct_too_large: 'shared out of bounds',
  more_shared_than_there_is: 'cudaErrorInvalidValue',
  stream_of_another_device: 'cudaErrorInvalidResourceHandle',
}
const right = (name: string) => `${name.replace(', backwards', '')} (right)`

test('the program runs, and has no other cases', () => {
  expect(status).toBe(0)
  const all = Object.keys(expected).flatMap((name) => [name, right(name)])
  expect([...results.keys()].sort()).toEqual([...new Set(all)].sort())
})

describe.each(Object.entries(expected))('%s', (name, kind) => {
  test(`is ${kind}`, () => {
    expect(results.get(name)).toBe(kind)
  })
  test('is not seen in its correct twin', () => {
    expect(results.get(right(name))).toBe('nothing')
  })
})
