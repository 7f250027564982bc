/*
 * The CPU kernels: one table of functions per instruction set.
 *
 * The scalar table defines every result; the tables of the other instruction sets give the same
 * bits (NUMERICS.md).  All functions are single-threaded, keep no state, allocate nothing and can't
 * fail: callers check shapes once, at load.  Dimension names: n_tokens rows of activations, n_cols
 * columns of a weight matrix (its input width), n_rows its output width.
 *
 * Packed weights.  A matrix is cut into groups of MOE_GROUP_ROWS = 16 output rows; lanes of a
 * vector run across the rows of a group, and the bytes of a group are laid out in the order in
 * which the kernels read them.  The last group is filled up with zero rows.  Each group starts at
 * a multiple of 64 bytes.  The layout inside a group is private to kernels/cpu and the same for
 * all instruction sets, so that a packed matrix can be shared by processes.
 */
#ifndef MOE_CPU_KERNELS_H
#define MOE_CPU_KERNELS_H

#include "../types.h"

#define MOE_GROUP_ROWS 16
#define MOE_ATTN_BLOCK 256 /* keys per attention block, by absolute position */
#define MOE_KV_PAGE 64     /* positions per page of the KV cache; a block is four pages */

typedef enum moe_isa {
    MOE_ISA_AUTO = -1,
    MOE_ISA_SCALAR = 0,
    MOE_ISA_AVX2 = 1,        /* AVX2, FMA, F16C */
    MOE_ISA_AVX512 = 2,      /* AVX-512 F, BW, DQ, VL and VNNI */
    MOE_ISA_AVX512_BF16 = 3, /* AVX512 and products of BF16 pairs */
    MOE_ISA_AMX = 4,         /* AVX512 and AMX tiles for int8 and BF16 */
} moe_isa;

/* The form of the activations that a weight type is multiplied with. */
typedef enum moe_act_form {
    MOE_ACT_F32 = 0, /* F32, F16, BF16 weights */
    MOE_ACT_BF16,    /* rounded to BF16: BF16_PAIRS weights */
    MOE_ACT_Q15_32,  /* 15-bit integers, one scale per 32 columns: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 */
    MOE_ACT_Q12_256, /* 12-bit integers, one scale per 256 columns: Q4_K, Q5_K, Q6_K */
    MOE_ACT_Q8_32,   /* 8-bit integers for the same types, faster and coarser */
    MOE_ACT_Q8_256,
} moe_act_form;

/* The fine form for a type: never one of 8 bits. */
moe_act_form moe_act_form_of(moe_type type);

/* A packed weight matrix (n_rows, n_cols). */
typedef struct moe_matrix {
    moe_type type;
    int64_t n_rows, n_cols;
    const void *packed;
} moe_matrix;

/* Activations as integers: x ≈ d * q with q = 128 * hi + lo, hi in -127..127 and lo in -64..63, so
 * that both planes fit the byte products of every instruction set.  Without lo, q = hi. */
typedef struct moe_act_planes {
    const int8_t *hi, *lo; /* (n_tokens, n_cols); lo NULL: 8 bits */
    const float *d;        /* (n_tokens, n_cols / block) */
    const int32_t *sums;   /* sums of q: over 32 columns (blocks of 32), over 16 (blocks of 256) */
} moe_act_planes;

/* Rows of activations (n_tokens, n_cols) in one form or several. A form that is not there is NULL.
 */
typedef struct moe_activations {
    int64_t n_cols;
    const float *f32; /* (n_tokens, ld): row t starts at f32 + t * ld */
    int64_t ld;
    moe_act_planes b32;  /* one scale per 32 columns */
    moe_act_planes b256; /* one scale per 256 columns */
    const void *bf16;    /* (n_tokens, moe_bf16_columns(n_cols)), as moe_kernels.round_bf16 gives */
} moe_activations;

/* Columns of a row of activations in BF16, the last ones zeros: whole units of 32. */
static inline int64_t moe_bf16_columns(int64_t n_cols)
{
    return (n_cols + 31) / 32 * 32;
}

/* --- packed weights (the same for every instruction set) ---------------------------------------
 */

