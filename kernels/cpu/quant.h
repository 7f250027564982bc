/*
 * Private to kernels/cpu: the quantised weight types, their packed layout and their kernels.
 *
 * Every type is a sequence of blocks of 32 or 256 columns.  A weight is
 *
 *     Q8_0, Q4_0, Q5_0   d * (q - bias)             bias 128, 8, 16   (32 columns)
 *     Q4_1, Q5_1         d * q + m                                    (32 columns)
 *     Q4_K, Q5_K         d * sc[j] * q - m * mn[j]  j = column / 32   (256 columns)
 *     Q6_K               d * sc[j] * (q - 32)       j = column / 16   (256 columns)
 *
 * with an unsigned code q of 4, 5, 6 or 8 bits (the signed bytes of Q8_0 are kept as q + 128), d
 * and m stored as f16, sc and mn of six bits, in Q6_K sc of eight bits with a sign.
 *
 * Packed layout of a block, for the 16 rows (lanes) of a group.  The codes come in units of 32
 * columns.  A unit stands for eight vectors of 64 bytes; byte 4 * lane + i of vector v is the
 * code of column 4v + i of the row `lane`: what a dot product of four bytes per 32-bit lane takes.
 *
 *     8 bits   the eight vectors as they are                                            512 bytes
 *     6 bits   per half (vectors 0-3, 4-7) three vectors: vectors 0, 1, 2 in the low six bits,
 *              vector 3 in the top pairs of bits, lowest pair first                     384 bytes
 *     5 bits   as 4 bits, then one vector whose byte 4 * lane + i has the fifth bit of vector v
 *              at bit v                                                                 320 bytes
 *     4 bits   four vectors: vector v in the low, vector v + 4 in the high halves       256 bytes
 *
 * The body of a block is the scales, if the type has sub-blocks, and then its units:
 *
 *     Q4_K, Q5_K   three vectors that hold sc[0-3], sc[4-7], mn[0-3], mn[4-7] (a byte each, four
 *                  to a lane) in the form of 6-bit codes                                192 bytes
 *     Q6_K         four vectors, byte 4 * lane + i of vector v is sc[4v + i]            256 bytes
 *
 * In front of the body stands a head of 64 bytes: 16 f16 for d and 16 for m.  Types without m
 * share a head between two blocks: the d of the even block, the d of the odd one, both bodies.
 * So a packed matrix has as many bytes as the file, but for rows with an odd number of blocks.
 */
#ifndef MOE_CPU_QUANT_H
#define MOE_CPU_QUANT_H

#include "kernels.h"

#define MOE_QUANT_UNIT 32   /* columns per unit of codes */
#define MOE_QUANT_VECTOR 64 /* bytes: 16 rows, four columns */
#define MOE_QUANT_SUPER 256 /* columns per block of the types with sub-blocks */

_Static_assert(4 * MOE_GROUP_ROWS == MOE_QUANT_VECTOR, "a vector holds four bytes of every row");

/* What distinguishes a type. */
typedef struct moe_quant_form {
    int columns;  /* per block: 32 or 256; 0 for a type that is not one of these */
    int bits;     /* per code: 4, 5, 6 or 8 */
    int bias;     /* subtracted from a code */
    bool has_min; /* m, and mn where there are sub-blocks */
    int bytes;    /* of a block in a file */
} moe_quant_form;

static inline moe_quant_form moe_quant_form_of(moe_type type)
{
    switch (type) {
    case MOE_TYPE_Q8_0:
        return (moe_quant_form){32, 8, 128, false, 34};
    case MOE_TYPE_Q4_0:
        return (moe_quant_form){32, 4, 8, false, 18};
    case MOE_TYPE_Q4_1:
        return (moe_quant_form){32, 4, 0, true, 20};
    case MOE_TYPE_Q5_0:
        return (moe_quant_form){32, 5, 16, false, 22};
    case MOE_TYPE_Q5_1:
        return (moe_quant_form){32, 5, 0, true, 24};
    case MOE_TYPE_Q4_K:
        return (moe_quant_form){256, 4, 0, true, 144};
    case MOE_TYPE_Q5_K:
        return (moe_quant_form){256, 5, 0, true, 176};
    case MOE_TYPE_Q6_K:
        return (moe_quant_form){256, 6, 32, false, 210};
    default:
        return (moe_quant_form){0};
    }
}

/* One case of a switch for every type. */
#define MOE_QUANT_CASES(CASE)                                                                      \
    CASE(MOE_TYPE_Q8_0);                                                                           \
    CASE(MOE_TYPE_Q4_0);                                                                           \
    CASE(MOE_TYPE_Q4_1);                                                                           \
    CASE(MOE_TYPE_Q5_0);                                                                           \
    CASE(MOE_TYPE_Q5_1);                                                                           \
    CASE(MOE_TYPE_Q4_K);                                                                           \
    CASE(MOE_TYPE_Q5_K);                                                                           \
    CASE(MOE_TYPE_Q6_K)

