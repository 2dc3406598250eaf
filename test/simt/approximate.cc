#include "approximate.hpp"

#include <bit>
#include <cmath>
#include <cstdint>

#include "simt.hpp"

namespace simt {
namespace {

float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// -most, ..., most
int32_t error(float x, uint32_t function, int32_t most) {
  uint64_t bits = (uint64_t{function} << 32 | std::bit_cast<uint32_t>(x)) ^ mode().seed * 0x9e3779b97f4a7c15u;
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  return static_cast<int32_t>((bits ^ bits >> 31) % static_cast<uint64_t>(2 * most + 1)) - most;
}

// 0, infinity and NaN stay what they are.
float moved(float x, int32_t ulp) {
  if (x == 0 || !std::isfinite(x)) return x;
  const float result = std::bit_cast<float>(std::bit_cast<uint32_t>(x) + static_cast<uint32_t>(ulp));
  return std::isfinite(result) ? flushed(result) : x;
}

}  // namespace

float exp2_approx(float x) {
  x = flushed(x);
  if (x == 0) return 1;
  return moved(flushed(std::exp2(x)), error(x, 0, 2));
}

float rcp_approx(float x) {
  x = flushed(x);
  return moved(flushed(1 / x), error(x, 2, 1));
}

}  // namespace simt