/* Bytes of one packed group of 16 rows, a multiple of 64. */
size_t moe_packed_group_bytes(moe_type type, int64_t n_cols);

/* Bytes of a packed matrix: groups * group bytes. */
size_t moe_packed_bytes(moe_type type, int64_t n_rows, int64_t n_cols);

/* Widens row `row` of a packed matrix to float32: exactly the values of moe_dequantize. */
void moe_unpack_row(const moe_matrix *w, int64_t row, float *dst /* (n_cols) */);

/* Dequantises n_cols stored elements to float32, bit for bit as the reference of the GGUF types. */
void moe_dequantize(moe_type type, const void *src, int64_t n_cols, float *dst);

/* Exact half conversions (round to nearest even), scalar. */
float moe_f16_to_f32(uint16_t h);
uint16_t moe_f32_to_f16(float f);

/* The rounding of weights and activations to BF16 (NUMERICS.md): to nearest even, but zero below
 * 2^-56. */
uint16_t moe_f32_to_bf16(float f);

/* One KV cache block of at most MOE_ATTN_BLOCK keys of one KV head.
 * K page: MOE_KV_PAGE / 16 slabs of (d_k, 16 positions), so lanes run across positions.
 * V page: (MOE_KV_PAGE positions, d_v), so lanes run across the width.
 * Elements are f16, or f32 if kv_f32.  v_pages = NULL: V is the first d_v of K's d_k (MLA). */
typedef struct moe_attn_block {
    const void *const *k_pages; /* up to 4 */
    const void *const *v_pages; /* up to 4, or NULL */
    int n_keys;                 /* keys in this block, 1..256 */
    int d_k, d_v;
    bool kv_f32;
} moe_attn_block;

/* Bytes that moe_kernels.attn_block needs as scratch. */
size_t moe_attn_scratch_bytes(int d_k, int d_v, int n_queries);
/* The same for moe_kernels.attn_text. */
size_t moe_attn_text_scratch_bytes(int n, int d);

/* --- the table -----------------------------------------------------------------------------------
 */

