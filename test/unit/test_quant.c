/*
 * Quantised weights: values, packing, and the kernels of every instruction set this CPU has.
 *
 * Values are checked against blocks that the tests encode themselves and, where the shared data
 * is at hand (MOE_SHARED, default ../shared), against the values of the GGUF reference.  Kernels
 * are compared with the scalar ones byte by byte, and those with products in double precision.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../kernels/cpu/pack.h"
#include "../../kernels/cpu/quant.h"

static const struct {
    moe_type type;
    const char *name;
} quant_types[] = {
    {MOE_TYPE_Q8_0, "Q8_0"}, {MOE_TYPE_Q4_0, "Q4_0"}, {MOE_TYPE_Q4_1, "Q4_1"},
    {MOE_TYPE_Q5_0, "Q5_0"}, {MOE_TYPE_Q5_1, "Q5_1"}, {MOE_TYPE_Q4_K, "Q4_K"},
    {MOE_TYPE_Q5_K, "Q5_K"}, {MOE_TYPE_Q6_K, "Q6_K"},
};
#define N_QUANT_TYPES (int)(sizeof quant_types / sizeof quant_types[0])

typedef void (*matmul_fn)(const moe_matrix *, int64_t, int64_t, const moe_activations *,
                          const int32_t *, int64_t, float *, int64_t);
typedef void (*quantize_fn)(const float *, int64_t, int8_t *, int8_t *, float *, int32_t *);


typedef struct kernel_set {
    const char *name;
    matmul_fn matmul;
    quantize_fn quantize_32, quantize_256;
} kernel_set;

/* The instruction sets of this CPU besides scalar; returns how many. */
static int kernel_sets(kernel_set sets[3])
{
    int n = 0;

    if (moe_cpu_best_isa() >= MOE_ISA_AVX2)
        sets[n++] = (kernel_set){"avx2", moe_matmul_quant_avx2, moe_quantize_32_avx2,
                                 moe_quantize_256_avx2};
    if (moe_cpu_best_isa() >= MOE_ISA_AVX512)
        sets[n++] = (kernel_set){"avx512", moe_matmul_quant_avx512, moe_quantize_32_avx512,
                                 moe_quantize_256_avx512};
    if (moe_cpu_best_isa() >= MOE_ISA_AMX)
        sets[n++] = (kernel_set){"amx", moe_matmul_quant_amx, moe_quantize_32_avx512,
                                 moe_quantize_256_avx512};
    return n;
}

static void *allocate(size_t size)
{
    void *p = malloc(size > 0 ? size : 1);

    assert_non_null(p);
    return p;
}

/* --- random data ----------------------------------------------------------- */

typedef struct random_state {
    uint64_t s;
} random_state;

static uint32_t next_random(random_state *r)
{
    r->s = r->s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(r->s >> 32);
}

static int random_below(random_state *r, int n)
{
    return (int)(next_random(r) % (uint32_t)n);
}

/* Sets a block's f16 at p: by kind an everyday scale, zero, a denormal, the largest, a negative. */
static void set_half(random_state *r, int kind, uint8_t *p)
{
    uint16_t half = (uint16_t)(0x2000 | (next_random(r) & 0x0fff)); /* 2^-7 to 2^-3 */

    if (kind == 1)
        half = 0;
    else if (kind == 2)
        half = (uint16_t)(1 + random_below(r, 0x3ff));
    else if (kind == 3)
        half = 0x7bff;
    else if (kind == 4)
        half |= 0x8000;
    p[0] = (uint8_t)half;
    p[1] = (uint8_t)(half >> 8);
}

/* One stored row of a quantised type.  extreme: blocks of one repeated byte, or of codes and
 * scales next to their largest, and d and m of all kinds. */
static void random_row(random_state *r, moe_type type, int64_t n_cols, bool extreme, uint8_t *row)
{
    static const uint8_t patterns[] = {0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0};
    moe_quant_form form = moe_quant_form_of(type);

    for (int64_t b = 0; b < n_cols / form.columns; b++) {
        uint8_t *p = row + b * form.bytes;
        int kind = extreme ? random_below(r, 5) : 0;
        int pattern = extreme ? random_below(r, 14) : 14;

        for (int i = 0; i < form.bytes; i++)
            p[i] = pattern < 6    ? patterns[pattern]
                   : pattern == 6 ? (uint8_t)(0xee | (next_random(r) >> 8 & 0x11))
                                  : (uint8_t)(next_random(r) >> 8);
        set_half(r, kind, type == MOE_TYPE_Q6_K ? p + 208 : p);
        if (form.has_min)
            set_half(r, kind, p + 2);
    }
}

