// Rows of logits in memory: the softmax of a row, the log-probabilities of its tokens, and the gradient of the row.
// All differences are formed from the row's largest logit, so that adding a constant to a row changes no digit of what
// comes out.
#pragma once

#include <algorithm>

#include "interface/operation.h"
#include "logits/kept_sets.h"
#include "logits/softmax_rows.h"
#include "logits/temperature.h"
#include "platform/past_caches.h"

namespace grpo {

// A row as its softmax takes it: the logits, or with a soft-cap c their tanh(logit / c) in float32.
struct LogitRow {
  const char* x;  // [V]
  Float type;
};

struct Logits {
  const char* data;  // [R,V]
  Float type;
  int64_t stride, R;
  int64_t V;                // columns that are looked at
  int64_t width;            // all columns: those from V on are padding, and get gradient 0
  Temperature temperature;
  const int32_t* token;     // [T]
  bool part = false;     // columns vocab_start.. of a vocabulary, not the whole of it
  int64_t vocab_start = 0;
  // Scratch for rows with a soft-cap: of each thread so many.
  float* capped = nullptr;
  int64_t capped_stride = 0;
  KeptSets kept{};

  LogitRow row(int64_t r) const { return {data + r * stride * size_of(type), type}; }
  // The same with the soft-cap on them, until the thread opens another one.
  LogitRow open(int64_t r, int worker) const;
  float scale(int64_t r) const { return scale_of_row(temperature, r); }
  // Below 0 or not below V for a token of another part of the vocabulary, or one that another thread has written since it
  // was checked.
  int64_t column(int64_t t) const { return read_once(token + t) - vocab_start; }
  // Rows that a thread takes at a time: short ones together, so that taking them costs nothing.
  int64_t piece() const { return std::max<int64_t>(1, 32768 / std::max<int64_t>(width, 1)); }
};

struct GradLogits {
  char* data;  // [R,V], may be the logits
  Float type;
  int64_t stride;
  double scale = 1;  // what it is multiplied by
  bool past_caches = false;  // whether it is written by write_past_caches()

  char* row(int64_t r) const { return data + r * stride * size_of(type); }
};

// Columns of the vocabulary that are no padding.
template <class Args>
int64_t valid_columns(const Args& args, const Axes& axes) {
  return is_null(args.valid_vocab) ? axes['V'] : args.valid_vocab;
}

template <class Args>
bool is_part(const Args& args) {
  if constexpr (requires { args.vocab_start; }) return !is_null(args.vocab_start);
  else return false;
}

template <class Args>
KeptSets kept_sets_of(const Args& args, const Axes& axes) {
  if constexpr (requires { args.vocab_start; })
    return kept_sets_of(args, is_null(args.vocab_start) ? 0 : args.vocab_start, valid_columns(args, axes));
  else return kept_sets_of(args, 0, valid_columns(args, axes));
}

template <class Args>
Logits logits_of(const Args& args, const Axes& axes) {
  return {.data = data<char>(args.logits),
          .type = float_type(args.logits),
          .stride = row_stride(args.logits),
          .R = axes['R'],
          .V = valid_columns(args, axes),
          .width = axes['V'],
          .temperature = temperature_of(args),
          .token = data<int32_t>(args.token)};
}

// Gives the logits their scratch for soft-caps; none without, or where no row is opened.
class CappedRows {
 public:
  explicit CappedRows(Logits& logits, bool opened = true)
      : rows_(opened && logits.temperature.softcap != 0 ? thread_count() * logits.V : 0) {
    logits.capped = rows_.data(), logits.capped_stride = logits.V;
  }

