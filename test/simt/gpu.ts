// The first part of npm run test:cuda: what each instruction of cuda/launch/ptx.cuh leaves in a GPU's registers.
import process from 'node:process'
import { checkGpu, programs, registers } from './registers.js'

process.exit(checkGpu(registers(programs.gpu), registers(programs.interpreter)) === 0 ? 0 : 1)
