// Vectors of floats, as wide as the instruction set has them: 16 lanes on AVX-512, 8 on AVX2, 4 elsewhere. (The same
// 64-byte vectors everywhere would be simpler, but GCC keeps those that no register can hold in memory.)
//
// Included once per instruction set, inside a namespace of its own and under its target pragma. Everything here is
// static and inlined: a function compiled for AVX-512 that the linker also used for the baseline would end the
// process on an older machine. Hence also no lambdas (GCC does not give them the target) and no std templates.
//
// The including file defines GRPO_AVX512 or GRPO_AVX2, or neither for what every processor of its kind has.

#if GRPO_AVX512
constexpr int kLanes = 16;
#elif GRPO_AVX2
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

#define GRPO_INLINE static inline __attribute__((always_inline))

typedef float F32 __attribute__((vector_size(kLanes * 4)));
typedef int32_t I32 __attribute__((vector_size(kLanes * 4)));
typedef uint32_t U32 __attribute__((vector_size(kLanes * 4)));
typedef uint16_t U16 __attribute__((vector_size(kLanes * 2)));
typedef float HalfF32 __attribute__((vector_size(kLanes * 2)));
typedef double F64 __attribute__((vector_size(kLanes * 4)));

constexpr float kInfinity = __builtin_inff();

GRPO_INLINE F32 broadcast(float x) { return x - F32{}; }  // x - 0 keeps the sign of -0
GRPO_INLINE I32 broadcast(int32_t x) { return x - I32{}; }
GRPO_INLINE U32 bits_of(F32 x) { return (U32)x; }
GRPO_INLINE F32 float_of(U32 x) { return (F32)x; }

// ---- Loads and stores: `count` lanes (0 < count < kLanes) of a vector that crosses the end of its array.

template <class V, class T>
GRPO_INLINE V load_vector(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class V, class T>
GRPO_INLINE void store_vector(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// In pieces of a fixed size: a copy of `count` elements would be a function call.
GRPO_INLINE void copy_first(uint16_t* to, const uint16_t* from, int count) {
#pragma GCC unroll 4
  for (int piece = kLanes / 2; piece > 0; piece /= 2) {
    if ((count & piece) == 0) continue;
    __builtin_memcpy(to, from, piece * sizeof(uint16_t));
    to += piece;
    from += piece;
  }
}

#if GRPO_AVX512
GRPO_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }
GRPO_INLINE F32 load_first(const float* p, int count) { return (F32)_mm512_maskz_loadu_ps(first_lanes(count), p); }
GRPO_INLINE void store_first(float* p, F32 v, int count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), (__m512)v);
}
GRPO_INLINE U16 load_first(const uint16_t* p, int count) {
  return (U16)_mm256_maskz_loadu_epi16(first_lanes(count), p);
}
GRPO_INLINE void store_first(uint16_t* p, U16 v, int count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count), (__m256i)v);
}
#elif GRPO_AVX2
GRPO_INLINE __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
GRPO_INLINE F32 load_first(const float* p, int count) { return (F32)_mm256_maskload_ps(p, first_lanes(count)); }
GRPO_INLINE void store_first(float* p, F32 v, int count) {
  _mm256_maskstore_ps(p, first_lanes(count), (__m256)v);
}
#else
GRPO_INLINE F32 load_first(const float* p, int count) {
  return F32{p[0], count > 1 ? p[1] : 0, count > 2 ? p[2] : 0, 0};
}
GRPO_INLINE void store_first(float* p, F32 v, int count) {
  p[0] = v[0];
  if (count > 1) p[1] = v[1];
  if (count > 2) p[2] = v[2];
}
#endif
#if !GRPO_AVX512
GRPO_INLINE U16 load_first(const uint16_t* p, int count) {
  uint16_t lane[kLanes] = {};
  copy_first(lane, p, count);
  return load_vector<U16>(lane);
}
GRPO_INLINE void store_first(uint16_t* p, U16 v, int count) {
  uint16_t lane[kLanes];
  store_vector(lane, v);
  copy_first(p, lane, count);
}
#endif

// a[0] b[0] a[1] b[1] .. from the lower halves of a and b, and from the upper ones.
GRPO_INLINE F32 interleave_low(F32 a, F32 b) {
#if GRPO_AVX512
  const __m512i order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return (F32)_mm512_permutex2var_ps((__m512)a, order, (__m512)b);
#elif GRPO_AVX2
  const __m256 low = _mm256_unpacklo_ps((__m256)a, (__m256)b), high = _mm256_unpackhi_ps((__m256)a, (__m256)b);
  return (F32)_mm256_permute2f128_ps(low, high, 0x20);
#else
  return F32{a[0], b[0], a[1], b[1]};
#endif
}

