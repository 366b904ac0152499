// The kernels compiled for generic. Nothing here may call inline code shared with other files: the linker keeps only one
// copy of such code, and it might be the one with instructions that another CPU lacks.
#include "core/half.hpp"
#include "core/kernels.hpp"

namespace befit::generic {
#include "isa/simd_generic.hpp"
#include "isa/expand.inl"
#include "isa/gemm.inl"
#include "isa/vector.inl"
#include "isa/attention_f16.inl"
#include "isa/attention_int8.inl"
#include "isa/attention.inl"

static const Kernels table = {"generic",   gemm,  gemm_dense, quantize, rms_norm, layer_norm, activate,
                              gated, add,   to_half,    to_int8,  attend,   join,     peak,     sum_exp,    above};
}  // namespace befit::generic

const befit::Kernels* befit::kernels_generic() { return &generic::table; }
