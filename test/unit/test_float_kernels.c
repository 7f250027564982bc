/*
 * Products with unquantised weights: every instruction set gives the bits of the definition, one
 * chain of fma per output, whatever the shape, the split over calls and the tokens beside it.
 */
#include "kernel_testing.h"

#include "cpu/blas.h"

static const moe_type types[] = {MOE_TYPE_F32, MOE_TYPE_F16, MOE_TYPE_BF16};

/* A matrix, its activations and the result that is expected. */
typedef struct problem {
    moe_matrix w;
    moe_activations x;
    int64_t n_tokens, ldy;
    int32_t *rows; /* NULL or (n_tokens) */
    void *packed;
    float *wide; /* (n_rows, n_cols) */
    float *f32;
    float *expected; /* (n_tokens, ldy), NAN where nothing is to be written */
    float *y;
} problem;

static void make_problem(problem *p, uint64_t *state, moe_type type, int n_rows, int n_cols,
                         int n_tokens, bool gather, int flavour)
{
    int n_x = gather ? n_tokens + 3 : n_tokens;
    int64_t ld = n_cols + random_int(state, 0, 3);
    size_t size = type == MOE_TYPE_F32 ? 4 : 2;
    char *stored = new_array((size_t)n_rows * (size_t)n_cols, size);

    memset(p, 0, sizeof *p);
    p->n_tokens = n_tokens;
    p->ldy = n_rows + random_int(state, 0, 5);
    p->wide = new_floats((int64_t)n_rows * n_cols);
    p->f32 = new_floats(n_x * ld);
    p->expected = new_floats(n_tokens * p->ldy);
    p->y = new_floats(n_tokens * p->ldy);
    fill(state, p->wide, (int64_t)n_rows * n_cols, flavour);
    fill(state, p->f32, n_x * ld, flavour);
    for (int64_t i = 0; i < (int64_t)n_rows * n_cols; i++) {
        uint32_t bits;
        memcpy(&bits, &p->wide[i], 4);
        uint16_t half = type == MOE_TYPE_F16 ? moe_f32_to_f16(p->wide[i]) : (uint16_t)(bits >> 16);
        if (type == MOE_TYPE_F32)
            memcpy(stored + i * 4, &bits, 4);
        else
            memcpy(stored + i * 2, &half, 2);
        bits = (uint32_t)half << 16;
        if (type == MOE_TYPE_F16)
            p->wide[i] = moe_f16_to_f32(half);
        if (type == MOE_TYPE_BF16)
            memcpy(&p->wide[i], &bits, 4);
    }
    if (gather) {
        p->rows = new_array((size_t)n_tokens, sizeof(int32_t));
        for (int t = 0; t < n_tokens; t++)
            p->rows[t] = random_int(state, 0, n_x - 1);
    }
    size_t group_bytes = moe_packed_group_bytes(type, n_cols);
    p->packed = aligned_alloc(64, moe_packed_bytes(type, n_rows, n_cols));
    assert_non_null(p->packed);
    for (int g = 0; g * 16 < n_rows; g++) {
        const void *rows[16];
        int n = n_rows - g * 16 < 16 ? n_rows - g * 16 : 16;
        for (int i = 0; i < n; i++)
            rows[i] = stored + (size_t)(g * 16 + i) * (size_t)n_cols * size;
        moe_cpu_kernels(MOE_ISA_SCALAR)
            ->pack_group(type, rows, n, n_cols, (char *)p->packed + (size_t)g * group_bytes);
    }
    free(stored);
    p->w = (moe_matrix){.type = type, .n_rows = n_rows, .n_cols = n_cols, .packed = p->packed};
    p->x = (moe_activations){.n_cols = n_cols, .f32 = p->f32, .ld = ld};

    for (int64_t i = 0; i < n_tokens * p->ldy; i++)
        p->expected[i] = NAN;
    for (int t = 0; t < n_tokens; t++) {
        const float *x = p->f32 + (gather ? p->rows[t] : t) * ld;
        for (int r = 0; r < n_rows; r++) {
            float acc = 0.0f;
            for (int k = 0; k < n_cols; k++)
                acc = fmaf(p->wide[(int64_t)r * n_cols + k], x[k], acc);
            p->expected[t * p->ldy + r] = acc;
        }
    }
}

static void clear_result(problem *p)
{
    for (int64_t i = 0; i < p->n_tokens * p->ldy; i++)
        p->y[i] = NAN;
}

static void free_problem(problem *p)
{
    free(p->rows);
    free(p->packed);
    free(p->wide);
    free(p->f32);
    free(p->expected);
    free(p->y);
}

