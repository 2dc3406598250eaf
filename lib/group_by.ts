import { grpoError } from './addon/errors.js'
import { type HostArray, listed } from './arrays/array.js'
import type { ArrayInput } from './arrays/input.js'
import { type Call, call, chain, checkLength, checkNames, map, operation, toHost } from './call/run.js'
import type { CallOptions, Matches } from './call/types.js'

type Options = CallOptions<'order' | 'groupStart'>

// The number of groups sizes the other outputs, and is not given out itself.
export const matches: Matches<'groupBy', { ids: ArrayInput<'i32'> }, Options & CallOptions<'count'>> = true

/** Strings as their places among the different ones in the order of `<`; anything else as it is. */
function numbered(ids: ArrayInput<'i32'> | readonly string[]): ArrayInput<'i32'> {
  if (!Array.isArray(ids) || typeof ids[0] !== 'string') return ids as ArrayInput<'i32'>
  const places = new Map<string, number>()
  const list = ids as readonly string[]
  for (let i = 0; i < list.length; i++) {
    const id = list[i]
    if (typeof id !== 'string') {
      throw grpoError('kind', 'groupBy', 'ids', `${listed(id, i)}, expected a string, as the ids before it are`)
    }
    places.set(id, 0)
  }
  for (const [place, id] of [...places.keys()].sort().entries()) places.set(id, place)
  return Int32Array.from(list, (id) => places.get(id) as number)
}

/**
 * Puts rollouts that come in any order into groups, for operations that want the members of a group side by side.
 *
 *   order: the rollouts sorted by id, those of one id in the order that they came
 *   groupStart: where in that order each group begins, ascending by id; ends with N
 *
 * With gatherRows(x, order) the values of a group stand side by side; scatterRows with the same index brings results back.
 * On a device it waits, since the length of groupStart has to be known.
 *
 * Accuracy: whole numbers, exact.
 *
 * @param ids  i32[N]  group of each rollout; any whole numbers, negative ones too, or a list of strings (a uuid, the
 *             prompt itself), which are sorted as `<` compares them
 * @returns order i32[N]; groupStart i32[G+1], G different ids
 * @throws RangeError if an `out` has another length
 * @example
 * import { gatherRows, groupBy, scatterRows } from 'grpo-kernels'
 *
 * const ids = new Int32Array([7, 3, 7, 3, 9])
 * const { order, groupStart } = groupBy(ids)
 * console.log(order.data, groupStart.data)
 *
 * const rewards = new Float32Array([1, 0, 0, 1, 1])
 * const { x: grouped } = gatherRows({ x: rewards, index: order })
 * console.log(grouped.data)
 * console.log(scatterRows({ x: grouped, index: order }, { rows: 5 }).x.data) // back in the order they came
 */
export const groupBy = operation(
  (
    ids: ArrayInput<'i32'> | readonly string[],
    options: Options = {},
  ): Call<{ order: HostArray<'i32'>; groupStart: HostArray<'i32'> }> => {
    const inputs = { ids: numbered(ids) }
    checkNames('groupBy', options?.out ?? {}, ['order', 'groupStart'], 'output')
    const counted = toHost(call('groupBy', inputs, { ...options, out: { order: null, groupStart: null } }))
    return chain(counted, ({ count }) => {
      const G = count.data[0] as number
      const out = { count: null, ...options?.out }
      checkLength('groupBy', 'groupStart', out.groupStart, G + 1, 'one more than the different ids')
      const grouped = call('groupBy', inputs, { ...options, out }, { G })
      return map(grouped, ({ order, groupStart }) => ({ order, groupStart }))
    })
  },
)
