/*
 * Products with BF16_PAIRS weights: the rounding of activations, and that every
 * instruction set gives the bits of the definition, whatever the shape, the
 * split over calls and the order of rows.
 */
#include "kernel_testing.h"

/* A matrix, its activations as floats and the result that is expected. */
typedef struct problem {
    moe_matrix w;
    int64_t n_x, n_tokens, ldy;
    int32_t *rows; /* NULL or (n_tokens) */
    void *packed;
    float *x;        /* (n_x, n_cols) */
    float *expected; /* (n_tokens, ldy), NAN where nothing is to be written */
} problem;

static float rounded(float f)
{
    const uint16_t half = moe_f32_to_bf16(f);
    float wide;

    moe_dequantize(MOE_TYPE_BF16, &half, 1, &wide);
    return wide;
}

/* Values of all sizes, so that sums cancel, overflow and come near the smallest
 * numbers. */
static float awkward(uint64_t *state, int flavour)
{
    const float f = random_float(state, 2.0f);

    switch (flavour) {
    case ZEROS:
        return random_bits(state) % 2 ? f : random_bits(state) % 2 ? 0.0f : -0.0f;
    case DENORMALS:
        return ldexpf(f, -random_int(state, 50, 70));
    case OUTLIERS:
        return ldexpf(f, random_int(state, -140, 127));
    default:
        return f;
    }
}

/* The definition: per 32 columns one chain over the even, one over the odd
 * ones. */
static float product(const float *w, const float *x, int64_t n_cols)
{
    float sum = 0.0f;

    for (int64_t u = 0; u < n_cols; u += 32) {
        float even = 0.0f, odd = 0.0f;

        for (int64_t k = u; k < u + 32 && k < n_cols; k += 2) {
            even = fmaf(rounded(w[k]), rounded(x[k]), even);
            if (k + 1 < n_cols)
                odd = fmaf(rounded(w[k + 1]), rounded(x[k + 1]), odd);
        }
        sum += even + odd;
    }
    return sum;
}

static void make_problem(problem *p, uint64_t *state, int n_rows, int n_cols, int n_tokens,
                         bool gather, int flavour)
{
    float *w = new_floats((int64_t)n_rows * n_cols);
    uint16_t *stored = new_array((size_t)n_rows * (size_t)n_cols, sizeof *stored);
    const size_t group_bytes = moe_packed_group_bytes(MOE_TYPE_BF16_PAIRS, n_cols);

    memset(p, 0, sizeof *p);
    p->n_tokens = n_tokens;
    p->n_x = gather ? n_tokens + 3 : n_tokens;
    p->ldy = n_rows + random_int(state, 0, 5);
    p->x = new_floats(p->n_x * n_cols);
    p->expected = new_floats(n_tokens * p->ldy);
    for (int64_t i = 0; i < (int64_t)n_rows * n_cols; i++) {
        w[i] = awkward(state, flavour);
        stored[i] = moe_f32_to_bf16(w[i]);
    }
    for (int64_t i = 0; i < p->n_x * n_cols; i++)
        p->x[i] = awkward(state, flavour);
    if (gather) {
        p->rows = new_array((size_t)n_tokens, sizeof(int32_t));
        for (int t = 0; t < n_tokens; t++)
            p->rows[t] = t > 0 && random_bits(state) % 4 && p->rows[t - 1] + 1 < p->n_x
                             ? p->rows[t - 1] + 1
                             : random_int(state, 0, (int)p->n_x - 1);
    }
    p->packed = aligned_alloc(64, moe_packed_bytes(MOE_TYPE_BF16_PAIRS, n_rows, n_cols));
    assert_non_null(p->packed);
    for (int g = 0; g * 16 < n_rows; g++) {
        const void *rows[16];
        int n = n_rows - g * 16 < 16 ? n_rows - g * 16 : 16;

        for (int i = 0; i < n; i++)
            rows[i] = stored + (int64_t)(g * 16 + i) * n_cols;
        moe_cpu_kernels(MOE_ISA_AUTO)
            ->pack_group(MOE_TYPE_BF16_PAIRS, rows, n, n_cols,
                         (char *)p->packed + (size_t)g * group_bytes);
    }
    p->w = (moe_matrix){
        .type = MOE_TYPE_BF16_PAIRS, .n_rows = n_rows, .n_cols = n_cols, .packed = p->packed};
    for (int64_t i = 0; i < n_tokens * p->ldy; i++)
        p->expected[i] = NAN;
    for (int t = 0; t < n_tokens; t++)
        for (int r = 0; r < n_rows; r++)
            p->expected[t * p->ldy + r] =
                product(w + (int64_t)r * n_cols, p->x + (gather ? p->rows[t] : t) * n_cols, n_cols);
    free(w);
    free(stored);
}

static void free_problem(problem *p)
{
    free(p->rows);
    free(p->packed);
    free(p->x);
    free(p->expected);
}

/* Not-a-numbers may differ in their bits. */
static void same_results(const problem *p, const float *y, const char *isa)
{
    for (int64_t i = 0; i < p->n_tokens * p->ldy; i++)
        if (!isnan(p->expected[i]) || !isnan(y[i]))
            same_floats(p->expected + i, y + i, 1, "product", isa);
}

