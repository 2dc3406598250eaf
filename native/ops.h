// The C interface of grpo-kernels: one struct of arguments and one function per operation, for every caller
// (the Node addon, Python, C++, Rust) and for every backend (CPU, CUDA).
//
//   const grpo_api* api = grpo_kernels_api(GRPO_API_VERSION);
//   grpo_group_advantage_args args = {.size = sizeof args};
//   api->defaults("group_advantage", &args, NULL);      // null arrays, default options
//   args.rewards = &rewards, args.group_start = &group_start, args.advantage = &advantage;
//   if (api->group_advantage(&args, NULL) != GRPO_OK) { grpo_error error; api->last_error(&error); ... }
//
// Arrays are DLTensors (DLPack's published memory layout), row-major and dense; those whose spec says
// `strided` may have a row stride.
// A null input is absent, a null output is not wanted. Outputs belong to the caller. A struct begins with its size,
// which the caller writes; members are only ever appended, with a default that means "as before". A caller that was
// compiled with an older header has shorter structs: what they lack has its default. Options: double, int64_t, or
// int32_t for booleans and choices (numbered in the order of the descriptor). A null option is NaN, -1 or -1. What an
// operation means, and its paper: the docstring of the TypeScript function of that name.
#ifndef GRPO_KERNELS_OPS_H
#define GRPO_KERNELS_OPS_H

#include <stddef.h>
#include <stdint.h>

// ---- DLPack's tensor ------------------------------------------------------------------------------------------------

// DLPack's own header where there is one, included before this one or to be found (PyTorch has it as ATen/dlpack.h).
// Any other copy of it has to be included before this header.
#if !defined(DLPACK_DLPACK_H_) && defined(__has_include)
#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
#elif __has_include(<ATen/dlpack.h>)
#include <ATen/dlpack.h>
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

#ifndef DLPACK_DLPACK_H_
enum { kDLCPU = 1, kDLCUDA = 2 };
enum { kDLInt = 0, kDLUInt = 1, kDLFloat = 2, kDLBfloat = 4 };
typedef struct { int32_t device_type, device_id; } DLDevice;
typedef struct { uint8_t code, bits; uint16_t lanes; } DLDataType;
typedef struct {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null = dense
  uint64_t byte_offset;
} DLTensor;
#endif

#define GRPO_API_VERSION 1

// ---- status, errors, descriptors ------------------------------------------------------------------------------------

enum {
  GRPO_OK = 0,
  GRPO_MISSING = -1,    // a required array is null
  GRPO_DTYPE = -2,
  GRPO_SHAPE = -3,
  GRPO_VALUE = -4,      // the contents of an array: offsets, ids
  GRPO_OPTION = -5,
  GRPO_MEMORY = -6,
  GRPO_CANCELLED = -7,
  GRPO_DEVICE = -8,
  GRPO_CUDA = -9,
};

// The last error of this thread. Names are as in this file; names inside `problem` stand in braces, so that a
// language can spell them its own way: "has length 3, expected 4 (T = 4 from {logp})".
typedef struct {
  int32_t status;
  const char* operation;
  const char* argument;
  const char* problem;
} grpo_error;

// Which kernels a call would run, and why not faster ones: "" where there are none. Of this thread's last explain().
typedef struct {
  const char* kernel;
  const char* reason;
} grpo_path;

enum { GRPO_INPUT = 0, GRPO_OUTPUT = 1, GRPO_OPTION_FIELD = 2 };

// One member of an args struct. `spec` is written in the language of lib/ops.ts, which says what it means.
typedef struct {
  const char* name;
  int32_t role;
  int32_t in_objective;  // the member lies in the grpo_objective that args->objective points to
  const char* spec;
  size_t offset;
} grpo_field;

typedef struct {
  const char* name;
  size_t args_size;
  ptrdiff_t objective_offset;  // of `const grpo_objective* objective`, or -1
  const grpo_field* fields;    // inputs, outputs, options, in the order of the struct
  int32_t field_count;
  int (*run)(const void* args, void* stream);
  int (*explain)(const void* args, grpo_path* path);  // checks the call as `run` does, and writes nothing
} grpo_operation;

