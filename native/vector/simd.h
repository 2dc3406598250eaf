// Vectors of floats, as wide as the instruction set has them: 16 lanes on AVX-512, 8 on AVX2, 4 elsewhere.
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

// Lanes chosen by a comparison.
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

// Several vectors that go through a chain of dependent operations in step, because the processor would not look far
// enough ahead to overlap one chain with the next. Operations take a Wide or one vector for all of them.
#if GRPO_AVX512 || defined(__aarch64__)
constexpr int kWide = 4;
#else
constexpr int kWide = 2;
#endif

struct Wide {
  F32 v[kWide];
};

GRPO_INLINE F32 at(F32 x, int) { return x; }
GRPO_INLINE F32 at(const Wide& x, int i) { return x.v[i]; }

template <class A, class B, class C>
GRPO_INLINE Wide multiply_add(const A& a, const B& b, const C& c) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = multiply_add(at(a, i), at(b, i), at(c, i));
  return result;
}

template <class B>
GRPO_INLINE Wide operator-(const Wide& a, const B& b) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = a.v[i] - at(b, i);
  return result;
}

template <class B>
GRPO_INLINE Wide operator+(const Wide& a, const B& b) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = a.v[i] + at(b, i);
  return result;
}

template <class B>
GRPO_INLINE Wide operator*(const Wide& a, const B& b) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = a.v[i] * at(b, i);
  return result;
}

// y, but 0 where x < bound.
GRPO_INLINE F32 zero_below(F32 bound, F32 x, F32 y) { return zero_unless(not_below(x, bound), y); }
GRPO_INLINE Wide zero_below(F32 bound, const Wide& x, const Wide& y) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = zero_below(bound, x.v[i], y.v[i]);
  return result;
}

GRPO_INLINE Wide not_above(F32 limit, const Wide& x) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = not_above(limit, x.v[i]);
  return result;
}

// ---- Exponentials: e^x = 2^n e^r with |r| <= ln(2) / 2. T is F32 or Wide.

constexpr float kLog2E = 1.44269504f;
// Two parts of ln 2. The first has 9 bits, so that n times it is exact.
constexpr float kLn2High = 0.693359375f;
constexpr float kLn2Low = -2.12194440e-4f;
// Adding it rounds to an integer, which stands in the low bits with the exponent's bias of 127 on top.
constexpr float kShifter = 12582912.0f + 127.0f;
// ln(2^-126): below it the exponential counts as 0.
constexpr float kLowestExponent = -87.3365448f;

// p * 2^n, where n + kShifter = shifted and -126 <= n <= 127. NaN for NaN.
GRPO_INLINE F32 times_power(F32 p, F32 shifted, F32 n) {
#if GRPO_AVX512
  (void)shifted;
  return (F32)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  (void)n;
  return p * float_of(bits_of(shifted) << 23);
#endif
}

GRPO_INLINE Wide times_power(const Wide& p, const Wide& shifted, const Wide& n) {
  Wide result;
#pragma GCC unroll 4
  for (int i = 0; i < kWide; ++i) result.v[i] = times_power(p.v[i], shifted.v[i], n.v[i]);
  return result;
}

// e^r. Minimax with the first two coefficients held at 1: relative error 3.1e-9.
template <class T>
GRPO_INLINE T exponential_of_remainder(const T& r) {
  const T p6 = multiply_add(r, broadcast(0x1.6a4cb4p-10f), broadcast(0x1.123986p-7f));
  const T p5 = multiply_add(p6, r, broadcast(0x1.5558b0p-5f));
  const T p4 = multiply_add(p5, r, broadcast(0x1.555492p-3f));
  const T p3 = multiply_add(p4, r, broadcast(0x1.fffffcp-2f));
  const T p2 = multiply_add(p3, r, broadcast(1.0f));
  return multiply_add(p2, r, broadcast(1.0f));
}

// e^x for x <= 0 or NaN. Relative error below 1e-7; 0 below 2^-126.
template <class T>
GRPO_INLINE T exponential_below_zero(const T& x) {
  const T shifted = multiply_add(x, broadcast(kLog2E), broadcast(kShifter));
  const T n = shifted - broadcast(kShifter);
  const T r = multiply_add(n, broadcast(-kLn2Low), multiply_add(n, broadcast(-kLn2High), x));
  return zero_below(broadcast(kLowestExponent), x, times_power(exponential_of_remainder(r), shifted, n));
}

// e^x for any x: infinity above the largest float.
template <class T>
GRPO_INLINE T exponential(const T& x) {
  // Computed with n - 1, which stays at 127 up to the limit, and doubled, which overflows there.
  const T limited = not_above(broadcast(89.0f), x);
  const T shifted = multiply_add(limited, broadcast(kLog2E), broadcast(kShifter - 1.0f));
  const T less = shifted - broadcast(kShifter);
  const T n = less + broadcast(1.0f);
  const T r = multiply_add(n, broadcast(-kLn2Low), multiply_add(n, broadcast(-kLn2High), limited));
  const T half = times_power(exponential_of_remainder(r), shifted, less);
  return zero_below(broadcast(kLowestExponent), x, half + half);
}

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

// ---- Half precision.

GRPO_INLINE F32 float_of_bf16(U16 x) { return float_of(__builtin_convertvector(x, U32) << 16); }

// The upper half of every lane, rounded to nearest even; the lower half is rubbish. NaN keeps its sign and becomes
// quiet (rounding could carry it over to zero).
GRPO_INLINE U32 rounded_to_bf16(F32 x) {
#if GRPO_AVX512
  const __m512i bits = (__m512i)x;
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i even = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_mask_add_epi32(even, odd, bits, _mm512_set1_epi32(0x8000));
  const __mmask16 is_nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
  return (U32)_mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
#else
  const U32 bits = bits_of(x);
  const U32 rounded = bits + (((bits >> 16) & 1u) + 0x7fffu);
  return x != x ? bits | 0x400000u : rounded;
#endif
}

