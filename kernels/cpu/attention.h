/*
 * The attention operations of moe_kernels, per instruction set.
 */
#ifndef MOE_CPU_ATTENTION_H
#define MOE_CPU_ATTENTION_H

#include "kernels.h"

/* Queries of a call that share a pass over the block; the scratch holds their scores. */
#define MOE_ATTN_CHUNK 64

#define MOE_DECLARE_ATTENTION(isa)                                                                 \
    void moe_kv_store_##isa(const float *k, const float *v, int pos_in_page, int d_k, int d_v,     \
                            bool kv_f32, void *k_page, void *v_page);                              \
    void moe_attn_block_##isa(const float *q, int64_t ldq, int n_queries, float scale,             \
                              const moe_attn_block *kv, const int32_t *n_valid,                    \
                              const int32_t *n_first, float *m, float *l, float *o,                \
                              void *scratch);                                                      \
    void moe_attn_combine_##isa(float *m, float *l, float *o, float m_b, float l_b,                \
                                const float *o_b, int d_v);                                        \
    void moe_attn_text_##isa(const float *q, const float *k, const float *v, int64_t ld, int n,    \
                             int d, float scale, float *o, void *scratch)

MOE_DECLARE_ATTENTION(scalar);
MOE_DECLARE_ATTENTION(avx2);
MOE_DECLARE_ATTENTION(avx512);

#endif
