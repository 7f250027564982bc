/*
 * Products with F32, F16 and BF16 weights (plain C, the definition); the code is float_matmul.inl.
 */
#include "float_matmul.h"

#include "v16_scalar.h"

#define ISA(name) name##_scalar

#include "float_matmul.inl"