GRPO_INLINE U16 bf16_of_float(F32 x) { return __builtin_convertvector(rounded_to_bf16(x) >> 16, U16); }

GRPO_INLINE F32 float_of_f16(U16 x) {
#if GRPO_AVX512
  return (F32)_mm512_cvtph_ps((__m256i)x);
#elif GRPO_AVX2
  return (F32)_mm256_cvtph_ps((__m128i)x);
#elif defined(__aarch64__)
  return (F32)vcvt_f32_f16((float16x4_t)x);
#else
  const U32 wide = __builtin_convertvector(x, U32);
  // The exponent is biased by 15 instead of 127: one exact product corrects it, subnormals included.
  const U32 magnitude = bits_of(float_of((wide & 0x7fffu) << 13) * 0x1p112f);
  const U32 special = (wide & 0x7c00u) == 0x7c00u ? magnitude | 0x7f800000u : magnitude;
  return float_of(special | (wide & 0x8000u) << 16);
#endif
}

GRPO_INLINE U16 f16_of_float(F32 x) {
#if GRPO_AVX512
  return (U16)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif GRPO_AVX2
  return (U16)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__aarch64__)
  return (U16)vcvt_f16_f32((float32x4_t)x);
#else
  const U32 magnitude = bits_of(x) & 0x7fffffffu;
  // Rounds to ten mantissa bits and rebiases the exponent; values from 65520 on carry over to infinity.
  const U32 normal = (magnitude + (((magnitude >> 13) & 1u) + 0xfffu) - (112u << 23)) >> 13;
  // Below 2^-14: 0.5 has its last bit where the last bit of a half is, so that adding it rounds there.
  const U32 small = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  U32 half = magnitude < 0x38800000u ? small : normal;
  half = magnitude >= 0x47800000u ? U32{} + 0x7c00u : half;
  half = magnitude > 0x7f800000u ? (magnitude >> 13 & 0x3ffu) | 0x7e00u : half;
  return __builtin_convertvector(half | (bits_of(x) >> 16 & 0x8000u), U16);
#endif
}

// ---- The three storage types: element i of an array, kLanes at a time, or the first `count` and `fill` after them.

template <Float kType>
GRPO_INLINE F32 load(const void* base, int64_t i) {
  if constexpr (kType == Float::kF32) {
    return load_vector<F32>(static_cast<const float*>(base) + i);
  } else {
    const U16 x = load_vector<U16>(static_cast<const uint16_t*>(base) + i);
    return kType == Float::kBf16 ? float_of_bf16(x) : float_of_f16(x);
  }
}

template <Float kType>
GRPO_INLINE F32 load(const void* base, int64_t i, int count) {
  if constexpr (kType == Float::kF32) {
    return load_first(static_cast<const float*>(base) + i, count);
  } else {
    const U16 x = load_first(static_cast<const uint16_t*>(base) + i, count);
    return kType == Float::kBf16 ? float_of_bf16(x) : float_of_f16(x);
  }
}

template <Float kType>
GRPO_INLINE F32 load(const void* base, int64_t i, int count, float fill) {
  float lane[kLanes];
  store_vector(lane, broadcast(fill));
  store_first(lane, load<kType>(base, i, count), count);
  return load_vector<F32>(lane);
}

template <Float kType>
GRPO_INLINE void store(void* base, int64_t i, F32 v) {
  if constexpr (kType == Float::kF32) {
    store_vector(static_cast<float*>(base) + i, v);
  } else {
    store_vector(static_cast<uint16_t*>(base) + i, kType == Float::kBf16 ? bf16_of_float(v) : f16_of_float(v));
  }
}

template <Float kType>
GRPO_INLINE void store(void* base, int64_t i, F32 v, int count) {
  if constexpr (kType == Float::kF32) {
    store_first(static_cast<float*>(base) + i, v, count);
  } else {
    store_first(static_cast<uint16_t*>(base) + i, kType == Float::kBf16 ? bf16_of_float(v) : f16_of_float(v), count);
  }
}

// kWide vectors. Of bf16, with kPaired, the even elements of 2 * kLanes come as one vector and the odd ones as the
// next: that takes shifts instead of shuffles, and suits whoever adds them up or stores them the same way.
template <Float kType, bool kPaired>
GRPO_INLINE Wide load_wide(const void* base, int64_t i) {
  Wide result;
  if constexpr (kPaired) {
    static_assert(kType == Float::kBf16);
#pragma GCC unroll 4
    for (int v = 0; v < kWide; v += 2) {
      const U32 pair = load_vector<U32>(static_cast<const uint16_t*>(base) + i + v * kLanes);
      result.v[v] = float_of(pair << 16);
      result.v[v + 1] = float_of(pair & 0xffff0000u);
    }
  } else {
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) result.v[v] = load<kType>(base, i + v * kLanes);
  }
  return result;
}

template <Float kType, bool kPaired>
GRPO_INLINE void store_wide(void* base, int64_t i, const Wide& x) {
  if constexpr (kPaired) {
    static_assert(kType == Float::kBf16);
#pragma GCC unroll 4
    for (int v = 0; v < kWide; v += 2) {
      const U32 pair = rounded_to_bf16(x.v[v]) >> 16 | (rounded_to_bf16(x.v[v + 1]) & 0xffff0000u);
      store_vector(static_cast<uint16_t*>(base) + i + v * kLanes, pair);
    }
  } else {
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) store<kType>(base, i + v * kLanes, x.v[v]);
  }
}
