/*
 * The vector operations: every instruction set gives the bits of the scalar ones for all lengths
 * and awkward values, the sums follow the lane rule, and the functions are accurate.
 */
#include "kernel_testing.h"

enum { LONGEST = 4099 };

/* Inputs and room for results, all (LONGEST), used from the end so that an access behind the
 * last element is one outside the allocation. */
typedef struct arrays {
    float *a, *b, *c, *y, *expected;
} arrays;

static arrays make_arrays(void)
{
    return (arrays){new_floats(LONGEST), new_floats(LONGEST), new_floats(LONGEST),
                    new_floats(LONGEST), new_floats(LONGEST)};
}

static void free_arrays(arrays *s)
{
    free(s->a);
    free(s->b);
    free(s->c);
    free(s->y);
    free(s->expected);
}

enum {
    RMS_NORM, RMS_NORM_PLAIN, LAYER_NORM, LAYER_NORM_PLAIN, ADD, ADD_SCALED, SCALE, SILU_MUL,
    GELU_MUL, GELU_ERF, GELU_TANH, EXP, SIGMOID, SOFTMAX, DOT, SUM, MAX, EXP_SUM, N_OPERATIONS
};

/* Runs an operation; those that give a number leave it in y[0], and y[1] if there are two. */
static void run(const moe_kernels *k, int operation, const float *a, const float *b,
                const float *c, int64_t n, float *y)
{
    switch (operation) {
    case RMS_NORM: k->rms_norm(a, b, 1e-6f, n, y); break;
    case RMS_NORM_PLAIN: k->rms_norm(a, NULL, 1e-6f, n, y); break;
    case LAYER_NORM: k->layer_norm(a, b, c, 1e-5f, n, y); break;
    case LAYER_NORM_PLAIN: k->layer_norm(a, NULL, NULL, 1e-5f, n, y); break;
    case ADD: k->add(a, b, n, y); break;
    case ADD_SCALED: memcpy(y, c, (size_t)n * sizeof *y); k->add_scaled(a, b[0], n, y); break;
    case SCALE: k->scale(a, b[0], n, y); break;
    case SILU_MUL: k->silu_mul(a, b, n, y); break;
    case GELU_MUL: k->gelu_mul(a, b, n, y); break;
    case GELU_ERF: k->gelu_erf(a, n, y); break;
    case GELU_TANH: k->gelu_tanh(a, n, y); break;
    case EXP: k->exp(a, n, y); break;
    case SIGMOID: k->sigmoid(a, n, y); break;
    case SOFTMAX: k->softmax(a, n, y); break;
    case DOT: y[0] = k->dot(a, b, n); break;
    case SUM: y[0] = k->sum(a, n); break;
    case MAX: y[0] = k->max(a, n); break;
    case EXP_SUM: {
        float m;
        float sum = k->exp_sum(a, n, &m);
        y[0] = n > 1 ? m : sum;
        if (n > 1)
            y[1] = sum;
        break;
    }
    }
}

static const char *const names[N_OPERATIONS] = {
    "rms_norm", "rms_norm without weight", "layer_norm", "layer_norm without weight", "add",
    "add_scaled", "scale", "silu_mul", "gelu_mul", "gelu_erf", "gelu_tanh", "exp", "sigmoid",
    "softmax", "dot", "sum", "max", "exp_sum"};

static void all_instruction_sets_give_the_same_bits(void **unused)
{
    static const int long_ones[] = {255, 256, 257, 1000, LONGEST};
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);
    uint64_t state = 1;
    arrays s = make_arrays();

    (void)unused;
    for (int i = 1; i <= 75; i++) {
        int64_t n = i <= 70 ? i : long_ones[i - 71];
        for (int flavour = 0; flavour <= N_FLAVOURS; flavour++) {
            float *a = s.a + LONGEST - n, *b = s.b + LONGEST - n, *c = s.c + LONGEST - n;
            float *y = s.y + LONGEST - n, *expected = s.expected + LONGEST - n;
            fill(&state, a, n, flavour);
            fill(&state, b, n, flavour);
            fill(&state, c, n, flavour);
            for (int64_t j = 0; flavour == N_FLAVOURS && j < n; j++)
                a[j] *= 60.0f; /* the whole range of exp */
            for (int operation = 0; operation < N_OPERATIONS; operation++) {
                memset(expected, 0, (size_t)n * sizeof *expected);
                run(tables[0], operation, a, b, c, n, expected);
                for (int t = 1; t < n_tables; t++) {
                    memset(y, 0, (size_t)n * sizeof *y);
                    run(tables[t], operation, a, b, c, n, y);
                    same_floats(expected, y, n, names[operation], tables[t]->name);
                    /* The same in place. */
                    if (operation >= DOT || operation == ADD_SCALED)
                        continue;
                    memcpy(y, a, (size_t)n * sizeof *y);
                    run(tables[t], operation, y, b, c, n, y);
                    same_floats(expected, y, n, names[operation], tables[t]->name);
                }
            }
        }
    }
    free_arrays(&s);
}

