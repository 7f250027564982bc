/*
 * Vector operations (plain C, the definition); the code is vector_ops.inl.
 */
#include "vector.h"

#include "v16_scalar.h"

#define ISA(name) name##_scalar

#include "vector_ops.inl"
