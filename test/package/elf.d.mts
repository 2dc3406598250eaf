export function isElf(path: string): boolean
export function versions(path: string): Partial<Record<'GLIBC' | 'GLIBCXX' | 'CXXABI' | 'GCC', string>>
export function shortcomings(path: string): string[]
