/** All that a CPU may have; `native.setInstructionSet` says which of them this one does. */
export const instructionSetNames = ['baseline', 'avx2', 'avx512', 'avx512_bf16', 'amx', 'neon']
