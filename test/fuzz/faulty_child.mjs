// A child of the fuzzer that has the fault of its name: `crash` with three groups, `hang` too, `wrong` with a first group of
// four rollouts. For fuzz.test.ts.
import process from 'node:process'

const fault = process.argv[2]
process.on('message', ({ groups }) => {
  if (fault === 'crash' && groups.length >= 3) {
    console.error('something about memory')
    process.abort()
  }
  if (fault === 'hang' && groups.length >= 3) return
  process.send(fault === 'wrong' && groups[0]?.length >= 4 ? { what: 'wrong', text: 'four' } : { what: 'computed' })
})
process.send('ready')