/* One row of activations; every kind stresses something else. */
static void random_activations(random_state *r, int64_t n_cols, int kind, float *x)
{
    for (int64_t i = 0; i < n_cols; i++) {
        float v = (float)((int)(next_random(r) >> 8) - (1 << 23)) / (float)(1 << 22);

        switch (kind) {
        case 1:
            v = 0.0f;
            break;
        case 2:
            v *= 1e-40f;
            break;
        case 3:
            v *= 65504.0f;
            break;
        case 4:
            v = i % 37 == 5 ? 30000.0f : v;
            break;
        case 5: /* all 16256 */
            v = 1.0f;
            break;
        case 6: /* all -16256 */
            v = -1.0f;
            break;
        case 7: /* ties of the rounding */
            v = i % 32 == 0 ? 16256.0f : (float)random_below(r, 32512) - 16255.5f;
            break;
        case 8: /* hi 127, lo -64 */
            v = i % 32 == 0 ? 16256.0f : 16192.0f;
            break;
        case 9: /* hi -127, lo 63 */
            v = i % 32 == 0 ? -16256.0f : -16193.0f;
            break;
        case 10: /* 16255 or 16256 */
            v = i % 32 == 0 ? 16256.0f : 16255.0f + (float)random_below(r, 2);
            break;
        default:
            break;
        }
        x[i] = v;
    }
}
#define N_ACTIVATION_KINDS 11

/* --- a matrix, its rows and activations ------------------------------------ */

typedef struct problem {
    moe_matrix w;
    uint8_t *stored; /* (n_rows, row bytes) */
    void *packed;
    moe_activations x;
    float *f32; /* (n_x, n_cols), and the same as integers: */
    int8_t *hi, *lo, *bytes;
    float *d, *d_bytes;
    int32_t *sums, *sums_bytes;
    int64_t n_x;
    bool fine; /* a product takes both planes, else 8 bits */
} problem;

static size_t row_bytes(moe_type type, int64_t n_cols)
{
    moe_quant_form form = moe_quant_form_of(type);

    if (form.columns > 0)
        return (size_t)(n_cols / form.columns) * (size_t)form.bytes;
    return (size_t)n_cols * (type == MOE_TYPE_F32 ? 4 : 2);
}

static void *pack(moe_type type, const uint8_t *stored, int64_t n_rows, int64_t n_cols)
{
    size_t group_bytes = moe_packed_group_bytes(type, n_cols);
    void *packed = NULL;

    assert_int_equal(group_bytes % 64, 0);
    assert_int_equal(posix_memalign(&packed, 64, moe_packed_bytes(type, n_rows, n_cols)), 0);
    for (int64_t first = 0; first < n_rows; first += MOE_GROUP_ROWS) {
        const void *rows[MOE_GROUP_ROWS];
        int n = n_rows - first < MOE_GROUP_ROWS ? (int)(n_rows - first) : MOE_GROUP_ROWS;

        for (int i = 0; i < n; i++)
            rows[i] = stored + (size_t)(first + i) * row_bytes(type, n_cols);
        moe_pack_group_scalar(type, rows, n, n_cols,
                              (uint8_t *)packed + (size_t)(first / MOE_GROUP_ROWS) * group_bytes);
    }
    return packed;
}

/* Takes the activations in f32 over into both forms of the type. */
static void quantize_activations(problem *p)
{
    int block = moe_quant_form_of(p->w.type).columns, span = block == 32 ? 32 : 16;
    quantize_fn quantize = block == 32 ? moe_quantize_32_scalar : moe_quantize_256_scalar;

    for (int64_t i = 0, n = p->w.n_cols; i < p->n_x; i++) {
        quantize(p->f32 + i * n, n, p->hi + i * n, p->lo + i * n, p->d + i * (n / block),
                 p->sums + i * (n / span));
        quantize(p->f32 + i * n, n, p->bytes + i * n, NULL, p->d_bytes + i * (n / block),
                 p->sums_bytes + i * (n / span));
    }
}

static void problem_create(problem *p, random_state *r, moe_type type, int64_t n_rows,
                           int64_t n_cols, int64_t n_x, bool extreme)
{
    size_t bytes = row_bytes(type, n_cols), n = (size_t)(n_x * n_cols);

    memset(p, 0, sizeof *p);
    p->hi = allocate(n);
    p->lo = allocate(n);
    p->d = allocate(n / 32 * sizeof *p->d);
    p->sums = allocate(n / 16 * sizeof *p->sums);
    p->bytes = allocate(n);
    p->d_bytes = allocate(n / 32 * sizeof *p->d_bytes);
    p->sums_bytes = allocate(n / 16 * sizeof *p->sums_bytes);
    p->fine = true;
    p->stored = allocate((size_t)n_rows * bytes);
    p->f32 = allocate(n * sizeof(float));
    p->n_x = n_x;
    for (int64_t i = 0; i < n_rows; i++)
        random_row(r, type, n_cols, extreme, p->stored + (size_t)i * bytes);
    p->packed = pack(type, p->stored, n_rows, n_cols);
    p->w = (moe_matrix){type, n_rows, n_cols, p->packed};
    p->x.n_cols = n_cols;
    for (int64_t i = 0; i < n_x; i++)
        random_activations(r, n_cols, extreme ? random_below(r, N_ACTIVATION_KINDS) : 0,
                           p->f32 + i * n_cols);
    quantize_activations(p);
}

