export * from './array.js'
export * from './device_array.js'
export { CudaError, type GrpoError } from './errors.js'
export { groupAdvantage, type GroupAdvantageInputs, type GroupAdvantageOptions } from './group_advantage.js'