// ---- groups and statistics ------------------------------------------------------------------------------------------

typedef struct {
  size_t size;
  const DLTensor *rewards, *group_start, *mask;
  DLTensor *advantage, *mean, *std;
  int32_t center, scale;
  int64_t ddof;
  double eps;
  int32_t eps_under_root;
  int64_t virtual_count;
  double virtual_reward;
  int32_t singleton;
} grpo_group_advantage_args;

typedef struct {
  size_t size;
  const DLTensor *x, *mask;
  DLTensor* moments;  // count, mean, sum of squared distances from the mean
} grpo_moments_args;

typedef struct {
  size_t size;
  const DLTensor *x, *mask, *moments;
  DLTensor* out_x;
  int64_t ddof;
  double eps;
  int32_t eps_under_root, center;
} grpo_standardize_args;

// ---- log-probabilities and losses -----------------------------------------------------------------------------------

typedef struct {
  size_t size;
  int32_t surrogate, ratio;
  double clip_low, clip_high, dual_clip, log_ratio_clamp;
  double kl_coef;
  int32_t kl, kl_gradient, kl_weight;
  double kl_clamp, kl_value_clamp;
  double entropy_coef;
  int32_t entropy_aggregate;
  double tau_positive, tau_negative;
  int32_t aggregate;
  double max_length;
  int32_t count_empty;
  double normalizer;
  double power_positive, decay_positive, power_negative, decay_negative;
  double dro_beta, ratio_cap;
  double kl_weight_clamp, kl_term_clamp;
} grpo_objective;

typedef struct {
  size_t size;
  const DLTensor *logits, *token, *row, *mask;
  DLTensor *logp, *entropy, *logsumexp;
  double temperature;
  int64_t vocab_start;
  const DLTensor* row_temperature;
  int64_t valid_vocab;
  double softcap;
  const DLTensor *kept_start, *kept;
  DLTensor *full_logp, *full_logsumexp;
  int32_t full;
} grpo_token_logprob_args;

typedef struct {
  size_t size;
  const DLTensor *logits, *token, *row, *mask, *logsumexp, *entropy, *grad_logp, *grad_entropy;
  DLTensor* grad_logits;
  double temperature;
  int64_t vocab_start;
  const DLTensor* row_temperature;
  int64_t valid_vocab;
  double grad_scale;
  double softcap;
  const DLTensor *kept_start, *kept;
} grpo_token_logprob_backward_args;

typedef struct {
  size_t size;
  const DLTensor *logp, *entropy, *logsumexp, *other_logp, *other_entropy, *other_logsumexp;
  DLTensor *out_logp, *out_entropy, *out_logsumexp;
} grpo_merge_token_logprob_args;

typedef struct {
  size_t size;
  const DLTensor *x, *mean, *std, *old_mean, *mask;
  DLTensor *logp, *log_ratio;
} grpo_gaussian_logprob_args;

typedef struct {
  size_t size;
  const DLTensor *x, *mean, *std, *old_mean, *mask, *grad_logp, *grad_log_ratio;
  DLTensor* grad_mean;
  double grad_scale;
} grpo_gaussian_logprob_backward_args;

typedef struct {
  size_t size;
  const DLTensor *mean, *ref_mean, *std, *mask;
  DLTensor* kl;
} grpo_gaussian_kl_args;

typedef struct {
  size_t size;
  const DLTensor *mean, *ref_mean, *std, *mask, *grad_kl;
  DLTensor* grad_mean;
  double grad_scale;
  int32_t accumulate;
} grpo_gaussian_kl_backward_args;

typedef struct {
  size_t size;
  const DLTensor *x, *y, *mask;
  DLTensor* log_ratio;
} grpo_log_ratio_args;

typedef struct {
  size_t size;
  const DLTensor *logp, *old_logp, *ref_logp, *advantage, *token_advantage, *sequence_start, *mask, *weight, *entropy,
      *ratio_low, *ratio_high;
  DLTensor *loss, *grad_logp, *grad_entropy, *stats;
  const grpo_objective* objective;
  double grad_scale;
} grpo_policy_loss_args;

