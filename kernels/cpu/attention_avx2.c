/*
 * Attention (AVX2); the code is attention.inl.
 */
#include "attention.h"

#include <string.h>

#include "v16_avx2.h"

#define ISA(name) name##_avx2

#include "attention.inl"
