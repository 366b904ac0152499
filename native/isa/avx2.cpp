// The kernels compiled for avx2. Nothing here may call inline code shared with other files: the linker keeps only one
// copy of such code, and it might be the one with instructions that another CPU lacks.
#include <immintrin.h>

#include "core/half.hpp"
#include "core/kernels.hpp"

namespace befit::avx2 {
#include "isa/simd_avx2.hpp"
#include "isa/expand.inl"
#include "isa/gemm.inl"
#include "isa/vector.inl"
#include "isa/attention_f16.inl"
#include "isa/attention_int8.inl"
#include "isa/attention.inl"

static const Kernels table = {"avx2",   gemm,  gemm_dense, quantize, rms_norm, layer_norm, activate,
                              gated, add,   to_half,    to_int8,  attend,   join,     peak,     sum_exp,    above};
}  // namespace befit::avx2

const befit::Kernels* befit::kernels_avx2() { return &avx2::table; }
