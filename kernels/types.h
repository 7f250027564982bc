/*
 * Element types of stored weights.
 *
 * The numbers are those of the GGUF file format, so that a type read from a file needs no
 * translation; types that only safetensors files have start at 256.  A "block" is the smallest
 * group of consecutive columns of one row that is stored together.
 */
#ifndef MOE_KERNELS_TYPES_H
#define MOE_KERNELS_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum moe_type {
    MOE_TYPE_F32 = 0,
    MOE_TYPE_F16 = 1,
    MOE_TYPE_Q4_0 = 2,
    MOE_TYPE_Q4_1 = 3,
    MOE_TYPE_Q5_0 = 6,
    MOE_TYPE_Q5_1 = 7,
    MOE_TYPE_Q8_0 = 8,
    MOE_TYPE_Q4_K = 12,
    MOE_TYPE_Q5_K = 13,
    MOE_TYPE_Q6_K = 14,
    MOE_TYPE_BF16 = 30,
    MOE_TYPE_BF16_PAIRS = 512, /* in no file: BF16 for products with activations in BF16 */
    MOE_TYPE_NONE = -1,
} moe_type;

typedef struct moe_type_info {
    const char *name;    /* as people write it: "Q4_K" */
    int block_columns;   /* columns per block; 1 for unquantised types */
    int block_bytes;     /* bytes per block as stored in files */
    bool computable;     /* the CPU kernels multiply with it */
} moe_type_info;

/* What is known about a type number of a GGUF file; NULL for a number nobody has assigned.
 * Known types that the kernels can't compute with (IQ4_XS, MXFP4, …) have computable = false. */
const moe_type_info *moe_type_info_of(int type);

/* Bytes of one stored row of n_cols columns; n_cols must be a multiple of the type's block. */
static inline size_t moe_type_row_bytes(const moe_type_info *info, int64_t n_cols)
{
    return (size_t)(n_cols / info->block_columns) * (size_t)info->block_bytes;
}

#endif