static void problem_free(problem *p)
{
    free(p->hi);
    free(p->lo);
    free(p->d);
    free(p->sums);
    free(p->bytes);
    free(p->d_bytes);
    free(p->sums_bytes);
    free(p->f32);
    free(p->packed);
    free(p->stored);
}

static int64_t random_columns(random_state *r, moe_type type)
{
    int block = moe_quant_form_of(type).columns;

    return block * (1 + random_below(r, block == 32 ? 20 : 4));
}

/* The product by one kernel, with the groups cut at random where `split`.  Two columns after the
 * last row and everything between stay as they were, or the test fails. */
static float *product(matmul_fn matmul, const problem *p, const int32_t *rows, int64_t n_tokens,
                      random_state *split)
{
    int64_t n_groups = (p->w.n_rows + MOE_GROUP_ROWS - 1) / MOE_GROUP_ROWS;
    int64_t ldy = p->w.n_rows + 2;
    float *y = allocate((size_t)(n_tokens * ldy) * sizeof *y);
    moe_activations x = p->x;

    x.b32 = x.b256 = p->fine ? (moe_act_planes){p->hi, p->lo, p->d, p->sums}
                             : (moe_act_planes){p->bytes, NULL, p->d_bytes, p->sums_bytes};
    for (int64_t i = 0; i < n_tokens * ldy; i++)
        y[i] = -12345.0f;
    for (int64_t g = 0, n; g < n_groups; g += n) {
        n = split ? 1 + random_below(split, (int)(n_groups - g)) : n_groups;
        matmul(&p->w, g, g + n, &x, rows, n_tokens, y, ldy);
    }
    for (int64_t t = 0; t < n_tokens; t++) {
        assert_true(y[t * ldy + ldy - 2] == -12345.0f);
        assert_true(y[t * ldy + ldy - 1] == -12345.0f);
    }
    return y;
}

/* --- values ---------------------------------------------------------------- */

static uint16_t half_of(float f)
{
    return moe_f32_to_f16(f);
}

static void put_half(uint8_t *p, float f)
{
    p[0] = (uint8_t)half_of(f);
    p[1] = (uint8_t)(half_of(f) >> 8);
}

static void blocks_of_32_have_their_values(void **state)
{
    uint8_t block[34] = {0};
    float values[32];
    int code[32];

    (void)state;
    for (int i = 0; i < 32; i++)
        code[i] = (i * 11 + 3) % 32;

    put_half(block, -0.25f);
    for (int i = 0; i < 32; i++)
        block[2 + i] = (uint8_t)(i * 8 - 128);
    moe_dequantize(MOE_TYPE_Q8_0, block, 32, values);
    for (int i = 0; i < 32; i++)
        assert_true(values[i] == -0.25f * (float)(i * 8 - 128));

    for (int five = 0; five < 2; five++) {
        for (int min = 0; min < 2; min++) {
            static const moe_type types[2][2] = {{MOE_TYPE_Q4_0, MOE_TYPE_Q4_1},
                                                 {MOE_TYPE_Q5_0, MOE_TYPE_Q5_1}};
            uint8_t *high = block + 2 + 2 * min, *low = high + 4 * five;

            memset(block, 0, sizeof block);
            put_half(block, 0.5f);
            if (min)
                put_half(block + 2, -3.0f);
            for (int i = 0; i < 32; i++) {
                low[i % 16] |= (uint8_t)((code[i] & 15) << (i < 16 ? 0 : 4));
                if (five)
                    high[i / 8] |= (uint8_t)((code[i] >> 4) << (i % 8));
            }
            moe_dequantize(types[five][min], block, 32, values);
            for (int i = 0; i < 32; i++) {
                int q = five ? code[i] : code[i] & 15;

                assert_true(values[i] ==
                            (min ? 0.5f * (float)q - 3.0f : 0.5f * (float)(q - (five ? 16 : 8))));
            }
        }
    }
}

static void super_blocks_have_their_values(void **state)
{
    static const int sc[8] = {1, 63, 5, 32, 33, 17, 62, 0};
    static const int mn[8] = {63, 2, 31, 0, 16, 48, 7, 35};
    uint8_t block[210];
    float values[256];
    int code[256];

    (void)state;
    for (int i = 0; i < 256; i++)
        code[i] = (i * 37 + i / 64) % 64;
    for (int five = 0; five < 2; five++) {
        uint8_t *low = block + (five ? 48 : 16);

        memset(block, 0, sizeof block);
        put_half(block, 0.5f);
        put_half(block + 2, 0.125f);
        for (int j = 0; j < 4; j++) {
            block[4 + j] = (uint8_t)(sc[j] | sc[j + 4] >> 4 << 6);
            block[8 + j] = (uint8_t)(mn[j] | mn[j + 4] >> 4 << 6);
            block[12 + j] = (uint8_t)((sc[j + 4] & 15) | (mn[j + 4] & 15) << 4);
        }
        for (int i = 0; i < 256; i++) {
            low[i / 64 * 32 + i % 32] |= (uint8_t)((code[i] & 15) << (i / 32 % 2 * 4));
            if (five)
                block[16 + i % 32] |= (uint8_t)((code[i] >> 4 & 1) << (i / 32));
        }
        moe_dequantize(five ? MOE_TYPE_Q5_K : MOE_TYPE_Q4_K, block, 256, values);
        for (int i = 0; i < 256; i++) {
            int q = code[i] & (five ? 31 : 15);

            assert_true(values[i] == 0.5f * (float)(sc[i / 32] * q) - 0.125f * (float)mn[i / 32]);
        }
    }
    memset(block, 0, sizeof block);
    put_half(block + 208, 0.25f);
    for (int j = 0; j < 16; j++)
        block[192 + j] = (uint8_t)(j * 17 - 128);
    for (int i = 0; i < 256; i++) {
        int c = i % 128;

        block[i / 128 * 64 + c % 64] |= (uint8_t)((code[i] & 15) << (c / 64 * 4));
        block[128 + i / 128 * 32 + c % 32] |= (uint8_t)((code[i] >> 4) << (c / 32 * 2));
    }
    moe_dequantize(MOE_TYPE_Q6_K, block, 256, values);
    for (int i = 0; i < 256; i++)
        assert_true(values[i] == 0.25f * (float)((i / 16 * 17 - 128) * (code[i] - 32)));
}

