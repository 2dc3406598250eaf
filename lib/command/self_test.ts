// What the self-test of cuda/launch/self_test.cu leaves in registers on the interpreter of test/simt/, section by section: a
// GPU that gives another hash means something else by an instruction.
export const registers: Readonly<Record<string, string>> = {
  convert: '8b25ee984efdbb89',
  cp_async: '57ad8745f7cd6f31',
  ldmatrix: 'b22b562338f85d25',
  mma_bf16: '6079771b11d3ed25',
  mma_f16: '6079771b11d3ed25',
  bulk: '6e8a878834de6d85',
  cluster: '26d68d6aa94cca25',
  named_barrier: '2b68c12645e448c5',
  hand_over: '9af3d2bccc42258d',
  stream: '76958e321a928c5d',
  approximate: '25b6d3e03f19db91',
}
