/*
 * Products with BF16_PAIRS weights: moe_kernels.matmul and round_bf16 of each instruction set.
 *
 * The arithmetic is that of the AMX instruction TDPBF16PS, whose operands can't be small enough for
 * its treatment of denormals to show (NUMERICS.md).  So AMX and AVX512_BF16 take an instruction for
 * what others do in the same steps with fma.
 */
#ifndef MOE_CPU_BF16_MATMUL_H
#define MOE_CPU_BF16_MATMUL_H

#include "kernels.h"

#define MOE_BF16_UNIT                                                                              \
    32 /* columns whose products are summed before they are added to the result                    \
        */

#define MOE_DECLARE_BF16(isa)                                                                      \
    void moe_matmul_bf16_##isa(const moe_matrix *w, int64_t group_begin, int64_t group_end,        \
                               const moe_activations *x, const int32_t *rows, int64_t n_tokens,    \
                               float *y, int64_t ldy);                                             \
    void moe_round_bf16_##isa(const float *x, int64_t n_cols, void *y)

MOE_DECLARE_BF16(scalar);
MOE_DECLARE_BF16(avx2);
MOE_DECLARE_BF16(avx512);
MOE_DECLARE_BF16(avx512_bf16);
MOE_DECLARE_BF16(amx);

/* Whether VDPBF16PS rounds in the order and in the way that moe_matmul_bf16_avx512_bf16 counts on:
 * vendors describe it, but it is no IEEE operation.  Needs a CPU that has it. */
bool moe_bf16_pairs_are_chains(void);

#endif