static void sums_follow_the_lane_rule(void **unused)
{
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);
    uint64_t state = 2;
    arrays s = make_arrays();

    (void)unused;
    for (int n = 1; n <= 200; n++) {
        float dot[16] = {0}, sum[16] = {0}, squares[16] = {0}, largest = -INFINITY;
        fill(&state, s.a, n, PLAIN);
        fill(&state, s.b, n, PLAIN);
        for (int i = 0; i < n; i++) {
            dot[i % 16] = fmaf(s.a[i], s.b[i], dot[i % 16]);
            squares[i % 16] = fmaf(s.a[i], s.a[i], squares[i % 16]);
            sum[i % 16] += s.a[i];
            largest = s.a[i] > largest ? s.a[i] : largest;
        }
        float expected[3] = {lane_sum(dot), lane_sum(sum), largest};
        float r = 1.0f / sqrtf(lane_sum(squares) / (float)n + 1e-5f);
        for (int i = 0; i < n; i++)
            s.expected[i] = s.a[i] * r * s.b[i];
        for (int t = 0; t < n_tables; t++) {
            float got[3] = {tables[t]->dot(s.a, s.b, n), tables[t]->sum(s.a, n),
                            tables[t]->max(s.a, n)};
            same_floats(expected, got, 3, "dot, sum, max", tables[t]->name);
            tables[t]->rms_norm(s.a, s.b, 1e-5f, n, s.y);
            same_floats(s.expected, s.y, n, "rms_norm", tables[t]->name);
        }
    }
    free_arrays(&s);
}

/* |got - exact| in units of the last place of exact. */
static double ulps(float got, double exact)
{
    int exponent;
    frexp(exact, &exponent);
    return fabs((double)got - exact) / ldexp(1.0, exponent - 24);
}

typedef double (*real_function)(double);

static double real_sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

static double real_gelu(double x)
{
    return 0.5 * x * erfc(-x * M_SQRT1_2);
}

static double real_gelu_tanh(double x)
{
    return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static void functions_are_accurate(void **unused)
{
    const moe_kernels *k = moe_cpu_kernels(MOE_ISA_AUTO);
    double worst_exp = 0, worst_sigmoid = 0, worst_gelu = 0, worst_gelu_tanh = 0;
    enum { N = 1000 };
    float x[N], y[N];

    (void)unused;
    for (int step = 0; step < 600; step++) {
        for (int i = 0; i < N; i++)
            x[i] = -87.3365f + 176.0f * (float)(step * N + i) / (600.0f * N);
        k->exp(x, N, y);
        for (int i = 0; i < N; i++)
            worst_exp = fmax(worst_exp, ulps(y[i], exp(x[i])));
        for (int i = 0; i < N; i++)
            x[i] = -20.0f + 40.0f * (float)(step * N + i) / (600.0f * N);
        k->sigmoid(x, N, y);
        for (int i = 0; i < N; i++)
            worst_sigmoid = fmax(worst_sigmoid, ulps(y[i], real_sigmoid(x[i])));
        k->gelu_erf(x, N, y);
        for (int i = 0; i < N; i++)
            worst_gelu = fmax(worst_gelu, fabs(y[i] - real_gelu(x[i])) / fmax(fabs(x[i]), 1e-3));
        k->gelu_tanh(x, N, y);
        for (int i = 0; i < N; i++)
            worst_gelu_tanh = fmax(worst_gelu_tanh, fabs(y[i] - real_gelu_tanh(x[i])) /
                                                        fmax(fabs(x[i]), 1e-3));
    }
    print_message("exp %.3f ulp, sigmoid %.3f ulp, gelu %.3g |x|, gelu_tanh %.3g |x|\n", worst_exp,
                  worst_sigmoid, worst_gelu, worst_gelu_tanh);
    assert_true(worst_exp <= 1.0);
    assert_true(worst_sigmoid <= 2.5);
    assert_true(worst_gelu <= 1e-7);
    assert_true(worst_gelu_tanh <= 1.2e-7);
}

static void exp_is_defined_at_the_ends_of_its_range(void **unused)
{
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);
    const float x[] = {0.0f, -0.0f, -INFINITY, -1000.0f, -87.33651f, INFINITY, 1000.0f,
                       0x1.62e43p+6f, 0x1.62e42ep+6f, -87.3365f, NAN};
    enum { N = sizeof x / sizeof x[0] };

    (void)unused;
    for (int t = 0; t < n_tables; t++) {
        float y[N];
        tables[t]->exp(x, N, y);
        for (int i = 0; i < 2; i++)
            assert_true(y[i] == 1.0f);
        for (int i = 2; i < 5; i++)
            assert_true(y[i] == 0.0f && !signbit(y[i]));
        for (int i = 5; i < 8; i++)
            assert_true(y[i] == INFINITY);
        assert_true(y[8] > 3.4e38f && y[8] <= FLT_MAX);
        assert_true(y[9] >= FLT_MIN && y[9] < 1.18e-38f);
        assert_true(isnan(y[10]));
    }
}

