// The C interface from plain C: defaults, a call, an error. Built and run by `npm run test:library`.
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "../../native/ops.h"

static int failures = 0;

static void expect(int condition, const char* what) {
  if (!condition) failures++, printf("failed: %s\n", what);
}

static DLTensor vector_of(void* data, int64_t* length, uint8_t code, uint8_t bits) {
  DLTensor tensor = {data, {1, 0}, 1, {code, bits, 1}, length, NULL, 0};
  return tensor;
}

// Rows of logits that lie apart, and gradients over them: what no JavaScript caller can hand over, for it has one stride
// for both. Of 2 rows of 3 columns, 4 elements apart.
static void row_strides(const grpo_api* api) {
  float logits[10] = {1, 2, 3, 77, 0, -1, 1, 77, 77, 77}, gradient[10], logsumexp[2], one[2] = {1, 1};
  int32_t token[2] = {0, 2};
  int64_t shape[2] = {2, 3}, apart[2] = {4, 1}, two = 2;
  DLTensor x = {logits, {1, 0}, 2, {2, 32, 1}, shape, apart, 0}, y = x;
  y.data = gradient;
  DLTensor tokens = vector_of(token, &two, 0, 32), ones = vector_of(one, &two, 2, 32), sums = vector_of(logsumexp, &two, 2, 32);
  grpo_token_logprob_args forward = {.size = sizeof forward};
  grpo_token_logprob_backward_args backward = {.size = sizeof backward};
  expect(api->defaults("token_logprob", &forward, NULL) == GRPO_OK, "defaults of token_logprob");
  expect(api->defaults("token_logprob_backward", &backward, NULL) == GRPO_OK, "defaults of token_logprob_backward");
  forward.logits = backward.logits = &x, forward.token = backward.token = &tokens;
  backward.logsumexp = forward.logsumexp = &sums, backward.grad_logp = &ones, backward.grad_logits = &y;
  expect(api->token_logprob(&forward, NULL) == GRPO_OK, "rows that lie apart");
  expect(fabsf(logsumexp[0] - 3.4076059f) < 1e-6f && fabsf(logsumexp[1] - 1.4076059f) < 1e-6f, "their logsumexp");

  for (int i = 0; i < 10; ++i) gradient[i] = 55;
  expect(api->token_logprob_backward(&backward, NULL) == GRPO_OK, "gradients that lie apart");
  expect(fabsf(gradient[0] - 0.9099694f) < 1e-6f && fabsf(gradient[4] + 0.2447285f) < 1e-6f, "their values");
  expect(gradient[3] == 55 && gradient[7] == 55 && gradient[8] == 55, "what lies between and behind them");

  // Over the logits: with their dtype, from their first element, and with rows as far apart.
  grpo_error error;
  const char* expected = "overlaps {logits}, expected memory of its own";
  int64_t wider[2] = {5, 1}, dense[2] = {3, 1};
  float before[10];
  memcpy(before, logits, sizeof logits);
  const struct {
    const char* what;
    char* data;
    int64_t* strides;
    uint8_t code, bits;
  } wrong[] = {{"rows further apart", (char*)logits, wider, 2, 32},
               {"dense rows", (char*)logits, dense, 2, 32},
               {"dense rows without strides", (char*)logits, NULL, 2, 32},
               {"an element later", (char*)(logits + 1), apart, 2, 32},
               {"the second row first", (char*)(logits + 4), apart, 2, 32}};
  for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; ++i) {
    y.data = wrong[i].data, y.strides = wrong[i].strides;
    expect(api->token_logprob_backward(&backward, NULL) == GRPO_VALUE, wrong[i].what);
    api->last_error(&error);
    expect(strcmp(error.argument, "grad_logits") == 0 && strcmp(error.problem, expected) == 0, wrong[i].what);
  }
  // Halves, whose gradient may be float32: not in the same memory.
  x.dtype.code = 4, x.dtype.bits = 16, y.data = logits, y.strides = apart;
  expect(api->token_logprob_backward(&backward, NULL) == GRPO_VALUE, "float32 over the bits of bf16");
  x.dtype.code = 2, x.dtype.bits = 32;
  expect(memcmp(before, logits, sizeof logits) == 0, "nothing written");
  expect(api->token_logprob_backward(&backward, NULL) == GRPO_OK, "over the logits");
  for (int i = 0; i < 8; ++i) expect(logits[i] == (i % 4 == 3 ? 77 : gradient[i]), "the same gradient over the logits");

  // Of one row it does not matter where the next would lie.
  int64_t single[2] = {1, 3}, none[2] = {0, 1}, one_token = 1;
  x.shape = y.shape = single, y.strides = wider, tokens.shape = ones.shape = sums.shape = &one_token;
  expect(api->token_logprob_backward(&backward, NULL) == GRPO_OK, "one row, with another stride");
  y.strides = none;
  expect(api->token_logprob_backward(&backward, NULL) == GRPO_OK, "one row, with a stride of 0");
  y.strides = apart;
  x.shape = y.shape = shape, y.data = gradient, tokens.shape = ones.shape = sums.shape = &two;

  // Strides that are none: rows that overlap, columns that lie apart, and any for what has to be dense.
  int64_t closer[2] = {2, 1}, columns[2] = {6, 2}, backwards[2] = {-4, 1};
  int64_t* bad[] = {closer, columns, backwards};
  for (int i = 0; i < 3; ++i) {
    x.strides = bad[i];
    expect(api->token_logprob(&forward, NULL) == GRPO_SHAPE, "strides that no rows have");
    api->last_error(&error);
    expect(strcmp(error.argument, "logits") == 0, "the array of these strides");
  }
  x.strides = apart;
  int64_t every_other = 2;
  tokens.strides = &every_other;
  expect(api->token_logprob(&forward, NULL) == GRPO_SHAPE, "tokens that lie apart");
  api->last_error(&error);
  expect(strcmp(error.problem, "has a stride of 2 elements on axis 0, expected 1") == 0, "their text");
  tokens.strides = NULL;
  float head[6] = {0};
  DLTensor h = {head, {1, 0}, 2, {2, 32, 1}, shape, NULL, 0};
  grpo_linear_token_logprob_args linear = {.size = sizeof linear};
  expect(api->defaults("linear_token_logprob", &linear, NULL) == GRPO_OK, "defaults of linear_token_logprob");
  linear.hidden = &x, linear.head = &h, linear.token = &tokens, linear.logsumexp = &sums, token[1] = 1;
  expect(api->linear_token_logprob(&linear, NULL) == GRPO_OK, "hidden states that lie apart");
  x.strides = closer;
  expect(api->linear_token_logprob(&linear, NULL) == GRPO_SHAPE, "hidden states whose rows overlap");
  x.strides = dense;
  expect(api->linear_token_logprob(&linear, NULL) == GRPO_OK, "strides of what is dense");
}

