/*
 * What the tests of the CPU kernels share: random numbers with awkward values among them, heap
 * arrays of exact size (so that a sanitizer sees any access outside), and bytewise comparison.
 */
#ifndef MOE_KERNEL_TESTING_H
#define MOE_KERNEL_TESTING_H

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/kernels.h"

static inline uint32_t random_bits(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* lowest..highest */
static inline int random_int(uint64_t *state, int lowest, int highest)
{
    return lowest + (int)(random_bits(state) % (uint32_t)(highest - lowest + 1));
}

static inline float random_float(uint64_t *state, float magnitude)
{
    return magnitude * ((float)(int32_t)(random_bits(state) % 2000001 - 1000000u) * 1e-6f);
}

static inline void *new_array(size_t n, size_t size)
{
    void *p = calloc(n > 0 ? n : 1, size);
    assert_non_null(p);
    return p;
}

static inline float *new_floats(int64_t n)
{
    return new_array((size_t)n, sizeof(float));
}

enum { PLAIN, ZEROS, DENORMALS, OUTLIERS, N_FLAVOURS };

/* Fills p with n floats of a flavour; all are finite and representable in f16 but for rounding. */
static inline void fill(uint64_t *state, float *p, int64_t n, int flavour)
{
    for (int64_t i = 0; i < n; i++) {
        p[i] = random_float(state, 2.0f);
        if (flavour == ZEROS && random_bits(state) % 2)
            p[i] = random_bits(state) % 2 ? 0.0f : -0.0f;
        if (flavour == DENORMALS && random_bits(state) % 2)
            p[i] *= random_bits(state) % 2 ? 0x1p-126f : 0x1p-24f;
        if (flavour == OUTLIERS && random_bits(state) % 32 == 0)
            p[i] = random_bits(state) % 2 ? 65504.0f : -65504.0f;
    }
}

#define N_TABLES (MOE_ISA_AMX + 1)

/* The tables of the instruction sets that this machine has. */
static inline int tables_present(const moe_kernels *tables[N_TABLES])
{
    int n = 0;
    for (int isa = MOE_ISA_SCALAR; isa <= MOE_ISA_AMX; isa++) {
        const moe_kernels *table = moe_cpu_kernels((moe_isa)isa);
        if (table != NULL)
            tables[n++] = table;
    }
    return n;
}

/* Fails unless the arrays have the same bytes; says where not. */
static inline void same_floats(const float *expected, const float *got, int64_t n, const char *what,
                               const char *isa)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t e, g;
        memcpy(&e, &expected[i], sizeof e);
        memcpy(&g, &got[i], sizeof g);
        if (e != g)
            fail_msg("%s of %s: element %lld of %lld is %a, expected %a", what, isa, (long long)i,
                     (long long)n, got[i], expected[i]);
    }
}

/* The rules for sums along a vector, written down a second time. */
static inline float lane_sum(float lane[16])
{
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; i++)
            lane[i] += lane[i + step];
    return lane[0];
}

#endif