typedef struct moe_kernels {
    moe_isa isa;
    const char *name; /* "scalar", "avx2", "avx512", "avx512_bf16", "amx" */

    /* Packs one group: rows[i] (i < n_rows <= 16) points to a row as stored in the file (little
     * endian, no alignment needed).  Rows beyond n_rows become zero rows.  All of the group's
     * bytes are written. */
    void (*pack_group)(moe_type type, const void *const rows[], int n_rows, int64_t n_cols,
                       void *dst);

    /* y[t * ldy + r] = sum_k w[r, k] * x[rows ? rows[t] : t, k] for the output rows of groups
     * [group_begin, group_end) and t < n_tokens; rows past n_rows are not written.
     * x must hold the form moe_act_form_of(w->type); integers may be those of 8 bits. */
    void (*matmul)(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                   const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                   int64_t ldy);

    /* One row to integers, per block of 32 or 256 columns: amax = max|x|, d = amax / top, q =
     * rint(x * (top / amax)), hi = (q + 64) >> 7, lo = q - 128 * hi, where top is 16256 for blocks
     * of 32 columns and 2047 for those of 256.  With lo NULL top is 127 and hi = q.  A block with
     * amax < 2^-113 counts as zeros (q = 0, d = 0); one with a NaN or an infinity gives d = NaN. */
    void (*quantize_32)(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                        int32_t *sums);
    void (*quantize_256)(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                         int32_t *sums);

    /* One row to BF16, filled up with zeros to whole units of 32 columns.  An element has
     * bf16_bytes: 2 if the product reads BF16, 4 if it reads floats that hold such values.  Four
     * columns side by side stand in the order that the product wants. */
    void (*round_bf16)(const float *x, int64_t n_cols, void *y);
    int bf16_bytes;

    /* Sums along a vector: 16 lanes, lane i takes i, i+16, … by fma, then the tree
     * (i, i+8), (i, i+4), (i, i+2), (i, i+1). */
    float (*dot)(const float *a, const float *b, int64_t n);
    float (*sum)(const float *a, int64_t n);
    float (*max)(const float *a, int64_t n); /* n >= 1; NaN-free input */

    /* y = x * (1 / sqrt(mean(x^2) + eps)) * weight; weight may be NULL (ones); y may be x. */
    void (*rms_norm)(const float *x, const float *weight, float eps, int64_t n, float *y);
    /* y = (x - mean) / sqrt(var + eps) * weight + bias; y may be x. */
    void (*layer_norm)(const float *x, const float *weight, const float *bias, float eps, int64_t n,
                       float *y);

    void (*add)(const float *a, const float *b, int64_t n, float *y); /* y = a + b */
    void (*add_scaled)(const float *x, float w, int64_t n, float *y); /* y = fma(w, x, y) */
    void (*scale)(const float *x, float w, int64_t n, float *y);      /* y = w * x */
    void (*silu_mul)(const float *gate, const float *up, int64_t n, float *y); /* g*sigmoid(g)*u */
    void (*gelu_mul)(const float *gate, const float *up, int64_t n,
                     float *y);                             /* tanh form of gate, times up */
    void (*gelu_erf)(const float *x, int64_t n, float *y);  /* exact GELU */
    void (*gelu_tanh)(const float *x, int64_t n, float *y); /* tanh form */
    void (*exp)(const float *x, int64_t n, float *y);
    void (*sigmoid)(const float *x, int64_t n, float *y);
    /* y = exp(x - max) / sum; y may be x. */
    void (*softmax)(const float *x, int64_t n, float *y);
    /* *m = max(x); returns sum(exp(x - max)) by the lane rule. */
    float (*exp_sum)(const float *x, int64_t n, float *m);

    /* Rotates n_heads vectors of width d in place: the first n_rot elements of each, with
     * cos/sin (n_rot / 2).  interleaved: pairs (2i, 2i+1); else pairs (i, i + n_rot/2). */
    void (*rope)(float *x, int64_t n_heads, int64_t d, int64_t n_rot, const float *cos,
                 const float *sin, bool interleaved);

    /* Stores one position's key (d_k) into a K page and value (d_v) into a V page (v NULL: none).
     */
    void (*kv_store)(const float *k, const float *v, int pos_in_page, int d_k, int d_v, bool kv_f32,
                     void *k_page, void *v_page);

    /* One block of attention for n_queries query vectors q (n_queries, ldq) that share a KV head.
     * n_valid[i] (0..n_keys): query i sees keys 0..n_valid[i]-1 and, if n_first is not NULL, only
     * from n_first[i] on. Gives per query: m[i] the largest score, l[i] the sum of exp(score - m),
     * o (n_queries, d_v) the unnormalised sum of exp(score - m) * v.  A query that sees no key: m =
     * -INFINITY, l = 0, o = 0. */
    void (*attn_block)(const float *q, int64_t ldq, int n_queries, float scale,
                       const moe_attn_block *kv, const int32_t *n_valid, const int32_t *n_first,
                       float *m, float *l, float *o, void *scratch);

    /* Attention of one head over a text of n tokens that all see each other: rows t of q, k, v and
     * o (n, d) begin at q + t * ld and so on.  o is divided by the sums.  15 floats behind the last
     * row of v must be readable.  scratch: moe_attn_text_scratch_bytes. */
    void (*attn_text)(const float *q, const float *k, const float *v, int64_t ld, int n, int d,
                      float scale, float *o, void *scratch);

    /* Folds block b into the running result of one query: m, l, o (d_v) <- combine. */
    void (*attn_combine)(float *m, float *l, float *o, float m_b, float l_b, const float *o_b,
                         int d_v);
} moe_kernels;

/* The best instruction set that this CPU and operating system support. */
moe_isa moe_cpu_best_isa(void);

/* The table of an instruction set; MOE_ISA_AUTO: the best.  NULL if the CPU does not have it. */
const moe_kernels *moe_cpu_kernels(moe_isa isa);

/* "scalar", "avx2", "avx512", "avx512_bf16", "amx" or "auto" to an moe_isa; false if the name is
 * unknown. */
bool moe_isa_by_name(const char *name, moe_isa *isa);

#endif