static void unquantised_elements_widen_exactly(void **state)
{
    static const uint8_t half[6] = {0x00, 0x3c, 0x01, 0x00, 0xff, 0xfb};
    static const uint8_t brain[4] = {0x80, 0x3f, 0x40, 0xc0};
    float f[3] = {1.5f, -0.0f, 3e-45f}, values[3];

    (void)state;
    moe_dequantize(MOE_TYPE_F32, f, 3, values);
    assert_memory_equal(values, f, sizeof f);
    moe_dequantize(MOE_TYPE_F16, half, 3, values);
    assert_true(values[0] == 1.0f && values[1] == 0x1p-24f && values[2] == -65504.0f);
    moe_dequantize(MOE_TYPE_BF16, brain, 2, values);
    assert_true(values[0] == 1.0f && values[1] == -3.0f);
}

/* The bytes of a tensor in a safetensors file that was read into `file`. */
static const uint8_t *tensor_bytes(json_t *header, const uint8_t *file, size_t header_bytes,
                                   const char *type, const char *suffix, size_t *size)
{
    char name[64];
    json_t *offsets;
    size_t begin;

    snprintf(name, sizeof name, "%s.%s", type, suffix);
    offsets = json_object_get(json_object_get(header, name), "data_offsets");
    if (offsets == NULL)
        return NULL;
    begin = (size_t)json_integer_value(json_array_get(offsets, 0));
    *size = (size_t)json_integer_value(json_array_get(offsets, 1)) - begin;
    return file + 8 + header_bytes + begin;
}

static void values_match_the_reference(void **state)
{
    const char *shared = getenv("MOE_SHARED");
    char path[4096];
    FILE *in;
    long file_bytes;
    size_t header_bytes = 0;
    uint8_t *file;
    json_t *header;

    (void)state;
    snprintf(path, sizeof path, "%s/fixtures/quant_blocks.safetensors",
             shared ? shared : "../shared");
    in = fopen(path, "rb");
    if (in == NULL) {
        printf("skipped: values of the reference (%s is not there)\n", path);
        skip();
    }
    fseek(in, 0, SEEK_END);
    file_bytes = ftell(in);
    rewind(in);
    file = allocate((size_t)file_bytes);
    assert_int_equal(fread(file, 1, (size_t)file_bytes, in), file_bytes);
    fclose(in);
    memcpy(&header_bytes, file, 8);
    header = json_loadb((const char *)file + 8, header_bytes, 0, NULL);
    assert_non_null(header);
    for (int i = 0; i < N_QUANT_TYPES; i++) {
        moe_quant_form form = moe_quant_form_of(quant_types[i].type);

        for (int gauss = 0; gauss < 2; gauss++) {
            size_t size, value_bytes;
            const uint8_t *blocks = tensor_bytes(header, file, header_bytes, quant_types[i].name,
                                                 gauss ? "gauss_blocks" : "blocks", &size);
            const uint8_t *expected = tensor_bytes(header, file, header_bytes, quant_types[i].name,
                                                   gauss ? "gauss_values" : "values", &value_bytes);
            int64_t n_cols;
            float *values;

            if (gauss && blocks == NULL)
                continue;
            assert_non_null(blocks);
            assert_non_null(expected);
            n_cols = (int64_t)size / form.bytes * form.columns;
            assert_int_equal(value_bytes, n_cols * 4);
            values = allocate(value_bytes);
            moe_dequantize(quant_types[i].type, blocks, n_cols, values);
            assert_memory_equal(values, expected, value_bytes);
            free(values);
        }
    }
    json_decref(header);
    free(file);
}

/* --- packing --------------------------------------------------------------- */

