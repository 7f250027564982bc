/*
 * Packing: from rows as stored in a file to groups of 16 rows in the order in which the kernels
 * read them, and back.
 *
 * F32, F16 and BF16: for each column 16 consecutive elements, one per row, as stored; a group is
 * filled up to a multiple of 64 bytes.  BF16_PAIRS: for each two columns 16 pairs, one per row, as
 * AMX takes them; columns are filled up to a multiple of 32.  Quantised types: quant.h has the
 * layout.  A row that does not exist is packed as zeros, which gives the result zero.
 */
#include <string.h>

#include "pack.h"
#include "quant.h"

static int element_bytes(moe_type type)
{
    switch (type) {
    case MOE_TYPE_F32:
        return 4;
    case MOE_TYPE_F16:
    case MOE_TYPE_BF16:
    case MOE_TYPE_BF16_PAIRS:
        return 2;
    default:
        return 0;
    }
}

moe_act_form moe_act_form_of(moe_type type)
{
    if (type == MOE_TYPE_BF16_PAIRS)
        return MOE_ACT_BF16;
    switch (moe_quant_form_of(type).columns) {
    case 32:
        return MOE_ACT_Q15_32;
    case MOE_QUANT_SUPER:
        return MOE_ACT_Q12_256;
    default:
        return MOE_ACT_F32;
    }
}

size_t moe_packed_group_bytes(moe_type type, int64_t n_cols)
{
    moe_quant_form form = moe_quant_form_of(type);
    size_t elements = (size_t)n_cols * MOE_GROUP_ROWS * (size_t)element_bytes(type);
    size_t n_blocks;

    if (type == MOE_TYPE_BF16_PAIRS)
        return (size_t)moe_bf16_columns(n_cols) * MOE_GROUP_ROWS * 2;
    if (form.columns == 0)
        return (elements + 63) / 64 * 64;
    n_blocks = (size_t)(n_cols / form.columns);
    return (form.has_min ? n_blocks : (n_blocks + 1) / 2) * MOE_QUANT_VECTOR +
           n_blocks * moe_quant_body_bytes(form);
}

size_t moe_packed_bytes(moe_type type, int64_t n_rows, int64_t n_cols)
{
    return (size_t)((n_rows + MOE_GROUP_ROWS - 1) / MOE_GROUP_ROWS) *
           moe_packed_group_bytes(type, n_cols);
}

/* The words below are four bytes of one lane: four columns, or four scales.  A vector of a group
 * has the words of its 16 lanes side by side: a lane's next word is MOE_QUANT_VECTOR bytes on. */
static uint32_t get_word(const uint8_t *p, int v)
{
    uint32_t word;

    memcpy(&word, p + v * MOE_QUANT_VECTOR, sizeof word);
    return word;
}

static void put_word(uint8_t *p, int v, uint32_t word)
{
    memcpy(p + v * MOE_QUANT_VECTOR, &word, sizeof word);
}

/* Four words of six bits a byte in three: the fourth is in the top pairs, lowest pair first. */
static void put_six_bits(uint8_t *p, const uint32_t w[4])
{
    for (int v = 0; v < 3; v++)
        put_word(p, v, w[v] | (w[3] >> 2 * v & 0x03030303) << 6);
}

static void get_six_bits(const uint8_t *p, uint32_t w[4])
{
    w[3] = 0;
    for (int v = 0; v < 3; v++) {
        w[v] = get_word(p, v) & 0x3f3f3f3f;
        w[3] |= (get_word(p, v) >> 6 & 0x03030303) << 2 * v;
    }
}

/* One row's 32 codes into a unit; p points to the row's first word. */
static void put_unit(int bits, const uint8_t q[32], uint8_t *p)
{
    uint32_t w[8], fifth = 0;

    memcpy(w, q, sizeof w);
    if (bits == 8) {
        for (int v = 0; v < 8; v++)
            put_word(p, v, w[v]);
    } else if (bits == 6) {
        put_six_bits(p, w);
        put_six_bits(p + 3 * MOE_QUANT_VECTOR, w + 4);
    } else {
        for (int v = 0; v < 4; v++)
            put_word(p, v, (w[v] & 0x0f0f0f0f) | (w[v + 4] & 0x0f0f0f0f) << 4);
    }
    if (bits == 5) {
        for (int v = 0; v < 8; v++)
            fifth |= (w[v] >> 4 & 0x01010101) << v;
        put_word(p, 4, fifth);
    }
}

static void get_unit(int bits, const uint8_t *p, uint8_t q[32])
{
    uint32_t w[8];

    if (bits == 8) {
        for (int v = 0; v < 8; v++)
            w[v] = get_word(p, v);
    } else if (bits == 6) {
        get_six_bits(p, w);
        get_six_bits(p + 3 * MOE_QUANT_VECTOR, w + 4);
    } else {
        for (int v = 0; v < 8; v++)
            w[v] = get_word(p, v % 4) >> (v / 4 * 4) & 0x0f0f0f0f;
    }
    if (bits == 5)
        for (int v = 0; v < 8; v++)
            w[v] |= (get_word(p, 4) >> v & 0x01010101) << 4;
    memcpy(q, w, sizeof w);
}

