// Arrays of float32, bf16 and f16, and the conversions between them. Included by the files that choose the instruction
// set, see simd.h.

GRPO_INLINE U32 widen(U16 x) {
#if GRPO_AVX512
  return (U32)_mm512_cvtepu16_epi32((__m256i)x);
#elif GRPO_AVX2
  return (U32)_mm256_cvtepu16_epi32((__m128i)x);
#else
  return __builtin_convertvector(x, U32);
#endif
}

// For lanes below 2^16.
GRPO_INLINE U16 narrow(U32 x) {
#if GRPO_AVX512
  return (U16)_mm512_cvtepi32_epi16((__m512i)x);
#elif GRPO_AVX2
  const __m256i packed = _mm256_packus_epi32((__m256i)x, (__m256i)x);  // within each half
  return (U16)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(x, U16);
#endif
}

GRPO_INLINE F32 float_of_bf16(U16 x) { return float_of(widen(x) << 16); }

// The upper half of every lane, rounded to nearest even; the lower half is rubbish. NaN keeps its sign and becomes
// quiet; with kNumbers there must be none, as rounding could carry it over to zero.
template <bool kNumbers>
GRPO_INLINE U32 rounded_to_bf16(F32 x) {
#if GRPO_AVX512
  const __m512i bits = (__m512i)x;
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i even = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_mask_add_epi32(even, odd, bits, _mm512_set1_epi32(0x8000));
  if (kNumbers) return (U32)rounded;
  const __mmask16 is_nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
  return (U32)_mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
#else
  const U32 bits = bits_of(x);
  const U32 rounded = bits + (((bits >> 16) & 1u) + 0x7fffu);
  if (kNumbers) return rounded;
  return x != x ? bits | 0x400000u : rounded;
#endif
}

template <bool kNumbers = false>
GRPO_INLINE U16 bf16_of_float(F32 x) {
  return narrow(rounded_to_bf16<kNumbers>(x) >> 16);
}

// Whether none of the lanes is NaN. May say no where asking costs more than it saves.
GRPO_INLINE bool all_numbers(const Wide& x) {
  static_assert(kWide == 4);
#if GRPO_AVX512
  const __mmask16 first = _mm512_cmp_ps_mask((__m512)x.v[0], (__m512)x.v[1], _CMP_UNORD_Q);
  return (first | _mm512_cmp_ps_mask((__m512)x.v[2], (__m512)x.v[3], _CMP_UNORD_Q)) == 0;
#elif GRPO_AVX2
  const __m256 first = _mm256_cmp_ps((__m256)x.v[0], (__m256)x.v[1], _CMP_UNORD_Q);
  const __m256 second = _mm256_cmp_ps((__m256)x.v[2], (__m256)x.v[3], _CMP_UNORD_Q);
  return _mm256_movemask_ps(_mm256_or_ps(first, second)) == 0;
#else
  (void)x;
  return false;
#endif
}

GRPO_INLINE F32 float_of_f16(U16 x) {
#if GRPO_AVX512
  return (F32)_mm512_cvtph_ps((__m256i)x);
#elif GRPO_AVX2
  return (F32)_mm256_cvtph_ps((__m128i)x);
#elif defined(__aarch64__)
  return (F32)vcvt_f32_f16((float16x4_t)x);
#else
  const U32 wide = widen(x);
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
  return narrow(half | (bits_of(x) >> 16 & 0x8000u));
#endif
}

// ---- Elements from i on of an array: kLanes, or the first `count` lanes of them (0 < count < kLanes).

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

// With `fill` in the other lanes.
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

template <bool kPaired, bool kNumbers>
GRPO_INLINE void store_bf16(uint16_t* p, const Wide& x) {
#pragma GCC unroll 4
  for (int v = 0; v < kWide; v += kPaired ? 2 : 1) {
    if constexpr (kPaired) {
      const U32 even = rounded_to_bf16<kNumbers>(x.v[v]), odd = rounded_to_bf16<kNumbers>(x.v[v + 1]);
      store_vector(p + v * kLanes, even >> 16 | (odd & 0xffff0000u));
    } else {
      store_vector(p + v * kLanes, bf16_of_float<kNumbers>(x.v[v]));
    }
  }
}

template <Float kType, bool kPaired>
GRPO_INLINE void store_wide(void* base, int64_t i, const Wide& x) {
  if constexpr (kType == Float::kBf16) {
    uint16_t* const p = static_cast<uint16_t*>(base) + i;
    if (all_numbers(x)) return store_bf16<kPaired, true>(p, x);
    store_bf16<kPaired, false>(p, x);
  } else {
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) store<kType>(base, i + v * kLanes, x.v[v]);
  }
}
