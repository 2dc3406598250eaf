// Sets of ids for the rows of option_cases.ts: of one id and of several, none, and one that nobody may look at.
import type { Batch } from './option_cases.js'
import { R, V } from './option_cases.js'
import { random } from './random.js'
import { setsOf } from './sets_of.js'

/**
 * Row 0 has a set with the ids of most of its tokens, row 1 that of its first token alone, row 2 one id that is none of
 * its tokens', rows 3 and 4 none; the others have up to `most` ids, among them those of all their tokens but some. The
 * last row, which nobody names, has ids that are none.
 */
export function setsFor(b: Batch, { most = 20, whole = [3, 4] }: { most?: number; whole?: number[] } = {}, seed = 11) {
  const r = random(seed)
  const columns = b.options.validVocab ?? V
  const { token, row } = b.inputs
  const lists = Array.from({ length: R }, (_, i) => {
    if (whole.includes(i)) return []
    if (i === R - 1) return [-7, V + 5, 3, 3]
    const own = Array.from(token).filter((_, t) => row[t] === i)
    if (i === 1) return [own[0] ?? 5]
    if (i === 2) return [(Math.max(0, ...own) + 1) % columns]
    const drawn = Array.from({ length: 1 + r.integer(most) }, () => r.integer(columns))
    const kept = own.filter(() => r.uniform() < 0.8)
    return [...new Set([...drawn, ...kept])].sort((x, y) => x - y)
  })
  return { ...setsOf(lists), lists }
}