/* Bytes of 32 columns of codes of a group. */
static inline size_t moe_quant_unit_bytes(moe_quant_form form)
{
    return (size_t)form.bits * MOE_QUANT_VECTOR;
}

/* Bytes of the sub-block scales of a group's block. */
static inline size_t moe_quant_scale_bytes(moe_quant_form form)
{
    return form.columns == 32 ? 0 : form.has_min ? 3 * MOE_QUANT_VECTOR : 4 * MOE_QUANT_VECTOR;
}

/* Bytes of a block's body: scales and units. */
static inline size_t moe_quant_body_bytes(moe_quant_form form)
{
    return moe_quant_scale_bytes(form) +
           (size_t)(form.columns / MOE_QUANT_UNIT) * moe_quant_unit_bytes(form);
}

/* The activations of a type's form. */
static inline const moe_act_planes *moe_quant_planes(moe_quant_form form, const moe_activations *x)
{
    return form.columns == 32 ? &x->b32 : &x->b256;
}

/* What the largest activation of a block becomes.  2047 keeps the sum of a super-block, scales
 * included, in an int32: 32 * 128 * 2047 * 256 < 2^31. */
static inline float moe_quant_top(int columns, bool bytes)
{
    return bytes ? 127.0f : columns == 32 ? 16256.0f : 2047.0f;
}

/* Offset in a group of the 16 d of block b; for types with m, the 16 m follow them. */
static inline size_t moe_quant_head(moe_quant_form form, int64_t b)
{
    size_t body = moe_quant_body_bytes(form);

    if (form.has_min)
        return (size_t)b * (MOE_QUANT_VECTOR + body);
    return (size_t)(b / 2) * (MOE_QUANT_VECTOR + 2 * body) + (size_t)(b % 2) * 32;
}

/* Offset in a group of the body of block b. */
static inline size_t moe_quant_body(moe_quant_form form, int64_t b)
{
    size_t body = moe_quant_body_bytes(form);

    if (form.has_min)
        return (size_t)b * (MOE_QUANT_VECTOR + body) + MOE_QUANT_VECTOR;
    return (size_t)(b / 2) * (MOE_QUANT_VECTOR + 2 * body) + MOE_QUANT_VECTOR +
           (size_t)(b % 2) * body;
}

/* One block of one row, opened up. */
typedef struct moe_quant_block {
    uint16_t d, m;              /* f16; m only if the type has minima */
    int8_t sc[16];              /* only types with sub-blocks: 8, or 16 for Q6_K */
    uint8_t mn[8];              /* only Q4_K, Q5_K */
    uint8_t q[MOE_QUANT_SUPER]; /* codes in column order */
} moe_quant_block;

/* Opens a block as stored in a file (dequantize.c) or block b of one lane of a packed group
 * (pack.c). */
void moe_quant_read_stored(moe_type type, const uint8_t *src, moe_quant_block *block);
void moe_quant_read_packed(moe_type type, const uint8_t *group, int lane, int64_t b,
                           moe_quant_block *block);

/* The weights of an opened block, 32 or 256 of them. */
void moe_quant_values(moe_type type, const moe_quant_block *block, float *dst);

/* The functions of the table moe_kernels for these types, per instruction set.  The arguments are
 * those of moe_kernels.matmul, quantize_32 and quantize_256. */
#define MOE_QUANT_KERNELS(isa)                                                                     \
    void moe_matmul_quant_##isa(const moe_matrix *w, int64_t group_begin, int64_t group_end,       \
                                const moe_activations *x, const int32_t *rows, int64_t n_tokens,   \
                                float *y, int64_t ldy);                                            \
    void moe_quantize_32_##isa(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,   \
                               int32_t *sums);                                                     \
    void moe_quantize_256_##isa(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,  \
                                int32_t *sums)

MOE_QUANT_KERNELS(scalar);
MOE_QUANT_KERNELS(avx2);
MOE_QUANT_KERNELS(avx512);

/* For AVX-512: many tokens with 8 bits, and weights without minima in blocks of 32 columns. */
void moe_matmul_bytes_avx512(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                             const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                             float *y, int64_t ldy);

/* Products of the types with blocks of 256 columns by themselves; AMX has products only. */
void moe_matmul_super_avx512(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                             const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                             float *y, int64_t ldy);
void moe_matmul_quant_amx(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                          const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                          int64_t ldy);
void moe_matmul_super_amx(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                          const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                          int64_t ldy);

#endif