/* One opened block into lane `lane` of block b of a group. */
static void write_packed(moe_type type, const moe_quant_block *block, int lane, int64_t b,
                         uint8_t *group)
{
    moe_quant_form form = moe_quant_form_of(type);
    uint8_t *head = group + moe_quant_head(form, b);
    uint8_t *p = group + moe_quant_body(form, b) + 4 * lane;
    uint32_t w[4];

    memcpy(head + 2 * lane, &block->d, 2);
    if (form.has_min)
        memcpy(head + 32 + 2 * lane, &block->m, 2);
    if (type == MOE_TYPE_Q6_K) {
        memcpy(w, block->sc, 16);
        for (int v = 0; v < 4; v++)
            put_word(p, v, w[v]);
    } else if (form.columns == MOE_QUANT_SUPER) {
        memcpy(w, block->sc, 8);
        memcpy(w + 2, block->mn, 8);
        put_six_bits(p, w);
    }
    p += moe_quant_scale_bytes(form);
    for (int u = 0; u < form.columns / MOE_QUANT_UNIT; u++)
        put_unit(form.bits, block->q + MOE_QUANT_UNIT * u,
                 p + (size_t)u * moe_quant_unit_bytes(form));
}

void moe_quant_read_packed(moe_type type, const uint8_t *group, int lane, int64_t b,
                           moe_quant_block *block)
{
    moe_quant_form form = moe_quant_form_of(type);
    const uint8_t *head = group + moe_quant_head(form, b);
    const uint8_t *p = group + moe_quant_body(form, b) + 4 * lane;
    uint32_t w[4];

    memcpy(&block->d, head + 2 * lane, 2);
    if (form.has_min)
        memcpy(&block->m, head + 32 + 2 * lane, 2);
    if (type == MOE_TYPE_Q6_K) {
        for (int v = 0; v < 4; v++)
            w[v] = get_word(p, v);
        memcpy(block->sc, w, 16);
    } else if (form.columns == MOE_QUANT_SUPER) {
        get_six_bits(p, w);
        memcpy(block->sc, w, 8);
        memcpy(block->mn, w + 2, 8);
    }
    p += moe_quant_scale_bytes(form);
    for (int u = 0; u < form.columns / MOE_QUANT_UNIT; u++)
        get_unit(form.bits, p + (size_t)u * moe_quant_unit_bytes(form),
                 block->q + MOE_QUANT_UNIT * u);
}

/* Where element (row lane, column k) of a group of BF16_PAIRS lies. */
static size_t bf16_pair_offset(int64_t k, int64_t lane)
{
    return (size_t)((k / 2 * MOE_GROUP_ROWS + lane) * 4 + k % 2 * 2);
}

/* Inlined, so that the copies are of a constant size. */
static inline void pack_elements(const size_t size, const void *const rows[], int n_rows,
                                 int64_t n_cols, uint8_t *out)
{
    for (int64_t k = 0; k < n_cols; k++)
        for (int64_t lane = 0; lane < n_rows; lane++)
            memcpy(out + (size_t)(k * MOE_GROUP_ROWS + lane) * size,
                   (const uint8_t *)rows[lane] + (size_t)k * size, size);
}

void moe_pack_group_scalar(moe_type type, const void *const rows[], int n_rows, int64_t n_cols,
                           void *dst)
{
    moe_quant_form form = moe_quant_form_of(type);
    size_t size = (size_t)element_bytes(type);
    uint8_t *out = dst;
    moe_quant_block block;

    memset(dst, 0, moe_packed_group_bytes(type, n_cols));
    if (type == MOE_TYPE_BF16_PAIRS) {
        for (int64_t k = 0; k < n_cols; k++)
            for (int64_t lane = 0; lane < n_rows; lane++)
                memcpy(out + bf16_pair_offset(k, lane), (const uint8_t *)rows[lane] + 2 * k, 2);
        return;
    }
    if (form.columns == 0) {
        if (size == 4)
            pack_elements(4, rows, n_rows, n_cols, out);
        else if (size == 2)
            pack_elements(2, rows, n_rows, n_cols, out);
        return;
    }
    for (int64_t b = 0; b < n_cols / form.columns; b++) {
        for (int lane = 0; lane < n_rows; lane++) {
            moe_quant_read_stored(type, (const uint8_t *)rows[lane] + b * form.bytes, &block);
            write_packed(type, &block, lane, b, out);
        }
    }
}

void moe_unpack_row(const moe_matrix *w, int64_t row, float *dst)
{
    moe_quant_form form = moe_quant_form_of(w->type);
    size_t size = (size_t)element_bytes(w->type);
    int lane = (int)(row % MOE_GROUP_ROWS);
    const uint8_t *group =
        (const uint8_t *)w->packed +
        (size_t)(row / MOE_GROUP_ROWS) * moe_packed_group_bytes(w->type, w->n_cols);
    moe_quant_block block;

    if (w->type == MOE_TYPE_F32) {
        for (int64_t k = 0; k < w->n_cols; k++)
            memcpy(dst + k, group + (k * MOE_GROUP_ROWS + lane) * 4, 4);
        return;
    }
    if (w->type == MOE_TYPE_BF16_PAIRS) {
        for (int64_t k = 0; k < w->n_cols; k++)
            moe_dequantize(MOE_TYPE_BF16, group + bf16_pair_offset(k, lane), 1, dst + k);
        return;
    }
    if (form.columns == 0) {
        for (size_t k = 0; k < (size_t)w->n_cols; k++)
            moe_dequantize(w->type, group + (k * MOE_GROUP_ROWS + (size_t)lane) * size, 1, dst + k);
        return;
    }
    for (int64_t b = 0; b < w->n_cols / form.columns; b++) {
        moe_quant_read_packed(w->type, group, lane, b, &block);
        moe_quant_values(w->type, &block, dst + b * form.columns);
    }
}