static void check_all_tables(problem *p)
{
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);
    int64_t n_groups = (p->w.n_rows + 15) / 16;

    for (int i = 0; i < n_tables; i++) {
        clear_result(p);
        tables[i]->matmul(&p->w, 0, n_groups, &p->x, p->rows, p->n_tokens, p->y, p->ldy);
        same_floats(p->expected, p->y, p->n_tokens * p->ldy, "product", tables[i]->name);
    }
}

static void products_of_all_small_shapes_follow_the_definition(void **unused)
{
    uint64_t state = 1;
    problem p;

    (void)unused;
    for (int n = 1; n <= 70; n++) {
        for (int t = 0; t < 3; t++) {
            make_problem(&p, &state, types[t], n, random_int(&state, 1, 70), (n * 7 + t) % 23 + 1,
                         n % 2, n % N_FLAVOURS);
            check_all_tables(&p);
            free_problem(&p);
        }
    }
}

static void products_of_many_tokens_and_columns_follow_the_definition(void **unused)
{
    static const int tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 18, 19, 37, 72, 73, 150};
    uint64_t state = 2;
    problem p;

    (void)unused;
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        for (int t = 0; t < 3; t++) {
            make_problem(&p, &state, types[t], random_int(&state, 60, 130),
                         random_int(&state, 120, 400), tokens[i], i % 2 == 1, (int)i % N_FLAVOURS);
            check_all_tables(&p);
            free_problem(&p);
        }
    }
}

static void a_split_over_groups_or_tokens_changes_nothing(void **unused)
{
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);
    uint64_t state = 3;
    problem p;

    (void)unused;
    for (int t = 0; t < 3; t++) {
        make_problem(&p, &state, types[t], 150, 200, 50, false, PLAIN);
        for (int i = 0; i < n_tables; i++) {
            clear_result(&p);
            for (int64_t g = 0, g_end; g < 10; g = g_end) {
                g_end = g + random_int(&state, 1, 4);
                g_end = g_end > 10 ? 10 : g_end;
                for (int64_t first = 0, n; first < 50; first += n) {
                    moe_activations x = p.x;
                    n = random_int(&state, 1, 25);
                    n = n > 50 - first ? 50 - first : n;
                    x.f32 += first * x.ld;
                    tables[i]->matmul(&p.w, g, g_end, &x, NULL, n,
                                      p.y + first * p.ldy, p.ldy);
                }
            }
            same_floats(p.expected, p.y, p.n_tokens * p.ldy, "split product", tables[i]->name);
        }
        free_problem(&p);
    }
}

static void products_are_accurate(void **unused)
{
    uint64_t state = 4;
    problem p;

    (void)unused;
    make_problem(&p, &state, MOE_TYPE_F32, 40, 2000, 5, false, PLAIN);
    for (int t = 0; t < 5; t++) {
        for (int r = 0; r < 40; r++) {
            double sum = 0.0, magnitude = 0.0;
            for (int k = 0; k < 2000; k++) {
                double product = (double)p.wide[r * 2000 + k] * (double)p.f32[t * p.x.ld + k];
                sum += product;
                magnitude += fabs(product);
            }
            assert_true(fabs(p.expected[t * p.ldy + r] - sum) <= 1e-5 * magnitude);
        }
    }
    free_problem(&p);
}

static void openblas_agrees_up_to_rounding(void **unused)
{
    uint64_t state = 5;
    problem p;

    (void)unused;
    for (int t = 0; t < 3; t++) {
        for (int gather = 0; gather < 2; gather++) {
            make_problem(&p, &state, types[t], 300, 170, 21, gather, PLAIN);
            void *scratch = aligned_alloc(64, (moe_blas_scratch_bytes(170, 21) + 63) / 64 * 64);
            assert_non_null(scratch);
            clear_result(&p);
            moe_matmul_blas(&p.w, 0, 7, &p.x, p.rows, 21, p.y, p.ldy, scratch);
            moe_matmul_blas(&p.w, 7, 19, &p.x, p.rows, 21, p.y, p.ldy, scratch);
            for (int64_t i = 0; i < p.n_tokens * p.ldy; i++) {
                if (isnan(p.expected[i]))
                    assert_true(isnan(p.y[i]));
                else
                    assert_true(fabsf(p.y[i] - p.expected[i]) <= 1e-3f);
            }
            free(scratch);
            free_problem(&p);
        }
    }
}