typedef struct {
  size_t size;
  const DLTensor *logits, *token, *row, *old_logp, *ref_logp, *advantage, *token_advantage, *sequence_start, *mask,
      *weight, *ratio_low, *ratio_high;
  DLTensor *loss, *grad_logits, *logp, *entropy, *stats;
  double temperature;
  const grpo_objective* objective;
  const DLTensor* row_temperature;
  int64_t valid_vocab;
  double grad_scale;
  double softcap;
  const DLTensor *kept_start, *kept;
} grpo_policy_loss_from_logits_args;

typedef struct {
  size_t size;
  const DLTensor *hidden, *head, *head_bias, *token, *row, *old_logp, *ref_logp, *advantage, *token_advantage,
      *sequence_start, *mask, *weight, *ratio_low, *ratio_high;
  DLTensor *loss, *grad_hidden, *grad_head, *grad_head_bias, *logp, *entropy, *stats;
  double temperature;
  int64_t chunk_rows;
  const grpo_objective* objective;
  const DLTensor* row_temperature;
  int64_t valid_vocab;
  double grad_scale;
  int32_t accumulate;
  double softcap;
  const DLTensor *kept_start, *kept;
  int32_t precision;
} grpo_linear_policy_loss_args;

typedef struct {
  size_t size;
  DLTensor* peak_bytes;
  int64_t rows, tokens, hidden_size, vocabulary;
  int32_t dtype;
  int64_t threads, chunk_rows, sequences;
  int32_t ratio;
  int64_t kept;
} grpo_linear_policy_loss_plan_args;

typedef struct {
  size_t size;
  const DLTensor *hidden, *head, *head_bias, *token, *row, *mask;
  DLTensor *logp, *entropy, *logsumexp;
  double temperature;
  int64_t chunk_rows;
  const DLTensor* row_temperature;
  int64_t valid_vocab, vocab_start;
  double softcap;
  const DLTensor *kept_start, *kept;
  DLTensor *full_logp, *full_logsumexp;
  int32_t full;
  DLTensor* logits;
} grpo_linear_token_logprob_args;

typedef struct {
  size_t size;
  const DLTensor *hidden, *head, *head_bias, *token, *row, *mask, *logsumexp, *entropy, *grad_logp, *grad_entropy;
  DLTensor *grad_hidden, *grad_head, *grad_head_bias;
  double temperature;
  int64_t chunk_rows;
  const DLTensor* row_temperature;
  int64_t valid_vocab, vocab_start;
  double grad_scale;
  int32_t accumulate;
  double softcap;
  const DLTensor *kept_start, *kept;
  int32_t precision;
  const DLTensor* logits;
} grpo_linear_token_logprob_backward_args;

// ---- layouts and attention ------------------------------------------------------------------------------------------

typedef struct {
  size_t size;
  const DLTensor *length, *parent, *end;
  DLTensor *sizes;  // P, N, T, G: call once with only this output, then again with arrays of those sizes
  DLTensor *segment_start, *segment_end, *position, *group_start, *sequence_start, *row, *place;
} grpo_tree_layout_args;

typedef struct {
  size_t size;
  const DLTensor *q, *k, *v, *segment_start, *segment_parent, *segment_end;
  DLTensor *out, *logsumexp;
  double scale;
  int64_t window;
  double softcap;
  const DLTensor* sink;
  DLTensor* out_low;
  int32_t precision;
} grpo_prefix_attention_args;

typedef struct {
  size_t size;
  const DLTensor *q, *k, *v, *grad_out, *out, *logsumexp, *segment_start, *segment_parent, *segment_end;
  DLTensor *grad_q, *grad_k, *grad_v;
  double scale;
  double grad_scale;
  int64_t window;
  double softcap;
  const DLTensor *sink, *out_low;
  DLTensor* grad_sink;
  int32_t precision;
} grpo_prefix_attention_backward_args;

// ---- selection and rows ---------------------------------------------------------------------------------------------

typedef struct {
  size_t size;
  const DLTensor *score, *group_start, *mask;
  DLTensor* out_mask;
  int64_t count;
  double fraction;
  int32_t scope, rule;
} grpo_select_rollouts_args;

