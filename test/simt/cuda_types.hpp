// CUDA's vector types with CUDA's alignment, and dim3.
#pragma once

#define SIMT_PURE inline __attribute__((always_inline)) constexpr

#define SIMT_VECTOR2(name, T, bytes)   \
  struct alignas(bytes) name {         \
    T x, y;                            \
  };                                   \
  SIMT_PURE name make_##name(T x, T y) { return {x, y}; }
#define SIMT_VECTOR4(name, T, bytes)   \
  struct alignas(bytes) name {         \
    T x, y, z, w;                      \
  };                                   \
  SIMT_PURE name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }

SIMT_VECTOR2(float2, float, 8)
SIMT_VECTOR2(int2, int, 8)
SIMT_VECTOR2(uint2, unsigned, 8)
SIMT_VECTOR2(double2, double, 16)
SIMT_VECTOR2(longlong2, long long, 16)
SIMT_VECTOR2(ulonglong2, unsigned long long, 16)
SIMT_VECTOR2(short2, short, 4)
SIMT_VECTOR2(ushort2, unsigned short, 4)
SIMT_VECTOR2(uchar2, unsigned char, 2)
SIMT_VECTOR4(float4, float, 16)
SIMT_VECTOR4(int4, int, 16)
SIMT_VECTOR4(uint4, unsigned, 16)
SIMT_VECTOR4(short4, short, 8)
SIMT_VECTOR4(ushort4, unsigned short, 8)
SIMT_VECTOR4(uchar4, unsigned char, 4)
#undef SIMT_VECTOR2
#undef SIMT_VECTOR4

struct uint3 {
  unsigned x, y, z;
};
struct float3 {
  float x, y, z;
};
SIMT_PURE uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
SIMT_PURE float3 make_float3(float x, float y, float z) { return {x, y, z}; }
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};
