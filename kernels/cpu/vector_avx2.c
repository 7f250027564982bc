/*
 * Vector operations (AVX2); the code is vector_ops.inl.
 */
#include "vector.h"

#include "v16_avx2.h"

#define ISA(name) name##_avx2

#include "vector_ops.inl"