/* f16 by arithmetic instead of bits: the nearest multiple of the spacing at |f|, ties to even. */
static uint16_t narrow_by_arithmetic(float f)
{
    double magnitude = fabs((double)f);
    int exponent = magnitude < 0x1p-14 ? -14 : ilogb(magnitude);
    double units = nearbyint(ldexp(magnitude, 10 - exponent)); /* 1024..2048, less below 2^-14 */
    double rounded = ldexp(units, exponent - 10);
    uint16_t sign = signbit(f) ? 0x8000 : 0;

    if (rounded >= 65536.0)
        return sign | 0x7c00;
    if (rounded < 0x1p-14)
        return (uint16_t)(sign | (int)ldexp(rounded, 24));
    exponent = ilogb(rounded);
    return (uint16_t)(sign | ((exponent + 15) << 10 | ((int)ldexp(rounded, 10 - exponent) & 1023)));
}

static void half_conversions_are_exact(void **unused)
{
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);
    uint64_t state = 6;

    (void)unused;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float wide = moe_f16_to_f32((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) {
            assert_true(isnan(wide));
            assert_int_equal(moe_f32_to_f16(wide), h | 0x200);
        } else {
            assert_int_equal(moe_f32_to_f16(wide), h);
            if ((h & 0x7fff) < 0x7c00)
                assert_int_equal(narrow_by_arithmetic(wide), h);
        }
    }
    for (int i = 0; i < 1000000; i++) {
        float f = random_float(&state, 1.0f) * ldexpf(1.0f, random_int(&state, -28, 17));
        assert_int_equal(moe_f32_to_f16(f), narrow_by_arithmetic(f));
    }

    /* The conversions of the vector kernels, seen through the KV cache and a product with 1. */
    for (int i = 0; i < n_tables; i++) {
        for (uint32_t h = 0; h < 0x10000; h += 16) {
            float one = 1.0f, wide[16], y[16];
            _Alignas(64) uint16_t stored[32], v_page[MOE_KV_PAGE * 16], k_page[MOE_KV_PAGE];
            moe_activations x = {.n_cols = 1, .f32 = &one, .ld = 1};
            moe_matrix w = {.type = MOE_TYPE_F16, .n_rows = 16, .n_cols = 1, .packed = stored};

            for (int j = 0; j < 16; j++) {
                stored[j] = (uint16_t)(h + (uint32_t)j);
                wide[j] = moe_f16_to_f32(stored[j]);
            }
            tables[i]->kv_store(wide, wide, 0, 1, 16, false, k_page, v_page);
            for (int j = 0; j < 16; j++)
                assert_int_equal(v_page[j], moe_f32_to_f16(wide[j]));
            if ((h & 0x7c00) == 0x7c00)
                continue;
            tables[i]->matmul(&w, 0, 1, &x, NULL, 1, y, 16);
            for (int j = 0; j < 16; j++)
                wide[j] += 0.0f; /* a chain starts at +0 */
            same_floats(wide, y, 16, "widening", tables[i]->name);
        }
    }
}

static void instruction_sets_have_names_and_tables(void **unused)
{
    moe_isa isa;

    (void)unused;
    assert_true(moe_isa_by_name("auto", &isa));
    assert_int_equal(isa, MOE_ISA_AUTO);
    assert_ptr_equal(moe_cpu_kernels(MOE_ISA_AUTO), moe_cpu_kernels(moe_cpu_best_isa()));
    assert_non_null(moe_cpu_kernels(MOE_ISA_SCALAR));
    for (int i = MOE_ISA_SCALAR; i <= MOE_ISA_AMX; i++) {
        const moe_kernels *table = moe_cpu_kernels((moe_isa)i);
        if (table == NULL)
            continue;
        assert_int_equal(table->isa, i);
        assert_true(moe_isa_by_name(table->name, &isa));
        assert_int_equal(isa, i);
    }
    assert_true(moe_isa_by_name("amx", &isa));
    assert_int_equal(isa, MOE_ISA_AMX);
    assert_false(moe_isa_by_name("avx", &isa));
    assert_false(moe_isa_by_name("", &isa));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(instruction_sets_have_names_and_tables),
        cmocka_unit_test(half_conversions_are_exact),
        cmocka_unit_test(products_of_all_small_shapes_follow_the_definition),
        cmocka_unit_test(products_of_many_tokens_and_columns_follow_the_definition),
        cmocka_unit_test(a_split_over_groups_or_tokens_changes_nothing),
        cmocka_unit_test(products_are_accurate),
        cmocka_unit_test(openblas_agrees_up_to_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
