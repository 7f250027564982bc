/*
 * Products with F32, F16 and BF16 weights (AVX-512); the code is float_matmul.inl.
 */
#include "float_matmul.h"

#include "v16_avx512.h"

#define ISA(name) name##_avx512

#include "float_matmul.inl"
