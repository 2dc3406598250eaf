// A reporter whose last line is "N passed, M failed, K skipped", for whoever reads only the end. Before it: how many numbers
// of the literature the recipes' tests have compared (test/recipes/golden.ts).
export default class ClosingLine {
  onTestRunEnd(modules, errors) {
    const count = { passed: 0, failed: errors.length, skipped: 0 }
    let golden = 0
    for (const module of modules) {
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        count[state === 'pending' ? 'skipped' : state]++
        if (state === 'passed') golden += test.meta().golden ?? 0
      }
      if (module.state() === 'failed' && module.children.size === 0) count.failed++
    }
    if (golden > 0) console.log(`${golden} golden numbers of the recipes compared`)
    console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`)
  }
}
