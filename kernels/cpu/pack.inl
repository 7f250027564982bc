/*
 * Packing whole groups with vectors (quant.h has the layout; pack.c defines the bytes).
 *
 * A packed vector holds one 32-bit word of each row, so packing is a transposition of words and
 * some shuffling of bits within them, which is done after it, on all lanes at once.  Stored blocks
 * are not aligned and not all a multiple of four bytes long; they are read in quads, four words
 * from any byte on, so that nothing beyond a block is touched.  What is not a whole group is left
 * to the scalar code.
 *
 * The including file defines
 *     LANES                        8 or 16 rows at a time
 *     words                        a vector of LANES uint32_t
 *     load_quad(rows, at, w)       words w[0..3] at byte `at` of LANES rows
 *     store(p, w)                  LANES words
 *     store_halves(p, w)           the lower 16 bits of each lane, and the upper ones 32 bytes on
 *     PACK_GROUP                   the function's name
 * A vector type of GCC's takes the operators of C, lane by lane.
 */
#include <string.h>

#include "pack.h"
#include "quant.h"

typedef const uint8_t *const *row_pointers;

/* Word v of a group's block; p points to this part's lanes of word 0. */
static inline void put(uint8_t *p, int v, words w)
{
    store(p + v * MOE_QUANT_VECTOR, w);
}

static inline void put_quad(uint8_t *p, const words w[4])
{
    for (int v = 0; v < 4; v++)
        put(p, v, w[v]);
}

/* Four words of six bits a byte in three. */
static inline void put_six_bits(uint8_t *p, const words w[4])
{
    for (int v = 0; v < 3; v++)
        put(p, v, w[v] | (w[3] >> 2 * v & 0x03030303) << 6);
}

/* Exchanges the bits of x that mask selects with those `shift` places above. */
static inline words swap_bits(words x, int shift, uint32_t mask)
{
    words t = (x >> shift ^ x) & mask;

    return x ^ t ^ t << shift;
}

/* Bit 4v + i of each word to bit 8i + v: the bit's number, of five binary digits, is turned round
 * by two, one exchange of two digits after the other. */
static inline words fifth_bits(words x)
{
    x = swap_bits(x, 14, 0x0000cccc);   /* digits 4 and 1 */
    x = swap_bits(x, 7, 0x00aa00aa);    /* 3 and 0 */
    x = swap_bits(x, 2, 0x0c0c0c0c);    /* 2 and 1 */
    return swap_bits(x, 1, 0x22222222); /* 1 and 0 */
}

/* Bit j of byte i of word v becomes bit v of byte i of word j. */
static inline void transpose_bits(words w[8])
{
    static const uint32_t masks[] = {[4] = 0x0f0f0f0f, [2] = 0x33333333, [1] = 0x55555555};

    for (int s = 4; s > 0; s /= 2) {
        for (int v = 0; v < 8; v++) {
            if (v & s)
                continue;
            words t = (w[v] >> s ^ w[v + s]) & masks[s];

            w[v + s] ^= t;
            w[v] ^= t << s;
        }
    }
}

/* The 12 bytes of scales and minima of Q4_K and Q5_K: s[0..2]. */
static inline void put_scales_and_minima(uint8_t *p, const words s[3])
{
    const words w[4] = {
        s[0] & 0x3f3f3f3f,
        (s[2] & 0x0f0f0f0f) | (s[0] >> 6 & 0x03030303) << 4,
        s[1] & 0x3f3f3f3f,
        (s[2] >> 4 & 0x0f0f0f0f) | (s[1] >> 6 & 0x03030303) << 4,
    };

    put_six_bits(p, w);
}

/* Each of the following packs a block's body and returns its d, with m, if there is one, in the
 * upper halves. */

