// A C program that uses the installed library, found by CMake and by pkg-config.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'

const source = `
#include <stdio.h>
#include <grpo_kernels/ops.h>

int main(void) {
  const grpo_api* api = grpo_kernels_api(GRPO_API_VERSION);
  float x[4] = {1, 2, 3, 6};
  double moments[3];
  int64_t four = 4, three = 3;
  DLTensor in = {x, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, &four, NULL, 0};
  DLTensor out = {moments, {kDLCPU, 0}, 1, {kDLFloat, 64, 1}, &three, NULL, 0};
  grpo_moments_args args = {.size = sizeof args};
  if (api->defaults("moments", &args, NULL) != GRPO_OK) return 1;
  args.x = &in, args.moments = &out;
  if (api->moments(&args, NULL) != GRPO_OK) return 2;
  printf("%g %g %g\\n", moments[0], moments[1], moments[2]);
  return 0;
}
`
const expected = '4 3 14\n'
const lists = `
cmake_minimum_required(VERSION 3.19)
project(consumer LANGUAGES C)
find_package(grpo_kernels 0.1 REQUIRED)
add_executable(consumer consumer.c)
target_link_libraries(consumer PRIVATE grpo_kernels::grpo_kernels)
`

function run(command, args, env = {}) {
  const options = { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ...env } }
  return execFileSync(command, args, options)
}

function check(what, printed) {
  if (printed !== expected) throw new Error(`${what}: the program printed ${JSON.stringify(printed)}`)
}

/**
 * Configures, builds and installs the package in `source` as a C project does, and runs the program above.
 *
 * @param package_  the unpacked package, or a checkout
 * @param folder    for everything that is made
 * @param built     a build folder to install from, in place of a build of its own
 * @return a line that says what was done
 */
export function useFromC(package_, folder, built = join(folder, 'build')) {
  mkdirSync(join(folder, 'consumer'), { recursive: true })
  const configured = join(folder, 'build')
  run('cmake', ['-S', package_, '-B', configured])
  if (built === configured) run('cmake', ['--build', built, '--parallel', '2'])
  const prefix = join(folder, 'prefix')
  run('cmake', ['--install', built, '--prefix', prefix])

  const consumer = join(folder, 'consumer')
  writeFileSync(join(consumer, 'consumer.c'), source)
  writeFileSync(join(consumer, 'CMakeLists.txt'), lists)
  run('cmake', ['-S', consumer, '-B', join(consumer, 'build'), `-DCMAKE_PREFIX_PATH=${prefix}`])
  run('cmake', ['--build', join(consumer, 'build')])
  check('find_package', run(join(consumer, 'build/consumer'), []))

  // The program that pkg-config's words make has no path to the library: that is asked for with another word.
  const libraries = ['lib', 'lib64']
    .map((name) => join(prefix, name))
    .find((path) => existsSync(join(path, 'pkgconfig')))
  const path = { PKG_CONFIG_PATH: join(libraries, 'pkgconfig') }
  const flags = run('pkg-config', ['--cflags', '--libs', 'grpo_kernels'], path).trim().split(/\s+/)
  const binary = join(consumer, 'by_pkg_config')
  run('cc', ['-std=c11', '-Wall', '-Werror', join(consumer, 'consumer.c'), ...flags, '-o', binary])
  check('pkg-config', run(binary, [], { LD_LIBRARY_PATH: libraries }))
  return `the C library of ${built === configured ? 'the package' : 'the checkout'}: found by CMake and by pkg-config`
}
