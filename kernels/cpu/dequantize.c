/*
 * From stored weights to float32.
 *
 * A quantised block is first opened into codes and scales (moe_quant_block), then each weight is
 * computed by the formula of its type, with the same roundings in the same order as the reference
 * of the GGUF types, so that the result is the same to the bit.  pack.c opens blocks by the same
 * function and turns packed ones back into values by the same formula.
 */
#include <string.h>

#include "quant.h"

static uint16_t read_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t read_u32(const uint8_t *p)
{
    return (uint32_t)read_u16(p) | (uint32_t)read_u16(p + 2) << 16;
}

/* 16 bytes of 4-bit codes: columns 0-15 in the low halves, 16-31 in the high halves. */
static void read_nibbles(const uint8_t *src, uint8_t *q)
{
    for (int i = 0; i < 16; i++) {
        q[i] = src[i] & 15;
        q[i + 16] = src[i] >> 4;
    }
}

/* The fifth bits of 32 columns, column i at bit i. */
static void read_fifth_bits(const uint8_t *src, uint8_t *q)
{
    uint32_t bits = read_u32(src);

    for (int i = 0; i < 32; i++)
        q[i] |= (uint8_t)((bits >> i & 1) << 4);
}

/* The 12 bytes of Q4_K and Q5_K with eight scales and eight minima of six bits. */
static void read_scales_and_minima(const uint8_t *src, int8_t sc[8], uint8_t mn[8])
{
    for (int j = 0; j < 4; j++) {
        sc[j] = (int8_t)(src[j] & 63);
        mn[j] = src[j + 4] & 63;
        sc[j + 4] = (int8_t)((src[j + 8] & 15) | (src[j] >> 6) << 4);
        mn[j + 4] = (uint8_t)((src[j + 8] >> 4) | (src[j + 4] >> 6) << 4);
    }
}

/* Q4_K, and the low four bits of Q5_K: 32 bytes hold 64 columns, 0-31 in the low halves. */
static void read_nibbles_of_super(const uint8_t *restrict src, uint8_t *restrict q)
{
    for (int c = 0; c < 4; c++) {
        for (int i = 0; i < 32; i++) {
            q[64 * c + i] = src[32 * c + i] & 15;
            q[64 * c + 32 + i] = src[32 * c + i] >> 4;
        }
    }
}

/* The fifth bits of Q5_K: bit j of byte i belongs to column 32 * j + i. */
static void read_fifth_bits_of_super(const uint8_t *restrict src, uint8_t *restrict q)
{
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++)
            q[32 * j + i] |= (uint8_t)((src[i] >> j & 1) << 4);
}

/* Q6_K: per 128 columns 64 bytes with low halves (columns 0-63, then 64-127 in the high halves)
 * and 32 bytes with pairs of bits for columns c, c + 32, c + 64, c + 96. */
static void read_codes_q6_k(const uint8_t *restrict low, const uint8_t *restrict high,
                            uint8_t *restrict q)
{
    for (int half = 0; half < 2; half++, low += 64, high += 32, q += 128) {
        for (int i = 0; i < 32; i++) {
            q[i] = (uint8_t)((low[i] & 15) | (high[i] & 3) << 4);
            q[i + 32] = (uint8_t)((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4);
            q[i + 64] = (uint8_t)(low[i] >> 4 | (high[i] >> 4 & 3) << 4);
            q[i + 96] = (uint8_t)(low[i + 32] >> 4 | high[i] >> 6 << 4);
        }
    }
}

void moe_quant_read_stored(moe_type type, const uint8_t *src, moe_quant_block *block)
{
    switch (type) {
    case MOE_TYPE_Q8_0:
        block->d = read_u16(src);
        for (int i = 0; i < 32; i++)
            block->q[i] = src[2 + i] ^ 0x80;
        break;
    case MOE_TYPE_Q4_0:
        block->d = read_u16(src);
        read_nibbles(src + 2, block->q);
        break;
    case MOE_TYPE_Q4_1:
        block->d = read_u16(src);
        block->m = read_u16(src + 2);
        read_nibbles(src + 4, block->q);
        break;
    case MOE_TYPE_Q5_0:
        block->d = read_u16(src);
        read_nibbles(src + 6, block->q);
        read_fifth_bits(src + 2, block->q);
        break;
    case MOE_TYPE_Q5_1:
        block->d = read_u16(src);
        block->m = read_u16(src + 2);
        read_nibbles(src + 8, block->q);
        read_fifth_bits(src + 4, block->q);
        break;
    case MOE_TYPE_Q4_K:
        block->d = read_u16(src);
        block->m = read_u16(src + 2);
        read_scales_and_minima(src + 4, block->sc, block->mn);
        read_nibbles_of_super(src + 16, block->q);
        break;
    case MOE_TYPE_Q5_K:
        block->d = read_u16(src);
        block->m = read_u16(src + 2);
        read_scales_and_minima(src + 4, block->sc, block->mn);
        read_nibbles_of_super(src + 48, block->q);
        read_fifth_bits_of_super(src + 16, block->q);
        break;
    case MOE_TYPE_Q6_K:
        read_codes_q6_k(src, src + 128, block->q);
        memcpy(block->sc, src + 192, 16);
        block->d = read_u16(src + 208);
        break;
    default:
        break;
    }
}

void moe_quant_values(moe_type type, const moe_quant_block *block, float *dst)
{
    moe_quant_form form = moe_quant_form_of(type);
    float d = moe_f16_to_f32(block->d);
    float m = form.has_min ? moe_f16_to_f32(block->m) : 0.0f;

    for (int i = 0; i < form.columns; i++) {
        float q = (float)(block->q[i] - form.bias);

        if (type == MOE_TYPE_Q6_K)
            dst[i] = d * (float)block->sc[i / 16] * q;
        else if (form.columns == MOE_QUANT_SUPER)
            dst[i] = d * (float)block->sc[i / 32] * q - m * (float)block->mn[i / 32];
        else if (form.has_min)
            dst[i] = d * q + m;
        else
            dst[i] = d * q;
    }
}

void moe_dequantize(moe_type type, const void *src, int64_t n_cols, float *dst)
{
    moe_quant_form form = moe_quant_form_of(type);
    const uint8_t *bytes = src;
    moe_quant_block block;

    switch (type) {
    case MOE_TYPE_F32:
        memcpy(dst, src, (size_t)n_cols * sizeof(float));
        return;
    case MOE_TYPE_F16:
        for (int64_t i = 0; i < n_cols; i++)
            dst[i] = moe_f16_to_f32(read_u16(bytes + 2 * i));
        return;
    case MOE_TYPE_BF16:
        for (int64_t i = 0; i < n_cols; i++) {
            uint32_t bits = (uint32_t)read_u16(bytes + 2 * i) << 16;

            memcpy(&dst[i], &bits, sizeof bits);
        }
        return;
    default:
        break;
    }
    if (form.columns == 0)
        return;
    for (int64_t b = 0; b < n_cols / form.columns; b++) {
        moe_quant_read_stored(type, bytes + b * form.bytes, &block);
        moe_quant_values(type, &block, dst + b * form.columns);
    }
}