// Tensors that a binding may hand over and no JavaScript caller can: each is refused with a sentence, and nothing is
// written.
static void bad_tensors(const grpo_api* api) {
  float x[8] = {1, 2, 3, 4, 5, 6, 7, 8}, sums[2] = {77, 77};
  int32_t start[3] = {0, 1, 4};
  int64_t four = 4, two = 2, three = 3, negative = -4, huge = INT64_C(1) << 31, square[2] = {2, 2};
  DLTensor good = vector_of(x, &four, 2, 32), out = vector_of(sums, &two, 2, 32), offsets = vector_of(start, &three, 0, 32);
  DLTensor bad[9];
  for (int i = 0; i < 9; ++i) bad[i] = good;
  bad[0].data = NULL;
  bad[1].shape = NULL;
  bad[2].shape = &negative;
  bad[3].shape = &huge;
  bad[4].shape = square, bad[4].ndim = 2;
  bad[5].device.device_type = 2;
  bad[6].dtype.lanes = 2;
  bad[7].dtype.bits = 64;
  bad[8].dtype.code = 9;
  const struct {
    int status;
    const char* problem;
  } expected[] = {
      {GRPO_VALUE, "has no memory: its data is null"},
      {GRPO_SHAPE, "has no shape: it is null"},
      {GRPO_SHAPE, "has shape [-4], but an axis stays below 2147483648"},
      {GRPO_SHAPE, "has shape [2147483648], but an axis stays below 2147483648"},
      {GRPO_SHAPE, "has shape [2, 2], expected [T]"},
      {GRPO_DEVICE, "does not lie on the host, as the CPU operations need"},
      {GRPO_DTYPE, "has a dtype that is none of f32, bf16, f16, i32, u8 and f64: code 2, 32 bits, 2 lanes"},
      {GRPO_DTYPE, "has dtype f64, expected f32"},
      {GRPO_DTYPE, "has a dtype that is none of f32, bf16, f16, i32, u8 and f64: code 9, 32 bits, 1 lanes"},
  };
  grpo_sequence_sum_args args = {.size = sizeof args, .sequence_start = &offsets, .out_x = &out};
  grpo_error error;
  for (int i = 0; i < 9; ++i) {
    args.x = &bad[i];
    expect(api->sequence_sum(&args, NULL) == expected[i].status, expected[i].problem);
    api->last_error(&error);
    expect(strcmp(error.argument, "x") == 0 && strcmp(error.problem, expected[i].problem) == 0, expected[i].problem);
    expect(error.status == expected[i].status && strcmp(error.operation, "sequence_sum") == 0, "its status");
  }
  args.x = &good, args.mean = 2;
  expect(api->sequence_sum(&args, NULL) == GRPO_OPTION, "a flag of 2");
  api->last_error(&error);
  expect(strcmp(error.problem, "is 2, expected 0 to 1") == 0, "its text");
  args.mean = -1;
  expect(api->sequence_sum(&args, NULL) == GRPO_OPTION, "a flag of -1");
  args.mean = 0, args.x = NULL;
  expect(api->sequence_sum(&args, NULL) == GRPO_MISSING, "an input that is missing");
  expect(api->sequence_sum(NULL, NULL) == GRPO_MISSING, "args that are missing");
  api->last_error(&error);
  expect(strcmp(error.argument, "args") == 0 && strcmp(error.problem, "is missing") == 0, "their text");
  args.x = &good;
  out.data = x + 3;  // the sums over the last number and behind it
  expect(api->sequence_sum(&args, NULL) == GRPO_VALUE, "an output over the end of an input");
  out.data = x + 4;
  expect(api->sequence_sum(&args, NULL) == GRPO_OK && x[4] == 1 && x[5] == 9, "an output right behind it");
  good.data = x + 2, out.data = x;
  expect(api->sequence_sum(&args, NULL) == GRPO_OK && x[0] == 3, "an output right before it");
  out.data = x + 1;
  expect(api->sequence_sum(&args, NULL) == GRPO_VALUE, "an output over its beginning");
  expect(sums[0] == 77 && sums[1] == 77, "nothing written elsewhere");
  int32_t nothing[3] = {0, 0, 0};
  int64_t none = 0;
  DLTensor empty = vector_of(sums + 1, &none, 2, 32), ends = vector_of(nothing, &three, 0, 32);
  out.data = sums, args.x = &empty, args.sequence_start = &ends;
  expect(api->sequence_sum(&args, NULL) == GRPO_OK && sums[1] == 0, "an input without values amid an output");

  grpo_group_advantage_args group = {.size = sizeof group};
  expect(api->defaults("group_advantage", &group, NULL) == GRPO_OK, "defaults of group_advantage");
  group.rewards = &good, group.group_start = &offsets, group.scale = 5;
  expect(api->group_advantage(&group, NULL) == GRPO_OPTION, "a choice beyond the last");
  api->last_error(&error);
  expect(strcmp(error.argument, "scale") == 0 && strcmp(error.problem, "is 5, expected 0 to 4") == 0, "its text");
  group.scale = -1;
  expect(api->group_advantage(&group, NULL) == GRPO_OPTION, "a choice of -1 where null is none");
  grpo_policy_loss_args loss = {.size = sizeof loss, .logp = &good};
  expect(api->policy_loss(&loss, NULL) == GRPO_MISSING, "an objective that is missing");
  api->last_error(&error);
  expect(strcmp(error.argument, "objective") == 0, "its name");

  // A list without an entry may have no memory, and yet is not absent: no sequences, and not one to each leaf.
  int32_t lengths[2] = {1, 2}, parents[2] = {-1, 0}, counts[4];
  int64_t zero = 0;
  DLTensor length = vector_of(lengths, &two, 0, 32), parent = vector_of(parents, &two, 0, 32);
  DLTensor end = vector_of(NULL, &zero, 0, 32), sizes = vector_of(counts, &four, 0, 32);
  grpo_tree_layout_args tree = {.size = sizeof tree, .length = &length, .parent = &parent, .end = &end, .sizes = &sizes};
  expect(api->tree_layout(&tree, NULL) == GRPO_OK && counts[1] == 0 && counts[2] == 0, "no ends");
  tree.end = NULL;
  expect(api->tree_layout(&tree, NULL) == GRPO_OK && counts[1] == 1 && counts[2] == 2, "absent ends");

  // What is asked for and does not exist is left alone: no log-ratio without the old mean.
  int64_t rows[2] = {2, 2};
  float ratio[2] = {77, 77}, std[2] = {1, 1}, logp[2];
  DLTensor matrix = {x, {1, 0}, 2, {2, 32, 1}, rows, NULL, 0}, deviations = vector_of(std, &two, 2, 32);
  DLTensor ratios = vector_of(ratio, &two, 2, 32), logps = vector_of(logp, &two, 2, 32);
  grpo_gaussian_logprob_args gaussian = {.size = sizeof gaussian, .x = &matrix, .mean = &matrix, .std = &deviations};
  gaussian.logp = &logps, gaussian.log_ratio = &ratios;
  expect(api->gaussian_logprob(&gaussian, NULL) == GRPO_OK && ratio[0] == 77, "a log-ratio without an old mean");
  expect(fabsf(logp[0] + 0.9189385f) < 1e-6f, "the log-probability beside it");
}

