// The fast functions of the GPU, as far off as the PTX manual allows: libm plus an error that depends on the argument
// and on the seed of the run alone. Two calls give the same bits, and no test can rely on libm's.
#pragma once

namespace simt {

float exp2_approx(float x);  // relative error 2^-22
float rcp_approx(float x);   // 1 ulp

}  // namespace simt
