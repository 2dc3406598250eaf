// Which tokens each row of logits predicts, on the device.
#pragma once

#include "logits/kept_sets.cuh"

namespace grpo::cuda {

// What says where a token belongs. Unmasked tokens whose id or row is out of bounds belong nowhere, and, where
// gradients are given, neither do those that have none.
struct TokenRows {
  const int32_t* token;  // [T], 0 to V - 1
  const int32_t* row;    // [T], null: token t is of row t
  const uint8_t* mask;   // [T], may be null
  int64_t T, R, V;
  const float* grad_logp = nullptr;     // [T]
  const float* grad_entropy = nullptr;  // [T], may be null beside grad_logp
  int64_t padding = 0, padding_end = 0;  // ids that are none though they are below V
  RowSets sets{};                        // a token of a row whose set is bad is bad
  enum Which { kAll, kWithoutSet, kWithSet } which = kAll;  // rows of which tokens are listed

  __device__ __forceinline__ bool masked(int64_t t) const { return mask != nullptr && mask[t] == 0; }
  // The row of an unmasked token, -1 if its id or row is bad.
  __device__ __forceinline__ int64_t row_of(int64_t t) const {
    const int64_t r = row == nullptr ? t : row[t];
    const bool padded = token[t] >= padding && token[t] < padding_end;
    if (token[t] < 0 || token[t] >= V || padded || r < 0 || r >= R) return -1;
    return sets.bad != nullptr && sets.bad[r] != 0 ? -1 : r;
  }
  __device__ __forceinline__ bool listed(int64_t t) const {
    if (masked(t) || row_of(t) < 0) return false;
    if (which != kAll && sets.has(row_of(t)) != (which == kWithSet)) return false;
    return grad_logp == nullptr || grad_logp[t] != 0 || (grad_entropy != nullptr && grad_entropy[t] != 0);
  }
};

// The tokens of one row, ascending.
struct OwnTokens {
  const int32_t* t;  // [count]; null: the only one is `place`
  int64_t place;     // of the first among all tokens that belong to a row; with `row` null, the token
  int32_t count;

  __device__ __forceinline__ int64_t operator[](int64_t j) const { return t == nullptr ? place : t[j]; }
};

struct RowTokens {
  TokenRows in;
  const int32_t* start;  // [R+1], null where row r has token r, or none; with `row` [T+1]
  const int32_t* t;      // [T]
  // Of few tokens among very many rows: those that have any, ascending, and row[i] has the tokens from start[i] on.
  const int32_t* row;     // [T+1], null: of all rows
  const uint32_t* count;  // [1], how many rows `row` has
  int64_t most;           // rows that may have tokens: R, or with `row` T

  __device__ __forceinline__ OwnTokens at(int64_t i) const { return {t + start[i], start[i], start[i + 1] - start[i]}; }
  __device__ __forceinline__ OwnTokens of(int64_t r) const {
    if (start == nullptr) return {nullptr, r, in.listed(r)};
    if (row == nullptr) return at(r);
    int64_t i = 0;
    for (int64_t end = *count; i < end;) {
      const int64_t middle = (i + end) / 2;
      if (row[middle] < r) i = middle + 1;
      else end = middle;
    }
    return i < int64_t{*count} && row[i] == r ? at(i) : OwnTokens{t, 0, 0};
  }
};

// Work and memory follow the tokens, and the rows only where these are not many times as many.
RowTokens row_tokens(const TokenRows& in, Launch& on);
// With `start` and `t` in any case.
RowTokens row_token_lists(const TokenRows& in, Launch& on);

// What the outputs of masked tokens keep (0), and those of bad ones (NaN).
void begin_token_outputs(const TokenRows& in,
                         float* const (&outputs)[3],  // [T] each, may be null
                         Launch& on);

}  // namespace grpo::cuda
