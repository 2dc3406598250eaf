import { grpoError } from './addon/errors.js'
import { native } from './addon/native.js'
import { describe } from './arrays/array.js'

/**
 * How the CPU kernels run, for the whole process. Results do not depend on `threads`; on `instructionSet` they do in the
 * last digits, since the number of lanes decides the order of a sum.
 *
 * @example
 * import { cpu } from 'grpo-kernels'
 *
 * const before = cpu.threads
 * cpu.threads = 2 // for every later call
 * console.log(cpu.threads, cpu.instructionSet)
 * cpu.threads = before
 */
export const cpu = {
  /**
   * Threads that a call uses, its own included; starts at the processors that the process may run on, or at the CPU quota
   * of its container if that is less. Those beyond a lower count end, and so do all after ten idle seconds.
   */
  get threads(): number {
    return native.threads()
  },
  set threads(count: number) {
    if (typeof count !== 'number') {
      throw grpoError('kind', 'cpu', 'threads', `is ${describe(count)}, expected a number`)
    }
    if (!Number.isInteger(count) || count < 1 || count > 1024) {
      throw grpoError('option', 'cpu', 'threads', `is ${describe(count)}, expected a whole number from 1 to 1024`)
    }
    native.setThreads(count)
  },
  /**
   * 'baseline', 'avx2' or 'avx512' ('neon' on arm64), 'avx512_bf16' or 'amx' with products of bf16: the best that the
   * processor has, or GRPO_KERNELS_ISA.
   */
  get instructionSet(): string {
    return native.instructionSet()
  },
  set instructionSet(name: string) {
    if (typeof name !== 'string') {
      throw grpoError('kind', 'cpu', 'instructionSet', `is ${describe(name)}, expected the name of one`)
    }
    if (!native.setInstructionSet(name)) {
      throw grpoError('option', 'cpu', 'instructionSet', `is ${describe(name)}, which this processor or build lacks`)
    }
  },
}
