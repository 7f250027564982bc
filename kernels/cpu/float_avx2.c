/*
 * Products with F32, F16 and BF16 weights (AVX2); the code is float_matmul.inl.
 */
#include "float_matmul.h"

#include "v16_avx2.h"

#define ISA(name) name##_avx2

#include "float_matmul.inl"
