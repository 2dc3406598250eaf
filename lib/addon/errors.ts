// Every error of the package: TypeError for the wrong kind of value, RangeError for the right kind with the wrong size or
// content, CudaError for the device, Error where the package cannot be loaded. All carry `code`, `operation` and `argument`.

/** What is wrong, and the status that the C interface gives it. */
const kinds = {
  kind: { code: 'ERR_GRPO_TYPE', error: TypeError, status: undefined },
  missing: { code: 'ERR_GRPO_MISSING', error: TypeError, status: -1 },
  dtype: { code: 'ERR_GRPO_DTYPE', error: TypeError, status: -2 },
  shape: { code: 'ERR_GRPO_SHAPE', error: RangeError, status: -3 },
  value: { code: 'ERR_GRPO_VALUE', error: RangeError, status: -4 },
  option: { code: 'ERR_GRPO_OPTION', error: RangeError, status: -5 },
  unknown: { code: 'ERR_GRPO_OPTION', error: TypeError, status: undefined },
  memory: { code: 'ERR_GRPO_MEMORY', error: RangeError, status: -6 },
  cancelled: { code: 'ERR_GRPO_CANCELLED', error: RangeError, status: -7 },
  device: { code: 'ERR_GRPO_DEVICE', error: TypeError, status: -8 },
  load: { code: 'ERR_GRPO_LOAD', error: Error, status: undefined },
} as const
export type ErrorKind = keyof typeof kinds

/** The fields that every error of the package has beside `message`. */
export interface GrpoError extends Error {
  /** Stable: ERR_GRPO_SHAPE, ERR_GRPO_DTYPE, ERR_GRPO_OPTION, ... */
  readonly code: string
  /** The public name of the function that was called. */
  readonly operation: string
  /**
   * The input, output, option or environment variable that is at fault; empty if it is none of them. Of ERR_GRPO_LOAD
   * the variable that names the binaries, GRPO_KERNELS_ADDON or GRPO_KERNELS_PREBUILD, if one is set.
   */
  readonly argument: string
}

/** An error of the CUDA driver or runtime; `cudaCode` is its name there. */
export class CudaError extends Error implements GrpoError {
  override readonly name = 'CudaError'
  readonly code = 'ERR_GRPO_CUDA'
  constructor(
    message: string,
    readonly cudaCode: string,
    readonly operation: string,
    readonly argument: string,
  ) {
    super(message)
  }
}

export function grpoError(
  kind: ErrorKind,
  operation: string,
  argument: string,
  problem: string,
  cause?: unknown,
): GrpoError {
  const { code, error } = kinds[kind]
  const text = `${operation}: ${argument}${argument ? ' ' : ''}${problem}`
  return Object.assign(new error(text, { cause }), { code, operation, argument })
}

export const camelCase = (name: string): string =>
  name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())

const cudaStatus = -9

/**
 * The error that the C interface reported: its names are in snake_case, those within the text in braces.
 *
 * @param at  the argument, where the C interface does not know it
 */
export function nativeError(
  operation: string,
  { status, argument, problem, cudaCode }: { status: number; argument: string; problem: string; cudaCode: string },
  at = camelCase(argument),
): GrpoError {
  const text = problem.replace(/\{(\w+)\}/g, (_, name: string) => camelCase(name))
  if (status === cudaStatus)
    return new CudaError(`${operation}: ${at}${at ? ': ' : ''}${text}`, cudaCode, operation, at)
  const kind = (Object.keys(kinds) as ErrorKind[]).find((name) => kinds[name].status === status) ?? 'kind'
  return grpoError(kind, operation, at, text)
}