typedef struct {
  size_t size;
  const DLTensor *advantage, *token_advantage, *entropy, *sequence_start, *mask;
  DLTensor* out_mask;
  int64_t count;
  double fraction;
  int32_t scope, rule;
} grpo_select_tokens_args;

typedef struct {
  size_t size;
  const DLTensor* mask;
  DLTensor *count, *index;  // call once with only `count`, then again with an index of that length
} grpo_mask_index_args;

typedef struct {
  size_t size;
  const DLTensor *x, *index;
  DLTensor* out_x;
} grpo_gather_rows_args;

typedef struct {
  size_t size;
  const DLTensor *x, *index;
  DLTensor* out_x;
  int64_t rows;
} grpo_scatter_rows_args;

typedef struct {
  size_t size;
  const DLTensor *x, *sequence_start, *mask;
  DLTensor* out_x;
  int32_t mean;
} grpo_sequence_sum_args;

typedef struct {
  size_t size;
  const DLTensor *x, *sequence_start, *mask;
  DLTensor* out_x;
  int32_t mean;
} grpo_sequence_expand_args;

typedef struct {
  size_t size;
  const DLTensor *x, *sequence_start, *mask;
  DLTensor* out_x;
  double decay;
} grpo_discounted_sum_args;

typedef struct {
  size_t size;
  const DLTensor *old_logp, *rollout_logp, *sequence_start, *mask;
  DLTensor *weight, *out_mask, *stats;
  int32_t level, outside;
  double low, high;
  int32_t gate;
  double gate_low, gate_high;
  int32_t normalize, reject;
  double reject_low, reject_high;
} grpo_importance_weight_args;

typedef struct {
  size_t size;
  const DLTensor* ids;
  DLTensor *count, *order, *group_start;  // count: number of groups; call once with only it, as mask_index
} grpo_group_by_args;

typedef struct {
  size_t size;
  const DLTensor* x;
  DLTensor* out_x;
} grpo_convert_args;

// ---- the table ------------------------------------------------------------------------------------------------------

typedef struct {
  size_t size;
  uint32_t version;
  const char* backend;  // "cpu", "cuda"
  const grpo_operation* const* operations;
  int32_t operation_count;
  void (*last_error)(grpo_error* error);
  int (*defaults)(const char* operation, void* args, grpo_objective* objective);

  int (*group_advantage)(const grpo_group_advantage_args* args, void* stream);
  int (*moments)(const grpo_moments_args* args, void* stream);
  int (*standardize)(const grpo_standardize_args* args, void* stream);
  int (*token_logprob)(const grpo_token_logprob_args* args, void* stream);
  int (*token_logprob_backward)(const grpo_token_logprob_backward_args* args, void* stream);
  int (*merge_token_logprob)(const grpo_merge_token_logprob_args* args, void* stream);
  int (*policy_loss)(const grpo_policy_loss_args* args, void* stream);
  int (*policy_loss_from_logits)(const grpo_policy_loss_from_logits_args* args, void* stream);
  int (*linear_policy_loss)(const grpo_linear_policy_loss_args* args, void* stream);
  int (*linear_policy_loss_plan)(const grpo_linear_policy_loss_plan_args* args, void* stream);
  int (*linear_token_logprob)(const grpo_linear_token_logprob_args* args, void* stream);
  int (*linear_token_logprob_backward)(const grpo_linear_token_logprob_backward_args* args, void* stream);
  int (*tree_layout)(const grpo_tree_layout_args* args, void* stream);
  int (*prefix_attention)(const grpo_prefix_attention_args* args, void* stream);
  int (*prefix_attention_backward)(const grpo_prefix_attention_backward_args* args, void* stream);
  int (*select_rollouts)(const grpo_select_rollouts_args* args, void* stream);
  int (*select_tokens)(const grpo_select_tokens_args* args, void* stream);
  int (*mask_index)(const grpo_mask_index_args* args, void* stream);
  int (*gather_rows)(const grpo_gather_rows_args* args, void* stream);
  int (*scatter_rows)(const grpo_scatter_rows_args* args, void* stream);
  int (*sequence_sum)(const grpo_sequence_sum_args* args, void* stream);
  int (*sequence_expand)(const grpo_sequence_expand_args* args, void* stream);
  int (*group_by)(const grpo_group_by_args* args, void* stream);
  int (*convert)(const grpo_convert_args* args, void* stream);
  int (*discounted_sum)(const grpo_discounted_sum_args* args, void* stream);
  int (*gaussian_logprob)(const grpo_gaussian_logprob_args* args, void* stream);
  int (*gaussian_logprob_backward)(const grpo_gaussian_logprob_backward_args* args, void* stream);
  int (*explain)(const char* operation, const void* args, grpo_path* path);
  int (*gaussian_kl)(const grpo_gaussian_kl_args* args, void* stream);
  int (*gaussian_kl_backward)(const grpo_gaussian_kl_backward_args* args, void* stream);
  int (*log_ratio)(const grpo_log_ratio_args* args, void* stream);
  int (*importance_weight)(const grpo_importance_weight_args* args, void* stream);
} grpo_api;