/* Q4_K and Q5_K, whose units differ in the fifth bits behind them. */
static inline words pack_k(const int bits, row_pointers rows, size_t at, uint8_t *p)
{
    words w[8], fifth[8], d_m;

    load_quad(rows, at, w);
    d_m = w[0];
    put_scales_and_minima(p, w + 1);
    at += 16;
    p += 3 * MOE_QUANT_VECTOR;
    if (bits == 5) {
        load_quad(rows, at, fifth);
        load_quad(rows, at + 16, fifth + 4);
        transpose_bits(fifth);
        at += 32;
    }
    for (int u = 0; u < 8; u += 2, at += 32) {
        load_quad(rows, at, w);
        load_quad(rows, at + 16, w + 4);
        for (int v = 0; v < 4; v++) {
            put(p, v, (w[v] & 0x0f0f0f0f) | (w[v + 4] & 0x0f0f0f0f) << 4);
            put(p, v + bits, (w[v] >> 4 & 0x0f0f0f0f) | (w[v + 4] & 0xf0f0f0f0));
        }
        if (bits == 5) {
            put(p, 4, fifth[u]);
            put(p, 9, fifth[u + 1]);
        }
        p += 2 * bits * MOE_QUANT_VECTOR;
    }
    return d_m;
}

/* A quarter of a half block of Q6_K: 32 columns. */
static inline void pack_unit_q6_k(const words low[8], const words high[8], int quarter, uint8_t *p)
{
    words w[8];

    for (int v = 0; v < 8; v++) {
        words pair = high[v] >> 2 * quarter & 0x03030303;

        w[v] = (low[v] >> quarter / 2 * 4 & 0x0f0f0f0f) | pair << 4;
    }
    put_six_bits(p, w);
    put_six_bits(p + 3 * MOE_QUANT_VECTOR, w + 4);
}

static inline words pack_q6_k(row_pointers rows, size_t at, uint8_t *p)
{
    words w[4], last[4];

    load_quad(rows, at + 192, w);
    load_quad(rows, at + 194, last);
    put_quad(p, w);
    p += 4 * MOE_QUANT_VECTOR;
    for (int half = 0; half < 2; half++) {
        words low[16], high[8];

        for (int i = 0; i < 4; i++)
            load_quad(rows, at + 64 * half + 16 * i, low + 4 * i);
        for (int i = 0; i < 2; i++)
            load_quad(rows, at + 128 + 32 * half + 16 * i, high + 4 * i);
        for (int quarter = 0; quarter < 4; quarter++, p += 6 * MOE_QUANT_VECTOR)
            pack_unit_q6_k(low + quarter % 2 * 8, high, quarter, p);
    }
    return last[3] >> 16;
}

/* The types with blocks of 32 columns: d, m and the fifth bits in the first words, then codes whose
 * stored order is that of a unit. */
static inline words pack_32(const moe_type type, row_pointers rows, size_t at, uint8_t *p)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const size_t codes = at + (size_t)form.bytes - (form.bits == 8 ? 32 : 16);
    words first[4], w[4];

    load_quad(rows, at, first);
    if (form.bits == 5)
        put(p, 4, fifth_bits(form.has_min ? first[1] : first[0] >> 16 | first[1] << 16));
    load_quad(rows, codes, w);
    if (form.bits == 8)
        for (int v = 0; v < 4; v++)
            w[v] ^= 0x80808080;
    put_quad(p, w);
    if (form.bits == 8) {
        load_quad(rows, codes + 16, w);
        for (int v = 0; v < 4; v++)
            w[v] ^= 0x80808080;
        put_quad(p + 4 * MOE_QUANT_VECTOR, w);
    }
    return first[0];
}

/* Block b of LANES rows, from row `lane` of the group on. */
static inline words pack_block(const moe_type type, row_pointers rows, int lane, int64_t b,
                               uint8_t *group)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const size_t at = (size_t)(b * form.bytes);
    uint8_t *p = group + moe_quant_body(form, b) + 4 * lane;

    if (type == MOE_TYPE_Q6_K)
        return pack_q6_k(rows + lane, at, p);
    if (form.columns == MOE_QUANT_SUPER)
        return pack_k(form.bits, rows + lane, at, p);
    return pack_32(type, rows + lane, at, p);
}

