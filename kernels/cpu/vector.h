/*
 * The vector operations of moe_kernels, per instruction set.
 */
#ifndef MOE_CPU_VECTOR_H
#define MOE_CPU_VECTOR_H

#include "kernels.h"

#define MOE_DECLARE_VECTOR(isa)                                                                    \
    float moe_dot_##isa(const float *a, const float *b, int64_t n);                                \
    float moe_sum_##isa(const float *a, int64_t n);                                                \
    float moe_max_##isa(const float *a, int64_t n);                                                \
    void moe_rms_norm_##isa(const float *x, const float *weight, float eps, int64_t n, float *y);  \
    void moe_layer_norm_##isa(const float *x, const float *weight, const float *bias, float eps,   \
                              int64_t n, float *y);                                                \
    void moe_add_##isa(const float *a, const float *b, int64_t n, float *y);                       \
    void moe_add_scaled_##isa(const float *x, float w, int64_t n, float *y);                       \
    void moe_scale_##isa(const float *x, float w, int64_t n, float *y);                            \
    void moe_silu_mul_##isa(const float *gate, const float *up, int64_t n, float *y);              \
    void moe_gelu_mul_##isa(const float *gate, const float *up, int64_t n, float *y);              \
    void moe_gelu_erf_##isa(const float *x, int64_t n, float *y);                                  \
    void moe_gelu_tanh_##isa(const float *x, int64_t n, float *y);                                 \
    void moe_exp_##isa(const float *x, int64_t n, float *y);                                       \
    void moe_sigmoid_##isa(const float *x, int64_t n, float *y);                                   \
    void moe_softmax_##isa(const float *x, int64_t n, float *y);                                   \
    float moe_exp_sum_##isa(const float *x, int64_t n, float *m);                                  \
    void moe_rope_##isa(float *x, int64_t n_heads, int64_t d, int64_t n_rot, const float *cos,     \
                        const float *sin, bool interleaved)

MOE_DECLARE_VECTOR(scalar);
MOE_DECLARE_VECTOR(avx2);
MOE_DECLARE_VECTOR(avx512);

#endif
