/*
 * Packing: from rows as stored in a file to groups of 16 rows in the order in which the kernels
 * read them, and back.
 *
 * F32, F16 and BF16: for each column 16 consecutive elements, one per row, as stored; a group is
 * filled up to a multiple of 64 bytes.  Quantised types: quant.h has the layout.  A row that does
 * not exist is packed as zeros, which gives the result zero.
 */
#include <string.h>

#include "quant.h"

static int element_bytes(moe_type type)
{
    switch (type) {
    case MOE_TYPE_F32:
        return 4;
    case MOE_TYPE_F16:
    case MOE_TYPE_BF16:
        return 2;
    default:
        return 0;
    }
}

moe_act_form moe_act_form_of(moe_type type)
{
    switch (moe_quant_form_of(type).columns) {
    case 32:
        return MOE_ACT_Q8_32;
    case MOE_QUANT_SUPER:
        return MOE_ACT_Q8_256;
    default:
        return MOE_ACT_F32;
    }
}

size_t moe_packed_group_bytes(moe_type type, int64_t n_cols)
{
    moe_quant_form form = moe_quant_form_of(type);
    size_t elements = (size_t)n_cols * MOE_GROUP_ROWS * (size_t)element_bytes(type);
    size_t n_blocks;

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

/* Four bytes of six bits each in four lanes' dwords: w[0-2] take the low six bits of p[0-2], w[3]
 * what is above, lowest pair first.  p[i] is one byte `MOE_QUANT_VECTOR` apart from the next. */
static void put_six_bits(uint8_t *p, const uint8_t w[4])
{
    for (int i = 0; i < 3; i++)
        p[i * MOE_QUANT_VECTOR] = (uint8_t)(w[i] | (w[3] >> 2 * i & 3) << 6);
}

static void get_six_bits(const uint8_t *p, uint8_t w[4])
{
    w[3] = 0;
    for (int i = 0; i < 3; i++) {
        w[i] = p[i * MOE_QUANT_VECTOR] & 63;
        w[3] |= (uint8_t)((p[i * MOE_QUANT_VECTOR] >> 6) << 2 * i);
    }
}

/* One row's 32 codes into a unit; p points to byte 4 * lane of the unit. */
static void put_unit(int bits, const uint8_t q[32], uint8_t *p)
{
    for (int i = 0; i < 4; i++) {
        switch (bits) {
        case 8:
            for (int v = 0; v < 8; v++)
                p[v * MOE_QUANT_VECTOR + i] = q[4 * v + i];
            break;
        case 6:
            for (int half = 0; half < 2; half++) {
                const uint8_t *h = q + 16 * half + i;
                uint8_t w[4] = {h[0], h[4], h[8], h[12]};

                put_six_bits(p + 3 * half * MOE_QUANT_VECTOR + i, w);
            }
            break;
        default:
            for (int v = 0; v < 4; v++)
                p[v * MOE_QUANT_VECTOR + i] =
                    (uint8_t)((q[4 * v + i] & 15) | (q[4 * v + 16 + i] & 15) << 4);
            if (bits == 5) {
                uint8_t fifth = 0;

                for (int v = 0; v < 8; v++)
                    fifth |= (uint8_t)((q[4 * v + i] >> 4) << v);
                p[4 * MOE_QUANT_VECTOR + i] = fifth;
            }
        }
    }
}

static void get_unit(int bits, const uint8_t *p, uint8_t q[32])
{
    for (int i = 0; i < 4; i++) {
        switch (bits) {
        case 8:
            for (int v = 0; v < 8; v++)
                q[4 * v + i] = p[v * MOE_QUANT_VECTOR + i];
            break;
        case 6:
            for (int half = 0; half < 2; half++) {
                uint8_t w[4];

                get_six_bits(p + 3 * half * MOE_QUANT_VECTOR + i, w);
                for (int v = 0; v < 4; v++)
                    q[16 * half + 4 * v + i] = w[v];
            }
            break;
        default:
            for (int v = 0; v < 8; v++) {
                q[4 * v + i] = p[v % 4 * MOE_QUANT_VECTOR + i] >> (v / 4 * 4) & 15;
                if (bits == 5)
                    q[4 * v + i] |= (uint8_t)((p[4 * MOE_QUANT_VECTOR + i] >> v & 1) << 4);
            }
        }
    }
}

/* One opened block into lane `lane` of block b of a group. */
static void write_packed(moe_type type, const moe_quant_block *block, int lane, int64_t b,
                         uint8_t *group)
{
    moe_quant_form form = moe_quant_form_of(type);
    uint8_t *head = group + moe_quant_head(form, b);
    uint8_t *p = group + moe_quant_body(form, b) + 4 * lane;

    memcpy(head + 2 * lane, &block->d, 2);
    if (form.has_min)
        memcpy(head + 32 + 2 * lane, &block->m, 2);
    if (type == MOE_TYPE_Q6_K) {
        for (int j = 0; j < 16; j++)
            p[j / 4 * MOE_QUANT_VECTOR + j % 4] = (uint8_t)block->sc[j];
    } else if (form.columns == MOE_QUANT_SUPER) {
        for (int i = 0; i < 4; i++) {
            uint8_t w[4] = {(uint8_t)block->sc[i], (uint8_t)block->sc[i + 4], block->mn[i],
                            block->mn[i + 4]};

            put_six_bits(p + i, w);
        }
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

    memcpy(&block->d, head + 2 * lane, 2);
    if (form.has_min)
        memcpy(&block->m, head + 32 + 2 * lane, 2);
    if (type == MOE_TYPE_Q6_K) {
        for (int j = 0; j < 16; j++)
            block->sc[j] = (int8_t)p[j / 4 * MOE_QUANT_VECTOR + j % 4];
    } else if (form.columns == MOE_QUANT_SUPER) {
        for (int i = 0; i < 4; i++) {
            uint8_t w[4];

            get_six_bits(p + i, w);
            block->sc[i] = (int8_t)w[0];
            block->sc[i + 4] = (int8_t)w[1];
            block->mn[i] = w[2];
            block->mn[i + 4] = w[3];
        }
    }
    p += moe_quant_scale_bytes(form);
    for (int u = 0; u < form.columns / MOE_QUANT_UNIT; u++)
        get_unit(form.bits, p + (size_t)u * moe_quant_unit_bytes(form),
                 block->q + MOE_QUANT_UNIT * u);
}

void moe_pack_group(moe_type type, const void *const rows[], int n_rows, int64_t n_cols, void *dst)
{
    moe_quant_form form = moe_quant_form_of(type);
    size_t size = (size_t)element_bytes(type);
    uint8_t *out = dst;
    moe_quant_block block;

    memset(dst, 0, moe_packed_group_bytes(type, n_cols));
    for (int lane = 0; lane < n_rows; lane++) {
        const uint8_t *row = rows[lane];

        if (form.columns == 0) {
            for (size_t k = 0; k < (size_t)n_cols; k++)
                memcpy(out + (k * MOE_GROUP_ROWS + (size_t)lane) * size, row + k * size, size);
            continue;
        }
        for (int64_t b = 0; b < n_cols / form.columns; b++) {
            moe_quant_read_stored(type, row + b * form.bytes, &block);
            write_packed(type, &block, lane, b, out);
        }
    }
}

void moe_unpack_row(const moe_matrix *w, int64_t row, float *dst)
{
    moe_quant_form form = moe_quant_form_of(w->type);
    size_t size = (size_t)element_bytes(w->type);
    int lane = (int)(row % MOE_GROUP_ROWS);
    const uint8_t *group = (const uint8_t *)w->packed + (size_t)(row / MOE_GROUP_ROWS) *
                                                            moe_packed_group_bytes(w->type, w->n_cols);
    moe_quant_block block;

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