/* All blocks of a group; inlined, so that type is a constant in each copy. */
static inline __attribute__((always_inline)) void
pack_blocks(const moe_type type, row_pointers rows, int64_t n_cols, uint8_t *group)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const int64_t n_blocks = n_cols / form.columns;
    const int per_head = form.has_min ? 1 : 2;

    for (int64_t b = 0; b < n_blocks; b += per_head) {
        for (int lane = 0; lane < MOE_GROUP_ROWS; lane += LANES) {
            words head = pack_block(type, rows, lane, b, group);

            if (per_head == 2)
                head &= 0xffff;
            if (per_head == 2 && b + 1 < n_blocks)
                head |= pack_block(type, rows, lane, b + 1, group) << 16;
            store_halves(group + moe_quant_head(form, b) + 2 * lane, head);
        }
    }
}

/* Elements of four or two bytes, column after column. */
static inline void pack_elements(const size_t size, row_pointers rows, int64_t n_cols,
                                 uint8_t *group)
{
    const int64_t per_quad = 16 / (int64_t)size, n_whole = n_cols / per_quad * per_quad;
    uint8_t *out = group;

    for (int64_t k = 0; k < n_whole; k += per_quad, out += 16 * MOE_GROUP_ROWS) {
        for (int lane = 0; lane < MOE_GROUP_ROWS; lane += LANES) {
            words w[4];

            load_quad(rows + lane, (size_t)k * size, w);
            if (size == 4) {
                put_quad(out + 4 * lane, w);
                continue;
            }
            for (int v = 0; v < 4; v++)
                store_halves(out + v * MOE_QUANT_VECTOR + 2 * lane, w[v]);
        }
    }
    for (int64_t k = n_whole; k < n_cols; k++)
        for (int lane = 0; lane < MOE_GROUP_ROWS; lane++, out += size)
            memcpy(out, rows[lane] + (size_t)k * size, size);
    if (size == 2 && n_cols % 2 != 0)
        memset(out, 0, 32);
}

void PACK_GROUP(moe_type type, const void *const rows[], int n_rows, int64_t n_cols, void *dst)
{
    const uint8_t *p[MOE_GROUP_ROWS];

    if (n_rows < MOE_GROUP_ROWS || type == MOE_TYPE_BF16_PAIRS) {
        moe_pack_group_scalar(type, rows, n_rows, n_cols, dst);
        return;
    }
    for (int i = 0; i < MOE_GROUP_ROWS; i++)
        p[i] = rows[i];
    switch (type) {
    case MOE_TYPE_F32:
        pack_elements(4, p, n_cols, dst);
        break;
    case MOE_TYPE_F16:
    case MOE_TYPE_BF16:
        pack_elements(2, p, n_cols, dst);
        break;
    case MOE_TYPE_Q8_0:
        pack_blocks(MOE_TYPE_Q8_0, p, n_cols, dst);
        break;
    case MOE_TYPE_Q4_0:
        pack_blocks(MOE_TYPE_Q4_0, p, n_cols, dst);
        break;
    case MOE_TYPE_Q4_1:
        pack_blocks(MOE_TYPE_Q4_1, p, n_cols, dst);
        break;
    case MOE_TYPE_Q5_0:
        pack_blocks(MOE_TYPE_Q5_0, p, n_cols, dst);
        break;
    case MOE_TYPE_Q5_1:
        pack_blocks(MOE_TYPE_Q5_1, p, n_cols, dst);
        break;
    case MOE_TYPE_Q4_K:
        pack_blocks(MOE_TYPE_Q4_K, p, n_cols, dst);
        break;
    case MOE_TYPE_Q5_K:
        pack_blocks(MOE_TYPE_Q5_K, p, n_cols, dst);
        break;
    case MOE_TYPE_Q6_K:
        pack_blocks(MOE_TYPE_Q6_K, p, n_cols, dst);
        break;
    default:
        break;
    }
}
