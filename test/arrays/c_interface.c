// The C interface of the CUDA library from plain C: tensors that begin behind their memory, as those of other languages
// do, on the device and on the host; and calls on a stream of the caller. Compiled and run by c_interface.test.ts; its
// argument is the library.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/ops.h"

static int failures = 0;

static void expect(int condition, const char* what) {
  if (!condition) failures++, printf("failed: %s\n", what);
}

enum { kHost = 1, kCuda = 2, kInteger = 0, kUnsigned = 1, kFloat = 2 };

static DLTensor vector_of(void* data, int32_t device, int64_t* length, uint8_t code, uint8_t bits, uint64_t offset) {
  DLTensor tensor = {data, {device, 0}, 1, {code, bits, 1}, length, NULL, offset};
  return tensor;
}

int main(int count, char** words) {
  void* library = count == 2 ? dlopen(words[1], RTLD_NOW) : NULL;
  const grpo_cuda_api* (*entry)(uint32_t) = NULL;
  if (library != NULL) *(void**)&entry = dlsym(library, "grpo_kernels_cuda_api");
  if (entry == NULL) return puts("no library"), 1;
  expect(entry(GRPO_API_VERSION + 1) == NULL, "a newer interface than this library has");
  const grpo_cuda_api* cuda = entry(GRPO_API_VERSION);
  const grpo_api* api = cuda->operations;
  expect(strcmp(api->backend, "cuda") == 0, "its backend");

  float x[6] = {77, 1, 2, 4, 8, 16}, sums[3] = {77, 77, 77};
  uint8_t mask[7] = {77, 77, 1, 1, 0, 1, 1};
  void *x_there = NULL, *mask_there = NULL, *sums_there = NULL;
  expect(cuda->allocate(0, sizeof x, NULL, &x_there) == GRPO_OK, "memory");
  expect(cuda->allocate(0, sizeof mask, NULL, &mask_there) == GRPO_OK, "memory of bytes");
  expect(cuda->allocate(0, sizeof sums, NULL, &sums_there) == GRPO_OK, "memory of sums");
  cuda->upload(0, x_there, x, sizeof x, NULL);
  cuda->upload(0, mask_there, mask, sizeof mask, NULL);
  cuda->upload(0, sums_there, sums, sizeof sums, NULL);

  int32_t start[5] = {77, 77, 0, 2, 5};
  int64_t two = 2, three = 3, five = 5;
  DLTensor x_tensor = vector_of(x_there, kCuda, &five, kFloat, 32, sizeof *x);
  DLTensor mask_tensor = vector_of(mask_there, kCuda, &five, kUnsigned, 8, 2);
  DLTensor sums_tensor = vector_of(sums_there, kCuda, &two, kFloat, 32, sizeof *sums);
  DLTensor start_tensor = vector_of(start, kHost, &three, kInteger, 32, 2 * sizeof *start);
  grpo_sequence_sum_args args = {.size = sizeof args};
  args.x = &x_tensor, args.sequence_start = &start_tensor, args.mask = &mask_tensor, args.out_x = &sums_tensor;
  expect(api->sequence_sum(&args, NULL) == GRPO_OK, "a call with tensors behind a byte_offset");
  start[2] = start[3] = start[4] = 77;  // the host's memory is the caller's again
  expect(cuda->download(0, sums, sums_there, sizeof sums, NULL) == GRPO_OK, "what it has computed");
  expect(sums[0] == 77 && sums[1] == 3 && sums[2] == 24, "its values");

  start[2] = 0, start[3] = 2, start[4] = 6;
  grpo_error error;
  expect(api->sequence_sum(&args, NULL) == GRPO_VALUE, "offsets on the host that do not end with T");
  api->last_error(&error);
  expect(strcmp(error.argument, "sequence_start") == 0, "the name of their array");
  DLTensor of_host = vector_of(x, kHost, &five, kFloat, 32, sizeof *x);
  args.x = &of_host;
  expect(api->sequence_sum(&args, NULL) == GRPO_DEVICE, "numbers on the host");

  // Whole numbers may stay on the host where they are read, not where they are written.
  int32_t places[5] = {77, 77, 77, 77, 77};
  DLTensor places_tensor = vector_of(places, kHost, &five, kInteger, 32, 0);
  grpo_mask_index_args index = {.size = sizeof index};
  index.mask = &mask_tensor, index.index = &places_tensor;
  expect(api->mask_index(&index, NULL) == GRPO_DEVICE, "places on the host");
  api->last_error(&error);
  expect(strcmp(error.argument, "index") == 0, "the name of the places");
  expect(places[0] == 77 && places[4] == 77, "nothing on the host is written");

  // On a stream of the caller's, which nothing orders with the library's own: its memory is there until its work is done.
  const char* address = getenv("GRPO_SIMT_STREAM_0_0");
  void* stream = address == NULL ? NULL : (void*)strtoull(address, NULL, 10);
  expect(stream != NULL, "a stream");
  float scaled[6] = {77, 2, 4, 8, 16, 32};
  void *scaled_there = NULL, *event = NULL;
  expect(cuda->allocate(0, sizeof scaled, stream, &scaled_there) == GRPO_OK, "memory on a stream");
  expect(cuda->upload(0, scaled_there, scaled, sizeof scaled, stream) == GRPO_OK, "an upload on it");
  DLTensor scaled_tensor = vector_of(scaled_there, kCuda, &five, kFloat, 32, sizeof *scaled);
  args.x = &scaled_tensor;
  start[4] = 5;
  expect(api->sequence_sum(&args, stream) == GRPO_OK, "a call on it");
  expect(cuda->record(0, &event, stream) == GRPO_OK, "an event of it");
  expect(cuda->release(0, scaled_there, stream) == GRPO_OK, "a release on it");
  expect(cuda->synchronize(0, NULL) == GRPO_OK, "the end of the library's own work");
  expect(cuda->download(0, sums, sums_there, sizeof sums, stream) == GRPO_OK, "what the call has computed");
  expect(sums[0] == 77 && sums[1] == 6 && sums[2] == 48, "its values on a stream");

  // Both ways: the library's own stream waits for the other's, and the other's for it.
  args.x = &x_tensor;
  expect(cuda->upload(0, x_there, scaled, sizeof scaled, stream) == GRPO_OK, "another upload on it");
  expect(cuda->record(0, &event, stream) == GRPO_OK && cuda->wait(0, NULL, event) == GRPO_OK, "a wait for it");
  expect(api->sequence_sum(&args, NULL) == GRPO_OK, "a call after it");
  expect(cuda->record(0, &event, NULL) == GRPO_OK && cuda->wait(0, stream, event) == GRPO_OK, "a wait for the call");
  sums[1] = sums[2] = 0;
  expect(cuda->download(0, sums, sums_there, sizeof sums, stream) == GRPO_OK, "what that has computed");
  expect(sums[1] == 6 && sums[2] == 48, "its values after a wait");
  void* same = event;
  expect(cuda->record(0, &event, NULL) == GRPO_OK && event == same, "the same event, recorded again");
  expect(cuda->wait_on_host(event) == GRPO_OK && cuda->destroy_event(event) == GRPO_OK, "the end of an event");

  for (void** memory = (void*[]){x_there, mask_there, sums_there, NULL}; *memory != NULL; ++memory)
    expect(cuda->release(0, *memory, NULL) == GRPO_OK, "a release");
  puts(failures == 0 ? "the C interface of the CUDA library works" : "it fails");
  return failures;
}