static void check_packing(moe_type type, random_state *r, int64_t n_rows, int64_t n_cols)
{
    size_t bytes = row_bytes(type, n_cols);
    uint8_t *stored = allocate((size_t)n_rows * bytes);
    float *expected = allocate((size_t)n_cols * sizeof(float));
    float *values = allocate((size_t)n_cols * sizeof(float));
    moe_matrix w = {type, n_rows, n_cols, NULL};
    void *packed;

    for (int64_t i = 0; i < n_rows; i++) {
        uint8_t *row = stored + (size_t)i * bytes;

        if (moe_quant_form_of(type).columns > 0)
            random_row(r, type, n_cols, true, row);
        else /* small exponents, so that no element is a NaN */
            for (size_t k = 0; k < bytes; k++)
                row[k] = (uint8_t)(next_random(r) >> 8) & 0x3f;
    }
    packed = pack(type, stored, n_rows, n_cols);
    w.packed = packed;
    for (int64_t i = 0; i < n_rows; i++) {
        moe_dequantize(type, stored + (size_t)i * bytes, n_cols, expected);
        moe_unpack_row(&w, i, values);
        assert_memory_equal(values, expected, (size_t)n_cols * sizeof(float));
    }
    free(packed);
    free(values);
    free(expected);
    free(stored);
}

static void packed_rows_have_the_values_of_stored_rows(void **state)
{
    static const moe_type unquantised[] = {MOE_TYPE_F32, MOE_TYPE_F16, MOE_TYPE_BF16};
    random_state r = {1};

    (void)state;
    for (int64_t n_rows = 1; n_rows <= 70; n_rows += n_rows < 20 ? 1 : 7) {
        for (int i = 0; i < N_QUANT_TYPES; i++)
            check_packing(quant_types[i].type, &r, n_rows, random_columns(&r, quant_types[i].type));
        for (int i = 0; i < 3; i++)
            check_packing(unquantised[i], &r, n_rows, 1 + random_below(&r, 70));
    }
}

static void packed_elements_stand_row_beside_row(void **state)
{
    float a[3] = {1, 2, 3}, b[3] = {4, 5, 6};
    const void *rows[2] = {a, b};
    float packed[48];

    (void)state;
    assert_int_equal(moe_packed_group_bytes(MOE_TYPE_F32, 3), sizeof packed);
    assert_int_equal(moe_packed_group_bytes(MOE_TYPE_BF16, 3), 128);
    assert_int_equal(moe_packed_bytes(MOE_TYPE_F32, 17, 3), 2 * sizeof packed);
    moe_pack_group_scalar(MOE_TYPE_F32, rows, 2, 3, packed);
    for (int k = 0; k < 3; k++) {
        assert_true(packed[16 * k] == a[k] && packed[16 * k + 1] == b[k]);
        assert_true(packed[16 * k + 2] == 0.0f && packed[16 * k + 15] == 0.0f);
    }
}

static void packed_matrices_are_no_larger_than_stored_ones(void **state)
{
    (void)state;
    for (int i = 0; i < N_QUANT_TYPES; i++)
        assert_int_equal(moe_packed_bytes(quant_types[i].type, 64, 2048),
                         64 * row_bytes(quant_types[i].type, 2048));
}

static void forms_of_activations_follow_the_type(void **state)
{
    (void)state;
    assert_int_equal(moe_act_form_of(MOE_TYPE_F32), MOE_ACT_F32);
    assert_int_equal(moe_act_form_of(MOE_TYPE_BF16), MOE_ACT_F32);
    assert_int_equal(moe_act_form_of(MOE_TYPE_Q5_1), MOE_ACT_Q15_32);
    assert_int_equal(moe_act_form_of(MOE_TYPE_Q8_0), MOE_ACT_Q15_32);
    assert_int_equal(moe_act_form_of(MOE_TYPE_Q6_K), MOE_ACT_Q12_256);
}

/* --- activations ----------------------------------------------------------- */

static void activations_round_to_the_nearest_code(void **state)
{
    float x[32] = {0}, d;
    int8_t hi[32], lo[32];
    int32_t sum;
    static const int expected[6] = {16256, -16256, 2, 4, -2, -64};

    (void)state;
    x[0] = 32512.0f; /* d = 2 */
    x[1] = -32512.0f;
    x[2] = 5.0f;  /* 2.5 to 2 */
    x[3] = 7.0f;  /* 3.5 to 4 */
    x[4] = -5.0f; /* -2.5 to -2 */
    x[5] = -128.9f;
    moe_quantize_32_scalar(x, 32, hi, lo, &d, &sum);
    assert_true(d == 2.0f);
    for (int i = 0; i < 6; i++)
        assert_int_equal(128 * hi[i] + lo[i], expected[i]);
    assert_int_equal(hi[0], 127);
    assert_int_equal(hi[1], -127);
    assert_int_equal(hi[5], 0);
    assert_int_equal(sum, -60);
}

