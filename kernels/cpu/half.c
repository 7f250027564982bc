/*
 * The exact half-precision conversions of the public kernel interface.
 */
#include "kernels.h"

#include "half.h"

float moe_f16_to_f32(uint16_t h)
{
    return moe_widen_f16(h);
}

uint16_t moe_f32_to_f16(float f)
{
    return moe_narrow_f16(f);
}

uint16_t moe_f32_to_bf16(float f)
{
    return moe_narrow_bf16(f);
}
