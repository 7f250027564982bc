/*
 * Products with unquantised weights through OpenBLAS: not bit-equal between CPUs, so only for
 * callers that do not ask for reproducible results.
 */
#ifndef MOE_CPU_BLAS_H
#define MOE_CPU_BLAS_H

#include "kernels.h"

/* Bytes that moe_matmul_blas needs as scratch (64-byte aligned) for up to n_tokens tokens. */
size_t moe_blas_scratch_bytes(int64_t n_cols, int64_t n_tokens);

/* moe_kernels.matmul for F32, F16 and BF16 weights by cblas_sgemm of a serial OpenBLAS. */
void moe_matmul_blas(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                     const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                     int64_t ldy, void *scratch);

#endif
