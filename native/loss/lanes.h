// Vectors of doubles with one token per lane. Included inside a namespace once per instruction set, after
// formulas/elementary.h; kLanes doubles are a vector. Static and inlined: a function for AVX-512 that the linker also used
// elsewhere would end the process on an older machine. Hence also no lambdas and no std templates.

#define GRPO_LANES static inline __attribute__((always_inline))

typedef double Lanes __attribute__((vector_size(kLanes * 8)));
typedef float HalfLanes __attribute__((vector_size(kLanes * 4)));
typedef Mask<Lanes> LaneMask;

GRPO_LANES HalfLanes load_half(const float* p, int64_t t, int count) {
  HalfLanes x = {};
  if (count == kLanes) __builtin_memcpy(&x, p + t, sizeof x);
  else
    for (int i = 0; i < count; ++i) x[i] = p[t + i];
  return x;
}

// p[t] to p[t + count - 1] (count <= kLanes) where live, and `otherwise` in the other lanes or without an array.
GRPO_LANES Lanes load(const float* p, int64_t t, int count, LaneMask live, double otherwise) {
  if (p == nullptr) return constant<Lanes>(otherwise);
  return live ? __builtin_convertvector(load_half(p, t, count), Lanes) : constant<Lanes>(otherwise);
}

GRPO_LANES LaneMask live_lanes(const uint8_t* mask, int64_t t, int count) {
  LaneMask live = {};
  if (mask == nullptr && count == kLanes) return live - 1;
  for (int i = 0; i < count; ++i) live[i] = mask == nullptr || mask[t + i] != 0 ? -1 : 0;
  return live;
}

GRPO_LANES void store_half(float* p, int64_t t, int count, HalfLanes y) {
  if (count == kLanes) __builtin_memcpy(p + t, &y, sizeof y);
  else
    for (int i = 0; i < count; ++i) p[t + i] = y[i];
}

GRPO_LANES void store(float* p, int64_t t, int count, Lanes x) {
  store_half(p, t, count, __builtin_convertvector(x, HalfLanes));
}

GRPO_LANES double sum_of(Lanes x) {
  double sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += x[i];
  return sum;
}

GRPO_LANES double count_of(LaneMask mask) {
  int64_t count = 0;
  for (int i = 0; i < kLanes; ++i) count -= mask[i];
  return static_cast<double>(count);
}