static void check_all_tables(const problem *p, int64_t split)
{
    const moe_kernels *tables[N_TABLES];
    const int n_tables = tables_present(tables);
    const int64_t n_groups = (p->w.n_rows + 15) / 16, ld = moe_bf16_columns(p->w.n_cols);

    for (int i = 0; i < n_tables; i++) {
        const size_t element = (size_t)tables[i]->bf16_bytes;
        char *rounded_x = new_array((size_t)(p->n_x * ld), element);
        float *y = new_floats(p->n_tokens * p->ldy);
        moe_activations x = {.n_cols = p->w.n_cols, .bf16 = rounded_x};

        for (int64_t t = 0; t < p->n_x; t++)
            tables[i]->round_bf16(p->x + t * p->w.n_cols, p->w.n_cols,
                                  rounded_x + (size_t)(t * ld) * element);
        for (int64_t k = 0; k < p->n_tokens * p->ldy; k++)
            y[k] = NAN;
        for (int64_t g = 0; g < n_groups; g += split)
            tables[i]->matmul(&p->w, g, g + split < n_groups ? g + split : n_groups, &x, p->rows,
                              p->n_tokens, y, p->ldy);
        same_results(p, y, tables[i]->name);
        free(rounded_x);
        free(y);
    }
}

/* Where a table's rounded activations have column k. */
static int64_t place_of(const moe_kernels *table, int64_t k)
{
    static const int order[] = {1, 3, 0, 2};

    return table->isa == MOE_ISA_AVX512_BF16 ? k / 4 * 4 + order[k % 4] : k;
}

static void rounding_is_to_nearest_even_and_flushes_small_values(void **unused)
{
    static const struct {
        float from, to;
    } cases[] = {
        {1.0f, 1.0f},
        {0x1.01p0f, 0x1.00p0f}, /* halfway, down to even */
        {0x1.03p0f, 0x1.04p0f}, /* halfway, up to even */
        {0x1.010002p0f, 0x1.02p0f},
        {-0x1.03p0f, -0x1.04p0f},
        {0x1p-56f, 0x1p-56f},
        {-0x1.fffffep-57f, 0.0f},
        {0x1p-149f, 0.0f},
        {-0.0f, 0.0f},
        {FLT_MAX, INFINITY},
        {-INFINITY, -INFINITY},
    };
    const moe_kernels *tables[N_TABLES];
    const int n_tables = tables_present(tables);

    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const float got = rounded(cases[i].from);

        same_floats(&cases[i].to, &got, 1, "rounding", "definition");
    }
    assert_true(isnan(rounded(NAN)));
    for (int i = 0; i < n_tables; i++) {
        uint64_t state = 7;

        for (int n = 1; n < 70; n++) {
            const int64_t ld = moe_bf16_columns(n);
            const size_t element = (size_t)tables[i]->bf16_bytes;
            float *x = new_floats(n);
            char *y = new_array((size_t)ld, element);

            for (int k = 0; k < n; k++) {
                const uint32_t bits = random_bits(&state) ^ random_bits(&state) << 16;

                memcpy(x + k, &bits, 4);
            }
            tables[i]->round_bf16(x, n, y);
            for (int64_t k = 0; k < ld; k++) {
                const uint16_t expected = k < n ? moe_f32_to_bf16(x[k]) : 0;
                uint16_t got;

                memcpy(&got, y + (size_t)place_of(tables[i], k) * element + element - 2, 2);
                assert_int_equal(got, expected);
            }
            free(x);
            free(y);
        }
    }
}

static void products_of_all_small_shapes_follow_the_definition(void **unused)
{
    uint64_t state = 1;
    problem p;

    (void)unused;
    for (int n = 1; n <= 80; n++) {
        make_problem(&p, &state, n, random_int(&state, 1, 130), n * 7 % 53 + 1, n % 2,
                     n % N_FLAVOURS);
        check_all_tables(&p, n);
        free_problem(&p);
    }
}

static void products_of_many_tokens_and_columns_follow_the_definition(void **unused)
{
    static const int tokens[] = {1, 2, 6, 7, 15, 16, 17, 31, 32, 33, 48, 49, 100, 150};
    uint64_t state = 2;
    problem p;

    (void)unused;
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        make_problem(&p, &state, random_int(&state, 30, 100), random_int(&state, 120, 400),
                     tokens[i], i % 4 == 3, (int)i % N_FLAVOURS);
        check_all_tables(&p, random_int(&state, 1, 3));
        free_problem(&p);
    }
}

static void packed_rows_can_be_read_back(void **unused)
{
    uint64_t state = 3;

    (void)unused;
    for (int n_cols = 1; n_cols < 70; n_cols++) {
        problem p;
        float *row = new_floats(n_cols);

        make_problem(&p, &state, 19, n_cols, 1, false, PLAIN);
        for (int r = 0; r < 19; r++) {
            float expected;

            moe_unpack_row(&p.w, r, row);
            expected = product(row, p.x, n_cols);
            same_floats(&expected, p.expected + r, 1, "row", "packing");
            assert_true(rounded(row[0]) == row[0]);
        }
        free(row);
        free_problem(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_is_to_nearest_even_and_flushes_small_values),
        cmocka_unit_test(products_of_all_small_shapes_follow_the_definition),
        cmocka_unit_test(products_of_many_tokens_and_columns_follow_the_definition),
        cmocka_unit_test(packed_rows_can_be_read_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
