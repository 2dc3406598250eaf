// fork() while other threads are inside of calls: each child calls an operation itself, and ends with its value. The child
// has none of the library's threads, and its locks as they were at that moment. ./fork ROUNDS
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../native/ops.h"

enum { kTokens = 1 << 12, kSequences = 1 << 8, kThreads = 3 };

static const grpo_api* api;
static atomic_int stop;
static int32_t start[kSequences + 1];

static DLTensor vector_of(void* data, int64_t* length, uint8_t code) {
  DLTensor tensor = {data, {1, 0}, 1, {code, 32, 1}, length, NULL, 0};
  return tensor;
}

// The sums of sequences of ones: enough work for every thread of the pool. 0 if they are right.
static int sums_are_wrong(float* x, float* sums) {
  int64_t tokens = kTokens, sequences = kSequences, offsets = kSequences + 1;
  DLTensor in = vector_of(x, &tokens, 2), out = vector_of(sums, &sequences, 2), at = vector_of(start, &offsets, 0);
  grpo_sequence_sum_args args = {.size = sizeof args};
  if (api->defaults("sequence_sum", &args, NULL) != GRPO_OK) return 1;
  args.x = &in, args.sequence_start = &at, args.out_x = &out;
  if (api->sequence_sum(&args, NULL) != GRPO_OK) return 2;
  for (int s = 0; s < kSequences; ++s)
    if (sums[s] != (float)(kTokens / kSequences)) return 3;
  return 0;
}

static float* ones(void) {
  float* x = malloc(kTokens * sizeof *x);
  for (int t = 0; t < kTokens; ++t) x[t] = 1;
  return x;
}

static void* keep_calling(void* failed) {
  float *x = ones(), *sums = malloc(kSequences * sizeof *sums);
  while (!stop)
    if (sums_are_wrong(x, sums)) *(int*)failed = 1;
  return NULL;
}

// The status of a child, or -1 if it has not ended after five seconds.
static int wait_for(pid_t child) {
  for (int i = 0; i < 5000; ++i) {
    int status;
    if (waitpid(child, &status, WNOHANG) == child) return status;
    nanosleep(&(struct timespec){0, 1000000}, NULL);
  }
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  return -1;
}

int main(int count, char** arguments) {
  const int rounds = count > 1 ? atoi(arguments[1]) : 1000;
  api = grpo_kernels_api(GRPO_API_VERSION);
  for (int s = 0; s <= kSequences; ++s) start[s] = s * (kTokens / kSequences);
  float *x = ones(), *sums = malloc(kSequences * sizeof *sums);
  pthread_t threads[kThreads];
  int failed[kThreads] = {0};
  for (int i = 0; i < kThreads; ++i) pthread_create(&threads[i], NULL, keep_calling, &failed[i]);
  int hung = 0, wrong = 0;
  for (int round = 0; round < rounds && hung == 0; ++round) {
    const pid_t child = fork();
    if (child == 0) _exit(sums_are_wrong(x, sums));
    const int status = wait_for(child);
    hung += status == -1, wrong += status > 0;
  }
  stop = 1;
  for (int i = 0; i < kThreads; ++i) pthread_join(threads[i], NULL), wrong += failed[i];
  // The parent goes on with its own pool.
  wrong += sums_are_wrong(x, sums) != 0;
  printf("fork: %d rounds, %d hung, %d wrong\n", rounds, hung, wrong);
  return hung + wrong != 0;
}