static void norms_and_softmax_are_accurate(void **unused)
{
    const moe_kernels *k = moe_cpu_kernels(MOE_ISA_AUTO);
    uint64_t state = 3;
    enum { N = 777 };
    float x[N], w[N], b[N], y[N];
    double mean = 0, squares = 0, variance = 0, sum = 0, largest = -1e30, total = 0;

    (void)unused;
    fill(&state, x, N, PLAIN);
    fill(&state, w, N, PLAIN);
    fill(&state, b, N, PLAIN);
    for (int i = 0; i < N; i++) {
        x[i] += 5.0f;
        mean += x[i] / (double)N;
        squares += (double)x[i] * x[i] / N;
        largest = fmax(largest, x[i]);
    }
    for (int i = 0; i < N; i++) {
        variance += (x[i] - mean) * (x[i] - mean) / N;
        sum += exp(x[i] - largest);
    }
    k->rms_norm(x, w, 1e-5f, N, y);
    for (int i = 0; i < N; i++)
        assert_true(fabs(y[i] - x[i] / sqrt(squares + 1e-5) * w[i]) <= 1e-6);
    k->layer_norm(x, w, b, 1e-5f, N, y);
    for (int i = 0; i < N; i++)
        assert_true(fabs(y[i] - ((x[i] - mean) / sqrt(variance + 1e-5) * w[i] + b[i])) <= 3e-6);
    k->softmax(x, N, y);
    for (int i = 0; i < N; i++) {
        assert_true(fabs(y[i] - exp(x[i] - largest) / sum) <= 1e-6 * exp(x[i] - largest) / sum);
        total += y[i];
    }
    assert_true(fabs(total - 1.0) <= 1e-6);
}

static void rope_rotates_the_pairs_of_its_style(void **unused)
{
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);
    uint64_t state = 4;

    (void)unused;
    for (int half = 1; half <= 70; half++) {
        for (int interleaved = 0; interleaved < 2; interleaved++) {
            int rest = random_int(&state, 0, 5), d = 2 * half + rest, n_heads = half % 3 + 1;
            float *x = new_floats(n_heads * d), *y = new_floats(n_heads * d);
            float *cosine = new_floats(half), *sine = new_floats(half);

            for (int i = 0; i < half; i++) {
                double angle = random_float(&state, 3.0f);
                cosine[i] = (float)cos(angle);
                sine[i] = (float)sin(angle);
            }
            fill(&state, x, n_heads * d, half % N_FLAVOURS);
            for (int t = 0; t < n_tables; t++) {
                memcpy(y, x, (size_t)(n_heads * d) * sizeof *y);
                tables[t]->rope(y, n_heads, d, 2 * half, cosine, sine, interleaved);
                for (int h = 0; h < n_heads; h++) {
                    for (int i = 0; i < half; i++) {
                        int i0 = h * d + (interleaved ? 2 * i : i);
                        int i1 = h * d + (interleaved ? 2 * i + 1 : half + i);
                        float expected[2] = {fmaf(-x[i1], sine[i], x[i0] * cosine[i]),
                                             fmaf(x[i0], sine[i], x[i1] * cosine[i])};
                        float got[2] = {y[i0], y[i1]};
                        same_floats(expected, got, 2, "rope", tables[t]->name);
                    }
                    same_floats(x + h * d + 2 * half, y + h * d + 2 * half, rest, "rope's rest",
                                tables[t]->name);
                }
            }
            free(x);
            free(y);
            free(cosine);
            free(sine);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_instruction_sets_give_the_same_bits),
        cmocka_unit_test(sums_follow_the_lane_rule),
        cmocka_unit_test(functions_are_accurate),
        cmocka_unit_test(exp_is_defined_at_the_ends_of_its_range),
        cmocka_unit_test(norms_and_softmax_are_accurate),
        cmocka_unit_test(rope_rotates_the_pairs_of_its_style),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
