/*
 * Attention (plain C, the definition); the code is attention.inl.
 */
#include "attention.h"

#include <string.h>

#include "v16_scalar.h"

#define ISA(name) name##_scalar

#include "attention.inl"

size_t moe_attn_scratch_bytes(int d_k, int d_v, int n_queries)
{
    size_t queries = (size_t)(n_queries < MOE_ATTN_CHUNK ? n_queries : MOE_ATTN_CHUNK);
    size_t width = ((size_t)d_v + 15) / 16 * 16;
    return MOE_ATTN_BLOCK * (queries + (size_t)d_k + width) * sizeof(float);
}

size_t moe_attn_text_scratch_bytes(int n, int d)
{
    size_t slabs = ((size_t)n + 15) / 16 * 16 * (size_t)d;
    return (slabs + MOE_ATTN_CHUNK * (MOE_ATTN_BLOCK + 2 * (size_t)d)) * sizeof(float);
}
