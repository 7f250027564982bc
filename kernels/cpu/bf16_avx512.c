/*
 * Products with BF16_PAIRS weights (AVX-512); the code is bf16_matmul.inl.
 */
#include "bf16_matmul.h"

#include "v16_avx512.h"

#define ISA(name) name##_avx512
#define BLOCK_GROUPS 2
#define BLOCK_TOKENS 6

#include "bf16_matmul.inl"
