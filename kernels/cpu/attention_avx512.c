/*
 * Attention (AVX-512); the code is attention.inl.
 */
#include "attention.h"

#include <string.h>

#include "v16_avx512.h"

#define ISA(name) name##_avx512

#include "attention.inl"