GRPO_INLINE F32 interleave_high(F32 a, F32 b) {
#if GRPO_AVX512
  const __m512i order = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return (F32)_mm512_permutex2var_ps((__m512)a, order, (__m512)b);
#elif GRPO_AVX2
  const __m256 low = _mm256_unpacklo_ps((__m256)a, (__m256)b), high = _mm256_unpackhi_ps((__m256)a, (__m256)b);
  return (F32)_mm256_permute2f128_ps(low, high, 0x31);
#else
  return F32{a[2], b[2], a[3], b[3]};
#endif
}

// rows[i][j] becomes rows[j][i]: interleaving the first half of the rows with the second, log2(kLanes) times.
GRPO_INLINE void transpose(F32 (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int stage = 1; stage < kLanes; stage *= 2) {
    F32 mixed[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      mixed[2 * i] = interleave_low(rows[i], rows[i + kLanes / 2]);
      mixed[2 * i + 1] = interleave_high(rows[i], rows[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = mixed[i];
  }
}

// ---- Arithmetic.

// a * b + c, rounded once where the processor can.
GRPO_INLINE F32 multiply_add(F32 a, F32 b, F32 c) {
#if GRPO_AVX512
  return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif GRPO_AVX2
  return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (F32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// a * b, rounded by itself: the compiler may not draw it into a multiply_add.
GRPO_INLINE F32 rounded_product(F32 a, F32 b) {
  F32 product = a * b;
#if defined(__aarch64__)
  __asm__("" : "+w"(product));
#elif GRPO_AVX512
  __asm__("" : "+v"(product));
#else
  __asm__("" : "+x"(product));
#endif
  return product;
}

// The larger one, and `b` where either is NaN.
GRPO_INLINE F32 larger(F32 a, F32 b) {
#if GRPO_AVX512
  return (F32)_mm512_max_ps((__m512)a, (__m512)b);
#elif GRPO_AVX2
  return (F32)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

// x, but at most `limit`; NaN for NaN.
GRPO_INLINE F32 not_above(F32 limit, F32 x) {
#if GRPO_AVX512
  return (F32)_mm512_min_ps((__m512)limit, (__m512)x);
#elif GRPO_AVX2
  return (F32)_mm256_min_ps((__m256)limit, (__m256)x);
#else
  return limit < x ? limit : x;
#endif
}

// ---- Lanes chosen by a comparison.

#if GRPO_AVX512
typedef __mmask16 Mask;
GRPO_INLINE Mask not_below(F32 x, F32 bound) {  // true for NaN
  return _mm512_cmp_ps_mask((__m512)x, (__m512)bound, _CMP_NLT_UQ);
}
GRPO_INLINE Mask above(I32 x, int32_t bound) { return _mm512_cmpgt_epi32_mask((__m512i)x, _mm512_set1_epi32(bound)); }
GRPO_INLINE Mask equal(F32 a, F32 b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ); }
GRPO_INLINE F32 zero_unless(Mask mask, F32 x) { return (F32)_mm512_maskz_mov_ps(mask, (__m512)x); }
GRPO_INLINE F32 select(Mask mask, F32 x, F32 otherwise) {
  return (F32)_mm512_mask_mov_ps((__m512)otherwise, mask, (__m512)x);
}
#else
typedef I32 Mask;
GRPO_INLINE Mask not_below(F32 x, F32 bound) { return ~(x < bound); }
GRPO_INLINE Mask above(I32 x, int32_t bound) { return x > bound; }
GRPO_INLINE Mask equal(F32 a, F32 b) { return a == b; }
GRPO_INLINE F32 zero_unless(Mask mask, F32 x) { return (F32)(mask & (I32)x); }
GRPO_INLINE F32 select(Mask mask, F32 x, F32 otherwise) { return mask ? x : otherwise; }
#endif

// y, but 0 where x < bound.
GRPO_INLINE F32 zero_below(F32 bound, F32 x, F32 y) { return zero_unless(not_below(x, bound), y); }

// ---- Sums and maxima over lanes.

// Sums in double of as many lanes.
struct Doubles {
  F64 low;
  F64 high;
};

GRPO_INLINE void add_float(Doubles& sum, F32 v) {
  HalfF32 half[2];
  __builtin_memcpy(half, &v, sizeof v);
  sum.low += __builtin_convertvector(half[0], F64);
  sum.high += __builtin_convertvector(half[1], F64);
}

// In an order fixed by the number of lanes.
GRPO_INLINE double sum_of_lanes(const Doubles& v) {
  double sum[kLanes / 2];
  store_vector(sum, v.low + v.high);
  for (int width = kLanes / 4; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) sum[i] += sum[i + width];
  return sum[0];
}

// Largest lane; a NaN lane does not count unless it is the first.
GRPO_INLINE float largest_of_lanes(F32 v) {
  float lane[kLanes];
  store_vector(lane, v);
  float most = lane[0];
  for (int i = 1; i < kLanes; ++i) most = lane[i] > most ? lane[i] : most;
  return most;
}
