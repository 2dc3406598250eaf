// npm run accuracy: how far results lie from float64, as a table; --write keeps it for the pages of the operations.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readCommand } from '../../bench/command.mjs'
import { describeMachine } from '../../bench/machine.js'
import { cuda } from '../../lib/index.js'
import { type Accuracy, accuracyTable } from '../accuracy/accuracy.js'
import { rows } from '../accuracy/rows.js'
import { onDevice } from '../support/backend.js'
import { root } from './blocked.mjs'

const { values } = readCommand({
  run: 'npm run accuracy',
  about:
    'Errors against the equation in float64: of this package, on the CPU and, where there is a GPU or GRPO_KERNELS_CUDA\n' +
    'names the library of the interpreter, of its CUDA kernels; of the plain float32 formula; and of the arithmetic of\n' +
    'trainers that keep logits or log-probabilities in the dtype of the model.',
  options: { write: { type: 'flag', help: 'keeps the numbers in bench/results/, for the pages of the operations' } },
})
const { date, cpu, instructionSet } = describeMachine()
const onCpu = rows((operation) => operation)
const onCuda = cuda.available ? rows((operation) => onDevice(operation as never)) : undefined
const accuracy: Accuracy = {
  date: date.slice(0, 10),
  machine: `${cpu}, ${instructionSet}`,
  cuda: onCuda && (process.env.GRPO_KERNELS_CUDA?.includes('build-simt') ? 'on the interpreter' : 'on a GPU'),
  rows: onCpu.map((row, i) => ({ ...row, ...(onCuda && { cuda: onCuda[i]?.ours }) })),
}
console.log(accuracyTable(accuracy, accuracy.rows))
if (values.write) writeFileSync(join(root, 'bench/results/accuracy.json'), `${JSON.stringify(accuracy, null, 1)}\n`)
