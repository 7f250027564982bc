/*
 * Products with BF16_PAIRS weights (AVX2); the code is bf16_matmul.inl.
 */
#include "bf16_matmul.h"

#include "v16_avx2.h"

#define ISA(name) name##_avx2
#define BLOCK_GROUPS 1
#define BLOCK_TOKENS 3

#include "bf16_matmul.inl"