// Null if this library is older than `version`.
#if defined(_WIN32)
__declspec(dllexport)
#else
__attribute__((visibility("default")))
#endif
const grpo_api* grpo_kernels_api(uint32_t version);

// ---- devices: the library libgrpo_kernels_cuda has this one symbol --------------------------------------------------

typedef struct {
  char name[256];
  int32_t major, minor;  // compute capability
  int32_t multiprocessors;
  int64_t memory;        // bytes
} grpo_device;

// Functions return a status; last_error() of the operations has the text, cuda_code() the CUDA error's name. A stream
// is a cudaStream_t; null is the library's own stream of the device, which is ordered with the legacy default stream.
// An operation runs on the device on which its arrays lie, enqueues and returns. i32 inputs may lie on the host.
typedef struct {
  size_t size;
  uint32_t version;
  const grpo_api* operations;  // backend "cuda"
  const char* (*cuda_code)(void);  // of this thread's last error; "" if it was none of CUDA's

  // The number of usable devices; 0 with a sentence that says why there is none (it stays valid).
  int32_t (*device_count)(const char** reason);
  int (*device)(int32_t device, grpo_device* info);

  // Memory in stream order: an allocation may be used by what is enqueued on `stream` after it.
  int (*allocate)(int32_t device, size_t bytes, void* stream, void** memory);
  int (*release)(int32_t device, void* memory, void* stream);
  // The host memory may be reused when this returns.
  int (*upload)(int32_t device, void* to, const void* from, size_t bytes, void* stream);
  // Waits until the host memory is written.
  int (*download)(int32_t device, void* to, const void* from, size_t bytes, void* stream);
  int (*synchronize)(int32_t device, void* stream);
  // The device that memory lies on, -1 for the host's; the device of a stream.
  int (*device_of_memory)(const void* memory, int32_t* device);
  int (*device_of_stream)(void* stream, int32_t* device);

  // An event marks what was enqueued on a stream so far (null `*event`: a new one); another stream, or the host, waits.
  int (*record)(int32_t device, void** event, void* stream);
  int (*wait)(int32_t device, void* stream, void* event);
  int (*wait_on_host)(void* event);
  int (*destroy_event)(void* event);

  // Gives the device memory that the library keeps for its next calls back. What is in use, or released by work that is
  // not done, stays.
  int (*trim)(int32_t device);

  // The newest CUDA that the driver knows and the one that this library was compiled with, as 13000.
  int (*versions)(int32_t* driver, int32_t* runtime);
  // As `record` and `wait_on_host`, of an event that knows when it was reached; seconds from one to the next.
  int (*record_time)(int32_t device, void** event, void* stream);
  int (*seconds_between)(void* first, void* second, double* seconds);
  // Every instruction that the kernels write in PTX, with a fixed pattern of lanes: for each section its name and a hash
  // of what it left in the registers. Sections that the device is too old for are left out.
  int (*self_test)(int32_t device, void (*visit)(void* context, const char* section, uint64_t hash), void* context);
} grpo_cuda_api;

#if defined(_WIN32)
__declspec(dllexport)
#else
__attribute__((visibility("default")))
#endif
const grpo_cuda_api* grpo_kernels_cuda_api(uint32_t version);

#ifdef __cplusplus
}
#endif

#endif
