// Logits from hidden states, logits = hidden head^T + bias, a chunk of rows at a time: what the linear operations have in
// common. The whole [R,V] never exists. A chunk is worked on in blocks of kBlock columns of the vocabulary:
//
//   chunk_softmax    one product:   the logits of a block, and from them the softmax of each row, block by block
//   chunk_gradient   two products:  the logits become their gradient in place, then gradHidden and gradHead
//
// Every sum has a fixed order, whatever the number of threads. What a row gets does not depend on the chunk it is in;
// gradHead and gradHeadBias are sums over rows, chunk after chunk.
#pragma once

#include "logits/logits.h"

namespace grpo {

struct Linear {
  const char* hidden;  // [R,D]
  Float hidden_type;
  const char* head;  // [V,D]
  Float head_type;
  const char* bias;  // [V], may be null
  Float bias_type;
  const int32_t* token;  // [T]
  float scale;           // 1 / temperature
  int64_t T, R, D, V;
};

// Null outputs are not wanted.
struct LinearGradients {
  char* hidden;  // [R,D]
  Float hidden_type;
  char* head;  // [V,D]
  Float head_type;
  char* bias;  // [V]
  Float bias_type;
};

template <class Args>
Linear linear_of(const Args& args, const Axes& axes) {
  return {data<char>(args.hidden),
          float_type(args.hidden),
          data<char>(args.head),
          float_type(args.head),
          data<char>(args.head_bias),
          args.head_bias == nullptr ? Float::kF32 : float_type(args.head_bias),
          data<int32_t>(args.token),
          static_cast<float>(1 / args.temperature),
          axes['T'],
          axes['R'],
          axes['D'],
          axes['V']};
}

template <class Args>
LinearGradients linear_gradients_of(const Args& args) {
  const auto type = [](const DLTensor* tensor) { return tensor == nullptr ? Float::kF32 : float_type(tensor); };
  return {data<char>(args.grad_hidden),    type(args.grad_hidden), data<char>(args.grad_head), type(args.grad_head),
          data<char>(args.grad_head_bias), type(args.grad_head_bias)};
}

struct ChunkShape {
  int64_t T, D, V;
  int64_t rows;   // of a chunk; the last one may have fewer
  bool several;   // chunks
  bool gradient;  // or only the softmax
  Float head_type, bias_type;  // of the gradients
  int64_t threads;
};

// For `rows` rows, in chunks of chunk_rows (null: as many as are good); gradients null for the softmax alone.
ChunkShape chunk_shape(const Linear& linear, const LinearGradients* gradients, int64_t rows, int64_t chunk_rows);

// Null where the shape does not need it.
struct ChunkMemory {
  int64_t rows;
  float* hidden;        // [rows,D], then the chunk's rows of gradHidden
  float* logits;        // with a gradient [rows,V], block after block; otherwise a block [rows,kBlock] for each thread
  RowSoftmax* parts;    // [rows,blocks]
  RowSoftmax* softmax;  // [rows]
  float* product;       // scratch of the matrix product, for each thread
  int32_t *kept, *local, *start;  // [rows], [rows], [rows+1]
  int32_t* t;                     // [T]
  Target* targets;                // [T]
  float* head_sum;  // gradHead in float32 where it is not: [V,D], or with one chunk [sum_columns,D] for each thread
  float* bias_sum;  // [V], likewise
  int64_t sum_columns;
};

// Takes arrays one after the other from `memory`, or with null only learns how many bytes they take: what is planned
// and what is allocated cannot differ.
class Arena {
 public:
  explicit Arena(char* memory) : memory_(memory) {}
  template <class Type>
  void take(Type*& array, int64_t count) {
    array = memory_ == nullptr ? nullptr : reinterpret_cast<Type*>(memory_ + bytes_);
    int64_t bytes;
    if (__builtin_mul_overflow(count, int64_t{sizeof(Type)}, &bytes) ||
        __builtin_add_overflow(bytes_, (bytes + 63) / 64 * 64, &bytes_))
      throw std::bad_alloc();
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* memory_;
  int64_t bytes_ = 0;
};

// The arrays of a Memory, which lay_out(shape, arena, memory) takes from an arena.
template <class Shape, class Memory>
int64_t bytes_of(const Shape& shape, Memory memory = {}) {
  Arena arena(nullptr);
  lay_out(shape, arena, memory);
  return arena.bytes();
}

template <class Shape, class Memory>
class Laid {
 public:
  explicit Laid(const Shape& shape) : scratch_(bytes_of<Shape, Memory>(shape)) {
    Arena arena(scratch_.data());
    lay_out(shape, arena, memory_);
  }
  const Memory& operator*() const { return memory_; }
  const Memory* operator->() const { return &memory_; }

 private:
  Scratch<char> scratch_;
  Memory memory_{};
};

void lay_out(const ChunkShape& shape, Arena& arena, ChunkMemory& memory);

// Rows begin .. end - 1 of those that `tokens` lists.
RowTokens chunk_of(const RowTokens& tokens, int64_t begin, int64_t end);

// The softmax of each row of a chunk into memory.softmax, the logit of each token into logit[t].
void chunk_softmax(const Linear& linear, const RowTokens& chunk, const ChunkMemory& memory, bool keep_logits,
                   float* logit);  // [T], may be null

// After chunk_softmax with keep_logits: what the chunk adds to the gradients. Rows of a chunk whose coefficients are all
// exactly 0 take part in no product. Call it for one chunk at least, though it be empty: the first one fills with zeros.
void chunk_gradient(const Linear& linear, const RowTokens& chunk, const ChunkMemory& memory,
                    const float* grad_logp,     // [T]
                    const float* grad_entropy,  // [T], may be null
                    const LinearGradients& gradients, bool first_chunk, bool last_chunk);

// All of it: between the softmax of a chunk and its gradient, between(chunk, softmax) may complete grad_logp and
// grad_entropy for the chunk's tokens, from their logits in `logit` and the softmax of their rows, which it may change.
template <class Between>
void for_gradient_chunks(const Linear& linear, const RowTokens& tokens,
                         float* logit,               // [T], may be null
                         const float* grad_logp,     // [T]
                         const float* grad_entropy,  // [T], may be null
                         const LinearGradients& gradients, int64_t chunk_rows, Between&& between) {
  const ChunkShape shape = chunk_shape(linear, &gradients, tokens.count, chunk_rows);
  const Laid<ChunkShape, ChunkMemory> memory(shape);
  int64_t begin = 0, end;
  do {
    end = std::min(begin + shape.rows, tokens.count);
    const RowTokens chunk = chunk_of(tokens, begin, end);
    chunk_softmax(linear, chunk, *memory, true, logit);
    between(chunk, memory->softmax);
    chunk_gradient(linear, chunk, *memory, grad_logp, grad_entropy, gradients, begin == 0, end == tokens.count);
  } while ((begin = end) < tokens.count && !cancelled());
}

}  // namespace grpo
