// fast-check with the same properties on every run: a failure is a change of the code, not of the weather. The interpreter
// takes a thousand times as long for a kernel as the CPU for its twin.
import fc from 'fast-check'
import { backend } from './backend_kind.js'
import { sweep } from './sweep.js'

fc.configureGlobal({ seed: 20_261_124, numRuns: sweep || backend === 'cpu' ? 200 : 40 })

export default fc
