// What Matches refuses: `npm run check` compiles this file, and reports a line that is marked as an error and is none.
import { expect, test } from 'vitest'
import type { ArrayInput } from '../../lib/arrays/input.js'
import type { CallOptions, Matches } from '../../lib/call/types.js'

interface Inputs {
  x: ArrayInput<'f32'>
  sequenceStart: ArrayInput<'i32'>
  mask?: ArrayInput<'u8'> | undefined
}
interface Own {
  decay?: number
}
type Holds<I, O> = Matches<'discountedSum', I, O>

const right: Holds<Inputs, Own & CallOptions<'x'>> = true
// A function whose results lie in no memory of a caller has no `out`: lib/moments.ts.
const withoutOut: Holds<Inputs, Own & Pick<CallOptions, 'signal'>> = true
// @ts-expect-error: an output of another name
const otherOutput: Holds<Inputs, Own & CallOptions<'y'>> = true
// @ts-expect-error: one output too many
const moreOutputs: Holds<Inputs, Own & CallOptions<'x' | 'y'>> = true
// @ts-expect-error: an output too few
const noOutput: Holds<Inputs, Own & CallOptions<never>> = true
// @ts-expect-error: any name
const anyOutput: Holds<Inputs, Own & CallOptions> = true
// @ts-expect-error: an option of another name
const otherOption: Holds<Inputs, { decya?: number } & CallOptions<'x'>> = true
// @ts-expect-error: an option of another type
const otherType: Holds<Inputs, { decay?: string } & CallOptions<'x'>> = true
// @ts-expect-error: an input that is not optional in the row
const optionalInput: Holds<Partial<Inputs>, Own & CallOptions<'x'>> = true
// @ts-expect-error: an input of another dtype
const otherDtype: Holds<Inputs & { mask: ArrayInput<'i32'> }, Own & CallOptions<'x'>> = true

test('a row accepts the types of its function, and no others', () => {
  const outputs = [otherOutput, moreOutputs, noOutput, anyOutput]
  const others = [otherOption, otherType, optionalInput, otherDtype]
  for (const compiled of [right, withoutOut, ...outputs, ...others]) expect(compiled).toBe(true)
})