 private:
  Scratch<float> rows_;
};

// Past the caches in float32, unless it lies over the logits: 16 bits take longer to form than to write.
inline GradLogits grad_logits_of(DLTensor* tensor, const DLTensor* logits) {
  char* y = data<char>(tensor);
  const Float type = float_type(tensor);
  const int64_t bytes = tensor->shape[0] * row_stride(tensor) * size_of(type);
  const bool pays = type == Float::kF32 && y != data<char>(logits) && past_caches_pay(y, bytes, bytes);
  return {.data = y, .type = type, .stride = row_stride(tensor), .past_caches = pays};
}

// Without `row`, token t is of row t of `rows`.
int check_rows(const DLTensor* row, const Axes& axes, const char* rows);
int check_valid_vocab(int64_t valid_vocab, const Axes& axes, const char* columns);
int check_softcap(double softcap, double temperature);
// All of them; before any memory is looked at.
template <class Args>
int check_vocabulary(const Args& args, const Axes& axes) {
  constexpr bool kLogits = !requires { args.hidden; };
  if (const int status = check_rows(args.row, axes, kLogits ? "logits" : "hidden")) return status;
  if (const int status = check_softcap(args.softcap, args.temperature)) return status;
  if (const int status = check_kept_inputs(args.kept_start, args.kept)) return status;
  return check_valid_vocab(args.valid_vocab, axes, kLogits ? "logits" : "head");
}
// Of the rows that tokens name.
int check_row_temperature(const Temperature& temperature, const RowTokens& tokens);
// Of the rows that tokens name: their temperatures and their sets.
template <class Args>
int check_named_rows(const Args& args, const Axes& axes, const KeptSets& kept, const RowTokens& tokens) {
  if (const int status = check_row_temperature(temperature_of(args), tokens)) return status;
  return check_kept(kept, tokens, is_part(args), axes['V']);
}
// In a call on a device, of what lies on the host: the sets, where what names their rows lies there too.
template <class Args>
  requires requires(const Args& args) { args.kept_start; }
int check_given(const Args& args, const Axes& axes) {
  if (args.kept_start == nullptr || args.kept == nullptr) return GRPO_OK;
  if (const int status = check_vocabulary(args, axes)) return status;
  const auto elsewhere = [](const DLTensor* x) { return x != nullptr && x->device.device_type != kDLCPU; };
  if (elsewhere(args.kept_start) || elsewhere(args.kept) || elsewhere(args.row) || elsewhere(args.mask))
    return GRPO_OK;
  Scratch<int32_t> scratch(row_tokens_scratch(axes['T']));
  const RowTokens tokens =
      row_tokens(data<int32_t>(args.row), data<uint8_t>(args.mask), scratch.data(), axes['T'], axes['R']);
  return check_kept(kept_sets_of(args, axes), tokens, is_part(args), axes['V']);
}
// The path of an operation that looks at logits, or forms them.
template <class Args>
int logits_path(const Args& args, const Axes& axes, Path& path) {
  if (const int status = check_vocabulary(args, axes)) return status;
  if (args.kept_start != nullptr) path.runs("kept sets");
  if constexpr (requires { args.objective; })
    if (args.objective->ratio != 0) path.because(kTwoPasses);
  return by_vectors(args, axes, path);
}

// The gradient of an entropy needs the entropy.
int check_entropy(const DLTensor* entropy, const DLTensor* grad_entropy);

// log_sum and entropy are NaN where there is no softmax: a NaN or +inf among the logits, or only -inf. In a part of a
// vocabulary only -inf is no fault: log_sum is -inf and the entropy 0.
RowSoftmax softmax_of_row(const Logits& logits, int64_t r, const LogitRow& row);

// The softmax with the logsumexp and the entropy that are given: those of the whole vocabulary, where the row is a part
// of it. Where they are the row's own but for their rounding to float32, the unrounded ones are taken: the last bit of
// a logsumexp of 1e4 is worth 1e-3 of every probability.
RowSoftmax with_given(RowSoftmax softmax, float scale, float logsumexp, const float* entropy);

double logp_of_token(const Logits& logits, int64_t r, const LogitRow& row, const RowSoftmax& softmax, int64_t t);

// An entry of a row of gradients that is formed in double and rounded once.
struct Target {
  int32_t column, t;
  double value;
};

// The derivative of the loss with respect to the row of tokens.row[i]: the sum over its tokens, of which not all
// coefficients are 0.
void gradient_of_row(const Logits& logits, const LogitRow& row, const RowSoftmax& softmax, const RowTokens& tokens,
                     int64_t i,
                     const float* grad_logp,     // [T]
                     const float* grad_entropy,  // [T], may be null
                     const GradLogits& grad_logits,
                     Target* targets);  // [T], scratch, of which the row takes its tokens' places

void write_zero_row(const Logits& logits, const GradLogits& grad_logits, int64_t r);

// Calls visit(r, i, worker) on all threads for the rows that tokens name, r = tokens.row[i].
template <class Visit>
void for_named_rows(const Logits& logits, const RowTokens& tokens, Visit&& visit) {
  parallel_for(tokens.count, logits.piece(), [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) visit(int64_t{tokens.row[i]}, i, worker);
  });
}

// The same for every row, with i = -1 where no token names it. Rows without columns, of which there may be very many in
// no memory, have no gradient to be written.
template <class Visit>
void for_rows(const Logits& logits, const RowTokens& tokens, Visit&& visit) {
  parallel_for(logits.width == 0 ? 0 : logits.R, logits.piece(), [&](int64_t begin, int64_t end, int worker) {
    int64_t i = std::lower_bound(tokens.row, tokens.row + tokens.count, begin) - tokens.row;
    for (int64_t r = begin; r < end; ++r) {
      const bool named = i < tokens.count && tokens.row[i] == r;
      visit(r, named ? i++ : -1, worker);
    }
  });
}

}  // namespace grpo