static void both_planes_of_every_activation_stay_in_bounds(void **state)
{
    int8_t hi[32], lo[32];
    int32_t sum;
    float x[32], d;

    (void)state;
    for (int q = -16256; q <= 16256; q += 31) {
        x[0] = 16256.0f;
        for (int i = 1; i < 32; i++)
            x[i] = (float)(q + i - 1 > 16256 ? 16256 : q + i - 1);
        moe_quantize_32_scalar(x, 32, hi, lo, &d, &sum);
        assert_true(d == 1.0f);
        for (int i = 0; i < 32; i++) {
            assert_true(128 * hi[i] + lo[i] == (int)x[i]);
            assert_true(hi[i] >= -127 && lo[i] >= -64 && lo[i] <= 63);
            sum -= (int)x[i];
        }
        assert_int_equal(sum, 0);
    }
}

static void bytes_round_to_the_nearest_and_are_summed(void **state)
{
    float x[32] = {254.0f, -254.0f, 5.0f, 7.0f, -5.0f}, d; /* d = 2 */
    static const int expected[6] = {127, -127, 2, 4, -2, 0};
    int8_t q[32];
    int32_t sum;

    (void)state;
    x[31] = -254.0f;
    moe_quantize_32_scalar(x, 32, q, NULL, &d, &sum);
    assert_true(d == 2.0f);
    for (int i = 0; i < 6; i++)
        assert_int_equal(q[i], expected[i]);
    assert_int_equal(sum, -123);
    x[3] = INFINITY;
    moe_quantize_32_scalar(x, 32, q, NULL, &d, &sum);
    assert_true(isnan(d));
    assert_int_equal(q[0], 0);
    assert_int_equal(sum, 0);
}

static void small_blocks_become_zeros(void **state)
{
    float x[32] = {0x1p-113f, 0x1.fp-114f}, d;
    int8_t hi[32], lo[32];
    int32_t sum;

    (void)state;
    moe_quantize_32_scalar(x, 32, hi, lo, &d, &sum);
    assert_true(d > 0.0f && isfinite(d));
    assert_int_equal(hi[0], 127);
    assert_int_equal(sum, 16256 + 15748);
    x[0] = 0.0f;
    moe_quantize_32_scalar(x, 32, hi, lo, &d, &sum);
    assert_true(d == 0.0f);
    assert_int_equal(hi[1], 0);
    assert_int_equal(lo[1], 0);
    assert_int_equal(sum, 0);
}

/* Both block sizes of one instruction set against scalar, with two planes and with one. */
static void check_quantize(const kernel_set *set, const float *x, int64_t n_cols)
{
    quantize_fn scalar[2] = {moe_quantize_32_scalar, moe_quantize_256_scalar};
    quantize_fn other[2] = {set->quantize_32, set->quantize_256};
    int8_t hi[2][1024], lo[2][1024];
    float d[2][32];
    int32_t sums[2][64];

    memset(hi, 0, sizeof hi);
    memset(lo, 0, sizeof lo);
    memset(d, 0, sizeof d);
    memset(sums, 0, sizeof sums);
    for (int i = 0; i < 4; i++) {
        scalar[i / 2](x, n_cols, hi[0], i % 2 ? NULL : lo[0], d[0], sums[0]);
        other[i / 2](x, n_cols, hi[1], i % 2 ? NULL : lo[1], d[1], sums[1]);
        assert_memory_equal(hi[0], hi[1], sizeof hi[0]);
        assert_memory_equal(lo[0], lo[1], sizeof lo[0]);
        assert_memory_equal(d[0], d[1], sizeof d[0]);
        assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
    }
}

static void every_instruction_set_quantises_alike(void **state)
{
    random_state r = {2};
    kernel_set sets[3];
    int n_sets = kernel_sets(sets);
    float x[1024];

    (void)state;
    for (int round = 0; round < 88; round++) {
        int64_t n_cols = 256 * (1 + random_below(&r, 4));

        random_activations(&r, n_cols, round % N_ACTIVATION_KINDS, x);
        if (round >= 44) /* from the smallest to the largest numbers */
            for (int64_t i = 0; i < n_cols; i++)
                x[i] = ldexpf(x[i], (round - 44) * 6 - 130);
        for (int s = 0; s < n_sets; s++)
            check_quantize(&sets[s], x, n_cols);
        if (round % 4 == 0) {
            x[random_below(&r, (int)n_cols)] = round % 8 == 0 ? NAN : -INFINITY;
            for (int s = 0; s < n_sets; s++)
                check_quantize(&sets[s], x, n_cols);
        }
    }
}

static void a_block_that_is_not_finite_makes_products_nan(void **state)
{
    static const float bad[3] = {NAN, INFINITY, -INFINITY};
    float x[32] = {1.0f, 2.0f}, d;
    int8_t hi[32], lo[32];
    int32_t sum;

    (void)state;
    for (int i = 0; i < 3; i++) {
        x[7] = bad[i];
        moe_quantize_32_scalar(x, 32, hi, lo, &d, &sum);
        assert_true(isnan(d));
        assert_int_equal(hi[1], 0);
        assert_int_equal(lo[1], 0);
        assert_int_equal(sum, 0);
    }
}

/* --- products -------------------------------------------------------------- */

/* Each product is that of the integers, but for float rounding; against the product of the float
 * activations the normalised mean square error is that of rounding to 15, 12 or 8 bits. */
