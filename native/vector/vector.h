// The vector code of the CPU kernels: a handful of inner loops, compiled once per instruction set
// (vector/baseline.cc, vector/avx2.cc, vector/avx512.cc) from the same source, and chosen at run time. The product of
// bf16 alone has files of its own (vector/avx512_bf16.cc, vector/amx.cc), of processors that are AVX-512's otherwise.
// Everything else in native/ is ordinary C++ that calls these through the table below.
//
// A result depends on the instruction set (the number of lanes decides the order of a sum), never on
// the number of threads, the neighbours of a row, or the address of an array.
#pragma once

#include <cstdint>
#include <string>

namespace grpo {

enum class Float : int32_t { kF32 = 0, kBf16 = 1, kF16 = 2 };

constexpr int64_t size_of(Float type) { return type == Float::kF32 ? 4 : 2; }

// Of u[i] = scale * x[i], relative to the largest x, so that no digits are lost to a large offset:
//   max = max x,   sum = sum_i exp(u[i] - scale * max),   weighted = sum_i exp(..) * (u[i] - scale * max)
// x = -inf adds 0 to both sums. A NaN or +inf anywhere, and a row of only -inf, give a NaN sum.
struct SoftmaxStats {
  float max;
  double sum;
  double weighted;
};

// A matrix in any layout: element (i, k) is data[i * row_stride + k * column_stride].
struct Matrix {
  const void* data;
  Float type;
  int64_t row_stride;
  int64_t column_stride;
};

// Query q of a tile sees its keys begin[q] to end[q] - 1, of which there may be none; null: all keys.
struct KeyRanges {
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
};

struct GaussianSums {
  double squares;   // sum of (x - mean)^2
  double products;  // sum of (x - old_mean) (mean - old_mean), 0 without old_mean
};

struct VectorKernels {
  const char* name;  // "baseline" ("neon" on arm64), "avx2", "avx512", and with products of bf16 "avx512_bf16", "amx"
  int lanes;         // floats of a vector

  // One pass over x[n], read once.
  SoftmaxStats (*softmax_stats)(const void* x, Float type, int64_t n, float scale);

  // y[i] = p[i] * (a + b * (u[i] - shift)),  p[i] = exp(u[i] - log_sum),  u[i] = scale * (x[i] - max);
  // 0 where x = -inf. y may be x itself. (A loss with gradient g of the log-probability and h of the entropy H
  // calls this with a = -g * scale, b = -h * scale, shift = log_sum - H.)
  // max as softmax_stats gave it, log_sum relative to it: of a logsumexp of 1e10 nothing would be left of either. capped: x is float32, from softcap, and y is
  // multiplied by 1 - x^2.
  void (*softmax_gradient)(const void* x, Float type, int64_t n, float scale, float max, double log_sum,
                           float a, float b, double shift, bool capped, void* y, Float y_type);

  // y[i] = tanh(x[i] / cap), but -inf for -inf. y may be x itself.
  void (*softcap)(const void* x, Float type, int64_t n, double cap, float* y);

  // c[m,n] (row-major, leading dimension ldc) = or += A[m,k] B[k,n]. For tiles that stay in cache:
  // nothing is packed, B's rows are contiguous (stride ldb), A may have any strides; all float32.
  // An element's sum runs over k in order, whatever m and n are.
  void (*matmul_tile)(const float* a, int64_t a_row_stride, int64_t a_column_stride, const float* b, int64_t ldb,
                      float* c, int64_t ldc, int64_t m, int64_t n, int64_t k, bool accumulate);

  // c[m,n] = or += A[m,k] B[k,n] for large matrices of any type and layout; float32 sums. `scratch` holds at
  // least matmul_scratch floats. An element's result does not depend on m, n or its place.
  void (*matmul)(const Matrix& a, const Matrix& b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                 bool accumulate, float* scratch);
  // The same of bf16 (exact products in float32 sums), to which float32 is rounded; numbers and products below 2^-126
  // count as 0. Null where the processor has no instruction for it.
  void (*matmul_bf16)(const Matrix& a, const Matrix& b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                      bool accumulate, float* scratch);
  int64_t matmul_scratch;

  // Running softmax over a tile of scores held transposed, scores[keys, queries] (leading dimension lds), of which each
  // query sees some. A score is scale times what comes in, and with `cap` not 0 cap tanh(that / cap). Updates max[q]
  // and sum[q], turns scores into exp(score - max[q]) (0 where hidden) and writes rescale[q] = exp(old max - new max),
  // the factor for what was accumulated before. A query with no key so far has max = -inf, sum = 0, and gets rescale 1.
  void (*softmax_tile)(float* scores, int64_t lds, int64_t keys, int64_t queries, const KeyRanges& seen, float scale,
                       double cap, float* max, float* sum, float* rescale);

  // The tile of the backward pass: p = exp(score - logsumexp[q]) (0 where hidden) replaces scores, and
  // grad_scores[j,q] = p * (grad_scores[j,q] - delta[q]) * scale, times 1 - tanh^2 with a cap, replaces what came in.
  void (*softmax_tile_backward)(float* scores, float* grad_scores, int64_t ld, int64_t keys, int64_t queries,
                                const KeyRanges& seen, double cap, const float* logsumexp, const float* delta,
                                float scale);

  // y[i] = x[i] in the other type, rounded to nearest even.
  void (*convert)(const void* x, Float x_type, void* y, Float y_type, int64_t n);

  // Over [n] each, in float64; old_mean may be null.
  GaussianSums (*gaussian_sums)(const float* x, const float* mean, const float* old_mean, int64_t n);

  // sum_i x[i] y[i], in float32 runs that are summed in float64.
  float (*dot)(const float* x, const void* y, Float y_type, int64_t n);

  // y[i] += factor * x[i]
  void (*add_scaled)(float factor, const void* x, Float x_type, float* y, int64_t n);
};

// The table in use: the best the processor has, unless GRPO_KERNELS_ISA or set_instruction_set names another.
const VectorKernels& vector_kernels();

// One of those names: false, and nothing changes, where the processor or the build lacks it.
bool set_instruction_set(const char* name);

// Why vector_kernels() is not the widest table of this package; empty if it is.
std::string why_not_wider();

// What is wrong with GRPO_KERNELS_ISA as the process began to use the kernels; empty if nothing is.
const std::string& instruction_set_problem();

}  // namespace grpo
