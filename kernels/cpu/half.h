/*
 * Half-precision conversions, inline: IEEE binary16 and bfloat16 to and from float32.
 *
 * Widening is exact.  Narrowing to binary16 rounds to nearest even; NaNs become quiet and keep the
 * upper bits of their payload, as the F16C instructions do, so that all instruction sets agree.
 * Narrowing to bfloat16 is the one that products of activations in BF16 are defined with.
 */
#ifndef MOE_CPU_HALF_H
#define MOE_CPU_HALF_H

#include <stdint.h>
#include <string.h>

static inline float moe_bits_to_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t moe_float_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float moe_widen_bf16(uint16_t h)
{
    return moe_bits_to_float((uint32_t)h << 16);
}

static inline float moe_widen_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t magnitude = h & 0x7fff;

    if (magnitude >= 0x7c00) { /* infinity or NaN */
        uint32_t quiet = magnitude > 0x7c00 ? 0x400000 : 0;
        return moe_bits_to_float(sign | 0x7f800000 | quiet | (magnitude & 0x3ff) << 13);
    }
    if (magnitude < 0x400) { /* zero or denormal: an integer multiple of 2^-24 */
        float f = (float)magnitude * 0x1p-24f;
        return moe_bits_to_float(sign | moe_float_to_bits(f));
    }
    return moe_bits_to_float(sign | ((magnitude << 13) + ((127 - 15) << 23)));
}

static inline uint16_t moe_narrow_f16(float f)
{
    uint32_t bits = moe_float_to_bits(f);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    uint32_t magnitude = bits & 0x7fffffff;

    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) /* 65520, which rounds to 2^16, and above */
        return sign | 0x7c00;
    if (magnitude < 0x38800000) {
        /* Below 2^-14: adding 0.5 leaves a multiple of 2^-24, rounded to nearest even, at the
         * lower end of the mantissa. */
        float sum = moe_bits_to_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (moe_float_to_bits(sum) - 0x3f000000));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | ((magnitude - ((127 - 15) << 23) + 0xfff + odd) >> 13));
}

/* To nearest even; +0 below 2^-56, so that no sum of products can be denormal (NUMERICS.md). */
static inline uint16_t moe_narrow_bf16(float f)
{
    uint32_t bits = moe_float_to_bits(f);
    uint32_t magnitude = bits & 0x7fffffff;

    if (magnitude < 0x23800000)
        return 0;
    if (magnitude > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif
