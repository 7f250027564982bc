/*
 * Products with BF16_PAIRS weights (plain C, the definition); the code is bf16_matmul.inl.
 */
#include "bf16_matmul.h"

#include "v16_scalar.h"

#define ISA(name) name##_scalar
#define BLOCK_GROUPS 1
#define BLOCK_TOKENS 2

#include "bf16_matmul.inl"
