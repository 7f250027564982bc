/*
 * Products with F32, F16 and BF16 weights: moe_kernels.matmul of each instruction set.
 */
#ifndef MOE_CPU_FLOAT_MATMUL_H
#define MOE_CPU_FLOAT_MATMUL_H

#include "kernels.h"

#define MOE_DECLARE_MATMUL_FLOAT(isa)                                                              \
    void moe_matmul_float_##isa(const moe_matrix *w, int64_t group_begin, int64_t group_end,       \
                                const moe_activations *x, const int32_t *rows, int64_t n_tokens,   \
                                float *y, int64_t ldy)

MOE_DECLARE_MATMUL_FLOAT(scalar);
MOE_DECLARE_MATMUL_FLOAT(avx2);
MOE_DECLARE_MATMUL_FLOAT(avx512);

#endif
