/*
 * Private to kernels/cpu: moe_kernels.pack_group per instruction set.  All write the same bytes, to
 * a group at a multiple of 64 bytes; the scalar one defines them.
 */
#ifndef MOE_CPU_PACK_H
#define MOE_CPU_PACK_H

#include "kernels.h"

#define MOE_PACK_KERNEL(isa)                                                                       \
    void moe_pack_group_##isa(moe_type type, const void *const rows[], int n_rows, int64_t n_cols, \
                              void *dst)

MOE_PACK_KERNEL(scalar);
MOE_PACK_KERNEL(avx2);
MOE_PACK_KERNEL(avx512);

#endif
