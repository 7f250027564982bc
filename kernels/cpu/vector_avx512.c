/*
 * Vector operations (AVX-512); the code is vector_ops.inl.
 */
#include "vector.h"

#include "v16_avx512.h"

#define ISA(name) name##_avx512

#include "vector_ops.inl"
