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
