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
GRPO_INLINE V load_first(const T* p, int count) {
  V v = {};
  __builtin_memcpy(&v, p, count * sizeof(T));
  return v;
}

template <class V, class T>
GRPO_INLINE void store_vector(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

template <class V, class T>
GRPO_INLINE void store_first(T* p, V v, int count) {
  __builtin_memcpy(p, &v, count * sizeof(T));
}

#if GRPO_AVX512
GRPO_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }
GRPO_INLINE F32 load_first(const float* p, int count) { return (F32)_mm512_maskz_loadu_ps(first_lanes(count), p); }
GRPO_INLINE void store_first(float* p, F32 v, int count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), (__m512)v);
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

// e^x. Relative error below 1e-7; 0 below 2^-126, infinity above the largest float, NaN for NaN.
GRPO_INLINE F32 exponential(F32 x) {
  // x = n ln 2 + r. Adding 1.5 * 2^23 rounds x / ln 2 to the integer n, which then stands in the low bits.
  const F32 shifter = broadcast(12582912.0f);
  const F32 shifted = multiply_add(x, broadcast(1.44269504f), shifter);
  const F32 n = shifted - shifter;
  // Two parts of ln 2: the first has 9 bits, so that n times it is exact also where multiply_add rounds twice.
  const F32 r = multiply_add(n, broadcast(2.12194440e-4f), multiply_add(n, broadcast(-0.693359375f), x));
  // Minimax for |r| <= ln(2) / 2 with the first two coefficients held at 1: relative error 3.1e-9.
  F32 p = broadcast(0x1.6a4cb4p-10f);
  p = multiply_add(p, r, broadcast(0x1.123986p-7f));
  p = multiply_add(p, r, broadcast(0x1.5558b0p-5f));
  p = multiply_add(p, r, broadcast(0x1.555492p-3f));
  p = multiply_add(p, r, broadcast(0x1.fffffcp-2f));
  p = multiply_add(p, r, broadcast(1.0f));
  p = multiply_add(p, r, broadcast(1.0f));
  // 2^n in two factors, each a normal number for every n that is kept below. NaN passes both selections.
  const I32 exponent = (I32)(bits_of(shifted) - bits_of(shifter));
  const I32 half = exponent >> 1;
  const F32 result = p * (F32)((half + 127) << 23) * (F32)((exponent - half + 127) << 23);
  const F32 low = x < -87.3365402f ? broadcast(0.0f) : result;
  return x > 88.7228317f ? broadcast(kInfinity) : low;
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

// Rounds to nearest even; NaN keeps its sign and becomes quiet (rounding could carry it over to infinity).
GRPO_INLINE U16 bf16_of_float(F32 x) {
  const U32 bits = bits_of(x);
  const U32 rounded = bits + (((bits >> 16) & 1u) + 0x7fffu);
  return __builtin_convertvector((x != x ? bits | 0x400000u : rounded) >> 16, U16);
}

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
    const U16 x = load_first<U16>(static_cast<const uint16_t*>(base) + i, count);
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