static void products_are_close_to_those_of_the_values(void **state)
{
    random_state r = {3};

    (void)state;
    for (int i = 0; i < 2 * N_QUANT_TYPES; i++) {
        moe_type type = quant_types[i / 2].type;
        int64_t n_cols = random_columns(&r, type), n_rows = 21, n_tokens = 30;
        bool bytes = i % 2;
        int block = moe_quant_form_of(type).columns;
        float *values = allocate((size_t)n_cols * sizeof *values), *y;
        double square_error = 0, square = 0;
        problem p;

        problem_create(&p, &r, type, n_rows, n_cols, n_tokens, false);
        p.fine = !bytes;
        y = product(moe_matmul_quant_scalar, &p, NULL, n_tokens, NULL);
        for (int64_t row = 0; row < n_rows; row++) {
            moe_unpack_row(&p.w, row, values);
            for (int64_t t = 0; t < n_tokens; t++) {
                double exact = 0, of_codes = 0, size = 0, result = y[t * (n_rows + 2) + row];

                for (int64_t k = 0; k < n_cols; k++) {
                    int64_t at = t * n_cols + k;
                    double a = bytes ? p.bytes[at] * (double)p.d_bytes[at / block]
                                     : (128 * p.hi[at] + p.lo[at]) * (double)p.d[at / block];

                    exact += (double)values[k] * p.f32[at];
                    of_codes += (double)values[k] * a;
                    size += fabs((double)values[k] * a);
                }
                assert_true(fabs(of_codes - result) <= 1e-6 * size);
                square_error += (exact - result) * (exact - result);
                square += exact * exact;
            }
        }
        assert_true(square_error <= (bytes ? 2e-4 : block == 32 ? 1e-8 : 1e-6) * square);
        problem_free(&p);
        free(values);
        free(y);
    }
}

/* Scalar and all others on one problem: whole, and with the groups cut up. */
static void check_problem(const problem *p, const int32_t *rows, int64_t n_tokens, random_state *r)
{
    kernel_set sets[3];
    int n_sets = kernel_sets(sets);
    float *expected = product(moe_matmul_quant_scalar, p, rows, n_tokens, NULL);

    for (int s = 0; s < n_sets; s++) {
        for (int cut = 0; cut < 2; cut++) {
            float *y = product(sets[s].matmul, p, rows, n_tokens, cut ? r : NULL);

            assert_memory_equal(y, expected,
                                (size_t)(n_tokens * (p->w.n_rows + 2)) * sizeof(float));
            free(y);
        }
    }
    free(expected);
}

/* A random problem, with and without a gather, with both forms of activations. */
static void check_products(random_state *r, moe_type type, int64_t n_tokens, bool extreme)
{
    int64_t n_rows = 1 + random_below(r, 70), n_x = 1 + random_below(r, 70);
    int32_t *rows = NULL;
    problem p;

    if (random_below(r, 2)) {
        rows = allocate((size_t)n_tokens * sizeof *rows);
        for (int64_t t = 0; t < n_tokens; t++)
            rows[t] = random_below(r, (int)n_x);
    } else {
        n_x = n_tokens;
    }
    problem_create(&p, r, type, n_rows, random_columns(r, type), n_x, extreme);
    check_problem(&p, rows, n_tokens, r);
    p.fine = false;
    check_problem(&p, rows, n_tokens, r);
    free(rows);
    problem_free(&p);
}

static void every_instruction_set_gives_the_same_bytes(void **state)
{
    random_state r = {4};

    (void)state;
    for (int i = 0; i < N_QUANT_TYPES; i++) {
        for (int64_t n_tokens = 1; n_tokens <= 12; n_tokens++)
            check_products(&r, quant_types[i].type, n_tokens, false);
        for (int round = 0; round < 6; round++)
            check_products(&r, quant_types[i].type, 1 + random_below(&r, 120), false);
    }
}

/* Activations that do not fit the room in which kernels gather them, in rows and in columns. */
static void wide_matrices_give_the_same_bytes(void **state)
{
    static const int64_t shapes[][2] = {{5, 60 * 256}, {75, 20 * 256}}; /* tokens, columns */
    random_state r = {8};

    (void)state;
    for (int i = 0; i < N_QUANT_TYPES; i++)
        for (int k = 0; k < 2; k++) {
            problem p;

            problem_create(&p, &r, quant_types[i].type, 17, shapes[k][1], shapes[k][0], false);
            check_problem(&p, NULL, shapes[k][0], &r);
            p.fine = false;
            check_problem(&p, NULL, shapes[k][0], &r);
            problem_free(&p);
        }
}

static void extreme_values_give_the_same_bytes(void **state)
{
    random_state r = {5};

    (void)state;
    for (int i = 0; i < N_QUANT_TYPES; i++)
        for (int round = 0; round < 25; round++)
            check_products(&r, quant_types[i].type, 1 + random_below(&r, round < 15 ? 10 : 70),
                           true);
}

