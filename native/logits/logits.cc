#include "logits/logits.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>

namespace grpo {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double load(const char* x, Float type, int64_t i) {
  float value;
  vector_kernels().convert(x + i * size_of(type), type, &value, Float::kF32, 1);
  return value;
}

// Rounded once: on the way to 16 bits, the last bit of a float32 that is not exact is made odd, so that the second
// rounding never meets a tie that the first one made.
void store(double value, char* y, Float type, int64_t i) {
  float rounded = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &rounded, sizeof bits);
  if (type != Float::kF32 && std::isfinite(rounded) && rounded != value && (bits & 1) == 0)
    rounded = std::nextafter(rounded, value > rounded ? INFINITY : -INFINITY);
  vector_kernels().convert(&rounded, Float::kF32, y + i * size_of(type), type, 1);
}

bool only_minus_infinity(const LogitRow& row, int64_t V) {
  for (int64_t v = 0; v < V; ++v)
    if (load(row.x, row.type, v) != -INFINITY) return false;
  return true;
}

// Of the tokens of a row, each column once, with the sum of its tokens' coefficients; returns their number.
int64_t targets_of_row(const Logits& logits, const RowTokens& tokens, int64_t i, const float* grad_logp,
                       Target* targets) {
  int64_t count = 0;
  for (int32_t j = tokens.start[i]; j < tokens.start[i + 1]; ++j) {
    const int32_t t = tokens.t[j];
    const int64_t column = logits.column(t);
    if (column >= 0 && column < logits.V) targets[count++] = {static_cast<int32_t>(column), t, grad_logp[t]};
  }
  std::sort(targets, targets + count, [](const Target& a, const Target& b) {
    return a.column != b.column ? a.column < b.column : a.t < b.t;
  });
  int64_t distinct = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (distinct > 0 && targets[distinct - 1].column == targets[j].column)
      targets[distinct - 1].value += targets[j].value;
    else targets[distinct++] = targets[j];
  }
  return distinct;
}

bool equal_but_for_rounding(double given, double own) {
  return std::isfinite(own) && std::abs(given - own) <= 0x1p-22 * std::max(1.0, std::abs(own));
}

}  // namespace

int check_rows(const DLTensor* row, const Axes& axes, const char* rows) {
  if (row != nullptr || axes['T'] == axes['R']) return GRPO_OK;
  const std::string R = std::to_string(axes['R']);
  return fail(GRPO_SHAPE, "token",
              "has length " + std::to_string(axes['T']) + ", expected " + R + " (R = " + R + " from {" + rows +
                  "}), since token t is predicted by row t where {row} is absent");
}

int check_valid_vocab(int64_t valid_vocab, const Axes& axes, const char* columns) {
  if (is_null(valid_vocab) || valid_vocab <= axes['V']) return GRPO_OK;
  return fail(GRPO_OPTION, "valid_vocab",
              "is " + std::to_string(valid_vocab) + ", expected at most " + std::to_string(axes['V']) + " (V = " +
                  std::to_string(axes['V']) + " from {" + columns + "})");
}

int check_softcap(double softcap, double temperature) {
  if (is_null(softcap) || has_inverse(softcap / temperature)) return GRPO_OK;
  char value[32];
  std::snprintf(value, sizeof value, "%.9g", softcap);
  return fail(GRPO_OPTION, "softcap",
              std::string("is ") + value +
                  ", expected a number that, divided by {temperature}, float32 can hold with its inverse");
}

int check_row_temperature(const Temperature& temperature, const RowTokens& tokens) {
  for (int64_t i = 0; i < tokens.count; ++i) {
    const int32_t r = tokens.row[i];
    if (is_temperature(temperature, r)) continue;
    char value[32];
    std::snprintf(value, sizeof value, "%.9g", temperature.of_row[r]);
    return fail(GRPO_VALUE, "row_temperature",
                std::string("has ") + value + " at " + std::to_string(r) +
                    ", expected a number above 0 that, times {temperature}, float32 can hold with its inverse");
  }
  return GRPO_OK;
}

int check_entropy(const DLTensor* entropy, const DLTensor* grad_entropy) {
  if (entropy != nullptr || grad_entropy == nullptr) return GRPO_OK;
  return fail(GRPO_MISSING, "entropy", "is missing, expected the entropy of each token, since {grad_entropy} is given");
}