int main(void) {
  const grpo_api* api = grpo_kernels_api(GRPO_API_VERSION);
  expect(grpo_kernels_api(GRPO_API_VERSION + 1) == NULL, "a newer interface than this library has");

  float rewards[4] = {1, 0, 0.5f, 0}, advantage[4];
  int32_t start[2] = {0, 4};
  int64_t four = 4, two = 2;
  DLTensor rewards_tensor = vector_of(rewards, &four, 2, 32), advantage_tensor = vector_of(advantage, &four, 2, 32);
  DLTensor start_tensor = vector_of(start, &two, 0, 32);

  grpo_group_advantage_args args = {.size = sizeof args};
  expect(api->defaults("group_advantage", &args, NULL) == GRPO_OK, "defaults");
  expect(args.ddof == 1 && args.eps == 1e-4 && isnan(args.virtual_reward), "the defaults of the descriptor");
  args.rewards = &rewards_tensor, args.group_start = &start_tensor, args.advantage = &advantage_tensor;
  grpo_path path;
  expect(api->explain("group_advantage", &args, &path) == GRPO_OK, "the path of a call");
  expect(strcmp(path.kernel, "group_advantage") == 0 && strcmp(path.reason, "") == 0, "its kernel");
  expect(api->explain("no_such_operation", &args, &path) == GRPO_OPTION, "the path of no operation");
  expect(api->group_advantage(&args, NULL) == GRPO_OK, "group_advantage");
  expect(fabsf(advantage[0] - 1.3053097f) < 1e-6f, "its value");

  start[1] = 3;
  advantage[0] = 77;
  grpo_error error;
  expect(api->group_advantage(&args, NULL) == GRPO_VALUE, "an offset that does not end with N");
  api->last_error(&error);
  expect(strcmp(error.operation, "group_advantage") == 0 && strcmp(error.argument, "group_start") == 0, "error fields");
  expect(strcmp(error.problem, "ends with 3, expected 4 (N = 4 from {rewards})") == 0, "error text");
  expect(advantage[0] == 77, "nothing written");

  grpo_objective objective = {.size = sizeof objective};
  grpo_policy_loss_args loss = {.size = sizeof loss};
  expect(api->defaults("policy_loss", &loss, &objective) == GRPO_OK, "defaults of an objective");
  expect(loss.objective == &objective && objective.clip_low == 0.2 && isnan(objective.dual_clip), "their values");

  // A caller with an older header: its objective ends before `power_positive`, and nothing behind it is touched.
  float logp[4] = {-1, -2, -1, -3}, value[1] = {77};
  int64_t one = 1;
  DLTensor logp_tensor = vector_of(logp, &four, 2, 32), value_tensor = vector_of(value, &one, 2, 32);
  start[1] = 4;
  DLTensor sequence_tensor = vector_of(start, &two, 0, 32), group_tensor = vector_of(rewards, &one, 2, 32);
  objective.size = offsetof(grpo_objective, power_positive);
  objective.power_positive = 77;
  expect(api->defaults("policy_loss", &loss, &objective) == GRPO_OK, "defaults of a shorter objective");
  expect(objective.power_positive == 77, "not written beyond its size");
  loss.logp = &logp_tensor, loss.sequence_start = &sequence_tensor, loss.advantage = &group_tensor, loss.loss = &value_tensor;
  expect(api->policy_loss(&loss, NULL) == GRPO_OK && value[0] == -1, "a loss with a shorter objective");
  objective.size = sizeof objective + 8;
  expect(api->policy_loss(&loss, NULL) == GRPO_OPTION, "an objective of a newer header");
  api->last_error(&error);
  expect(strcmp(error.argument, "objective") == 0 && strstr(error.problem, "at most") != NULL, "that it is the objective");

  // A size that no header ever gave a struct cuts a member: nothing is read of it, nor written.
  objective.size = sizeof objective;
  const size_t whole = loss.size;
  for (size_t size = 0; size < whole; ++size) {
    if (size >= sizeof size && size % 8 == 0) continue;
    loss.size = size;
    expect(api->policy_loss(&loss, NULL) == GRPO_OPTION, "args that end inside a member");
    expect(api->defaults("policy_loss", &loss, NULL) == GRPO_OPTION, "defaults of args that end inside a member");
  }
  loss.size = 9;
  expect(api->policy_loss(&loss, NULL) == GRPO_OPTION, "args of 9 bytes");
  api->last_error(&error);
  expect(strcmp(error.argument, "size") == 0, "their argument");
  expect(strcmp(error.problem, "has size 9, where no member ends: expected sizeof the struct, of this header or an "
                               "older one") == 0, "their text");
  loss.size = whole;
  objective.size = offsetof(grpo_objective, kl_coef) + 4;
  expect(api->policy_loss(&loss, NULL) == GRPO_OPTION, "an objective that ends inside of a member");
  api->last_error(&error);
  expect(strcmp(error.argument, "objective") == 0 && strstr(error.problem, "no member") != NULL, "that this one is");
  objective.size = offsetof(grpo_objective, kl_coef);
  value[0] = 77;
  expect(api->policy_loss(&loss, NULL) == GRPO_OK && value[0] == -1, "one that ends before it");
  // One that ends before its objective has none, whatever lies behind; one of nothing but its size has no input.
  loss.size = offsetof(grpo_policy_loss_args, objective);
  expect(api->policy_loss(&loss, NULL) == GRPO_MISSING, "args that end before the objective");
  loss.size = sizeof loss.size;
  expect(api->policy_loss(&loss, NULL) == GRPO_MISSING, "args of their size alone");
  expect(api->defaults("policy_loss", &loss, NULL) == GRPO_OK, "their defaults");
  loss.size = whole;
  // What an older caller has beyond its own struct is not the library's to read.
  grpo_sequence_sum_args shorter = {.size = offsetof(grpo_sequence_sum_args, mean)};
  shorter.x = &logp_tensor, shorter.sequence_start = &sequence_tensor, shorter.out_x = &value_tensor, shorter.mean = 7;
  expect(api->sequence_sum(&shorter, NULL) == GRPO_OK && value[0] == -7, "a sum of args without an option");
  objective.size = sizeof objective;
  // Offsets that do not begin where their memory does.
  int32_t behind[4] = {77, 77, 0, 1};
  DLTensor later = vector_of(behind, &two, 0, 32);
  later.byte_offset = 2 * sizeof *behind;
  shorter.sequence_start = &later, value[0] = 77;
  DLTensor first_logp = vector_of(logp, &one, 2, 32);
  shorter.x = &first_logp;
  expect(api->sequence_sum(&shorter, NULL) == GRPO_OK && value[0] == logp[0], "offsets behind a byte_offset");

  // What JavaScript's callers are refused: numbers whose inverse float32 does not hold, and sizes that no axis has.
  const struct {
    double* option;
    const char *name, *expected;
  } narrow[] = {
      {&objective.normalizer, "normalizer", "0 or a number"},
      {&objective.max_length, "max_length", "a number"},
      {&objective.tau_positive, "tau_positive", "a number"},
      {&objective.tau_negative, "tau_negative", "a number"},
  };
  for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; ++i) {
    char text[128];
    snprintf(text, sizeof text, "is 1e-39, expected %s of at least 1.2e-38, whose inverse float32 can hold",
             narrow[i].expected);
    const double before = *narrow[i].option;
    *narrow[i].option = 1e-39, value[0] = 77;
    expect(api->policy_loss(&loss, NULL) == GRPO_OPTION && value[0] == 77, "an inverse beyond float32");
    api->last_error(&error);
    expect(strcmp(error.argument, narrow[i].name) == 0 && strcmp(error.problem, text) == 0, narrow[i].name);
    *narrow[i].option = 0x1p-126;
    expect(api->policy_loss(&loss, NULL) == GRPO_OK, "the smallest that is taken");
    *narrow[i].option = before;
  }
  objective.normalizer = 0;
  expect(api->policy_loss(&loss, NULL) == GRPO_OK && value[0] == 0, "a denominator of 0");
  objective.normalizer = NAN;
  grpo_scatter_rows_args scattered = {.size = sizeof scattered, .x = &group_tensor, .index = &sequence_tensor};
  scattered.rows = INT64_C(1) << 31;
  expect(api->scatter_rows(&scattered, NULL) == GRPO_OPTION, "more rows than an axis has");
  api->last_error(&error);
  expect(strcmp(error.argument, "rows") == 0, "the rows");
  expect(strcmp(error.problem, "is 2147483648, expected 0 to 2147483647") == 0, "their text");
  grpo_token_logprob_args part = {.size = sizeof part};
  expect(api->defaults("token_logprob", &part, NULL) == GRPO_OK && part.vocab_start == -1, "no part of a vocabulary");
  part.vocab_start = INT64_C(1) << 31;
  expect(api->token_logprob(&part, NULL) == GRPO_OPTION, "a part that begins beyond every id");
  api->last_error(&error);
  expect(strcmp(error.argument, "vocab_start") == 0, "where it begins");
  part.vocab_start = -2;
  expect(api->token_logprob(&part, NULL) == GRPO_OPTION, "a part that begins at -2, where -1 is null");

  // Addresses that are no multiple of an element's size, by the pointer or by the offset in bytes.
  char bytes[24];
  DLTensor crooked = vector_of(bytes + 1, &four, 2, 32);
  if ((size_t)bytes % 4 != 0) crooked.data = bytes + 4 - (size_t)bytes % 4 + 1;
  loss.logp = &crooked;
  expect(api->policy_loss(&loss, NULL) == GRPO_VALUE, "an address that is not a multiple of 4");
  api->last_error(&error);
  const char* address = "begins at an address that is not a multiple of its element's size";
  expect(strcmp(error.argument, "logp") == 0 && strcmp(error.problem, address) == 0, "the name of its array");
  loss.logp = &logp_tensor;
  value_tensor.byte_offset = 2;
  expect(api->policy_loss(&loss, NULL) == GRPO_VALUE, "an offset that is not a multiple of 4");
  api->last_error(&error);
  expect(strcmp(error.argument, "loss") == 0 && strcmp(error.problem, address) == 0, "its text");
  value_tensor.byte_offset = 0;

  uint8_t mask[4] = {1, 0, 1, 1};
  double count[1] = {77};
  int32_t index[2] = {77, 77};
  DLTensor mask_tensor = vector_of(mask, &four, 1, 8), count_tensor = vector_of(count, &one, 2, 64);
  DLTensor index_tensor = vector_of(index, &two, 0, 32);
  grpo_mask_index_args selected = {.size = sizeof selected, .mask = &mask_tensor, .count = &count_tensor};
  selected.index = &index_tensor;
  expect(api->mask_index(&selected, NULL) == GRPO_SHAPE && count[0] == 77, "an index of another length: nothing written");

  row_strides(api);
  bad_tensors(api);

  expect(api->defaults("no_such_operation", &args, NULL) == GRPO_OPTION, "an unknown operation");
  printf("%s\n", failures == 0 ? "the C interface works" : "the C interface fails");
  return failures;
}