/* All codes, scales and activations at their ends at once: the largest integers there are. */
static void the_largest_sums_do_not_overflow(void **state)
{
    static const uint8_t patterns[] = {0x00, 0xff, 0x80, 0x7f};
    random_state r = {6};
    kernel_set sets[3];
    int n_sets = kernel_sets(sets);

    (void)state;
    for (int i = 0; i < N_QUANT_TYPES; i++) {
        moe_type type = quant_types[i].type;
        moe_quant_form form = moe_quant_form_of(type);
        int64_t n_cols = 256, n_rows = 4, n_tokens = 8;

        for (int kind = 5; kind <= 9; kind += kind == 6 ? 2 : 1) {
            problem p;

            problem_create(&p, &r, type, n_rows, n_cols, n_tokens, false);
            for (int64_t row = 0; row < n_rows; row++) {
                uint8_t *stored = p.stored + (size_t)row * row_bytes(type, n_cols);

                memset(stored, patterns[row], row_bytes(type, n_cols));
                for (int64_t b = 0; b < n_cols / form.columns; b++) {
                    put_half(stored + b * form.bytes + (type == MOE_TYPE_Q6_K ? 208 : 0), 1.0f);
                    if (form.has_min)
                        put_half(stored + b * form.bytes + 2, 1.0f);
                }
            }
            free(p.packed);
            p.w.packed = p.packed = pack(type, p.stored, n_rows, n_cols);
            for (int64_t t = 0; t < n_tokens; t++)
                random_activations(&r, n_cols, kind, p.f32 + t * n_cols);
            quantize_activations(&p);
            p.fine = false;
            check_problem(&p, NULL, n_tokens, &r);
            p.fine = true;
            for (int64_t n = 1; n <= n_tokens; n += n_tokens - 1) {
                float *expected = product(moe_matmul_quant_scalar, &p, NULL, n, NULL);
                float values[256];

                for (int64_t row = 0; row < n_rows; row++) {
                    double sum = 0, size = 0;

                    moe_unpack_row(&p.w, row, values);
                    for (int k = 0; k < 256; k++) {
                        double x = (128 * p.hi[k] + p.lo[k]) * (double)p.d[k / form.columns];

                        sum += (double)values[k] * x;
                        size += fabs((double)values[k] * x);
                    }
                    assert_true(fabs(sum - expected[row]) <= 1e-6 * size);
                }
                for (int s = 0; s < n_sets; s++) {
                    float *y = product(sets[s].matmul, &p, NULL, n, NULL);

                    assert_memory_equal(y, expected, (size_t)(n * (n_rows + 2)) * sizeof *y);
                    free(y);
                }
                free(expected);
            }
            problem_free(&p);
        }
    }
}

/* A token's result does not depend on the tokens beside it. */
static void a_token_is_computed_alike_in_any_company(void **state)
{
    random_state r = {7};
    kernel_set sets[3];
    int n_sets = kernel_sets(sets);

    (void)state;
    for (int i = 0; i < N_QUANT_TYPES; i++) {
        int64_t n_tokens = 67, n_rows = 33;
        problem p;

        problem_create(&p, &r, quant_types[i].type, n_rows, random_columns(&r, quant_types[i].type),
                       n_tokens, true);
        for (int s = 0; s < 2 * n_sets; s++) {
            matmul_fn matmul = sets[s / 2].matmul;
            float *all;

            p.fine = s % 2 == 0;
            all = product(matmul, &p, NULL, n_tokens, NULL);
            for (int32_t t = 0; t < n_tokens; t += 1 + random_below(&r, 6)) {
                float *one = product(matmul, &p, &t, 1, NULL);

                assert_memory_equal(one, all + t * (n_rows + 2), (size_t)n_rows * sizeof *one);
                free(one);
            }
            free(all);
        }
        problem_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_of_32_have_their_values),
        cmocka_unit_test(super_blocks_have_their_values),
        cmocka_unit_test(unquantised_elements_widen_exactly),
        cmocka_unit_test(values_match_the_reference),
        cmocka_unit_test(packed_rows_have_the_values_of_stored_rows),
        cmocka_unit_test(packed_elements_stand_row_beside_row),
        cmocka_unit_test(packed_matrices_are_no_larger_than_stored_ones),
        cmocka_unit_test(forms_of_activations_follow_the_type),
        cmocka_unit_test(activations_round_to_the_nearest_code),
        cmocka_unit_test(both_planes_of_every_activation_stay_in_bounds),
        cmocka_unit_test(bytes_round_to_the_nearest_and_are_summed),
        cmocka_unit_test(small_blocks_become_zeros),
        cmocka_unit_test(every_instruction_set_quantises_alike),
        cmocka_unit_test(a_block_that_is_not_finite_makes_products_nan),
        cmocka_unit_test(products_are_close_to_those_of_the_values),
        cmocka_unit_test(every_instruction_set_gives_the_same_bytes),
        cmocka_unit_test(wide_matrices_give_the_same_bytes),
        cmocka_unit_test(extreme_values_give_the_same_bytes),
        cmocka_unit_test(the_largest_sums_do_not_overflow),
        cmocka_unit_test(a_token_is_computed_alike_in_any_company),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