LogitRow Logits::open(int64_t r, int worker) const {
  if (temperature.softcap == 0) return row(r);
  float* x = capped + worker * capped_stride;
  vector_kernels().softcap(row(r).x, type, V, temperature.softcap, x);
  return {reinterpret_cast<const char*>(x), Float::kF32};
}

RowSoftmax softmax_of_row(const Logits& logits, int64_t r, const LogitRow& row) {
  const SoftmaxStats stats = vector_kernels().softmax_stats(row.x, row.type, logits.V, logits.scale(r));
  if (logits.part && stats.max == -INFINITY && only_minus_infinity(row, logits.V)) return {0, -INFINITY, 0};
  return row_softmax(stats);
}

RowSoftmax with_given(RowSoftmax softmax, float scale, float logsumexp, const float* entropy) {
  if (!equal_but_for_rounding(logsumexp, softmax.logsumexp(scale)))
    softmax.log_sum = logsumexp - static_cast<double>(scale) * softmax.max;
  if (entropy != nullptr && !equal_but_for_rounding(*entropy, softmax.entropy)) softmax.entropy = *entropy;
  return softmax;
}

double logp_of_token(const Logits& logits, int64_t r, const LogitRow& row, const RowSoftmax& softmax, int64_t t) {
  if (std::isnan(softmax.log_sum)) return softmax.log_sum;
  const int64_t column = logits.column(t);
  if (column < 0 || column >= logits.V) return -INFINITY;
  const double logit = load(row.x, row.type, column);
  // In a part that is all -inf, log_sum is -inf too.
  return logit == -INFINITY ? -INFINITY : softmax.logp(static_cast<float>(logit), logits.scale(r));
}

void write_zero_row(const Logits& logits, const GradLogits& grad_logits, int64_t r) {
  std::memset(grad_logits.row(r), 0, logits.width * size_of(grad_logits.type));
}

void gradient_of_row(const Logits& logits, const LogitRow& row, const RowSoftmax& softmax, const RowTokens& tokens,
                     int64_t i, const float* grad_logp, const float* grad_entropy, const GradLogits& grad_logits,
                     Target* targets) {
  const int64_t r = tokens.row[i];
  char* grad_row = grad_logits.row(r);
  const float scale = logits.scale(r);
  const double softcap = logits.temperature.softcap, slope = softcap == 0 ? scale : scale / softcap;
  const int64_t size = size_of(grad_logits.type);
  std::memset(grad_row + logits.V * size, 0, (logits.width - logits.V) * size);
  if (!std::isfinite(softmax.log_sum)) {  // NaN, or every part of the vocabulary is -inf
    for (int64_t v = 0; v < logits.V; ++v) store(kNaN, grad_row, grad_logits.type, v);
    return;
  }
  RowGradient gradient = row_gradient(tokens, i, grad_logp, grad_entropy);
  gradient.logp *= grad_logits.scale, gradient.entropy *= grad_logits.scale;
  Target* own = targets + tokens.start[i];
  const int64_t count = targets_of_row(logits, tokens, i, grad_logp, own);
  for (int64_t j = 0; j < count; ++j) {
    const double x = load(row.x, row.type, own[j].column), logp = softmax.logp(static_cast<float>(x), scale);
    const double p = std::exp(logp);
    // Not 0 * -inf.
    const double spread = p == 0 ? 0 : p * (gradient.logp + gradient.entropy * (logp + softmax.entropy));
    own[j].value = slope * (grad_logits.scale * own[j].value - spread);
    if (softcap != 0) own[j].value *= cap_slope(x);
  }
  const auto write = [&](int64_t begin, int64_t end, void* to) {
    softmax_gradient(softmax, gradient, scale, softcap, row.x + begin * size_of(row.type), row.type, to,
                     grad_logits.type, end - begin);
  };
  if (gradient.logp == 0 && gradient.entropy == 0) write_zero_row(logits, grad_logits, r);
  else if (grad_logits.past_caches) write_past_caches(grad_row, logits.V, size, write);
  else write(0, logits.V, grad_row);
  for (int64_t j = 0; j < count; ++j) store(own[j].value, grad_row, grad_logits.type, own[j].column);
}

}  // namespace grpo
