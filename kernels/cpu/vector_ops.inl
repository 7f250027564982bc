/*
 * The vector operations of moe_kernels, for the instruction set whose v16 header is included
 * before.
 *
 * Sums run in the 16 lanes of one vector, lane i taking elements i, i + 16, …, and end in the tree
 * of v16_sum.  A tail shorter than 16 is filled up with what changes nothing: +0 for sums,
 * -infinity for the maximum.  Vectors are not assumed to be aligned.
 */
#include "v16_math.inl"

/* Runs body for each 16 elements from i on (left = 16), then once for the left = n - i others. */
#define EACH_16(n, body)                                                                           \
    do {                                                                                           \
        int64_t i = 0;                                                                             \
        for (; i + 16 <= (n); i += 16) {                                                           \
            const int64_t left = 16;                                                               \
            body                                                                                   \
        }                                                                                          \
        if (i < (n)) {                                                                             \
            const int64_t left = (n)-i;                                                            \
            body                                                                                   \
        }                                                                                          \
    } while (0)

V16_FN v16 load_left(const float *p, int64_t left)
{
    return left == 16 ? v16_load(p) : v16_load_n(p, left);
}

V16_FN void store_left(float *p, v16 a, int64_t left)
{
    if (left == 16)
        v16_store(p, a);
    else
        v16_store_n(p, a, left);
}

V16_FN v16 keep_left(v16 a, int64_t left, float other)
{
    return left == 16 ? a : v16_keep(a, 0, left, other);
}

/* y[i] = op(x[i]) and y[i] = op(a[i], b[i]) for all elements, whatever op does in a lane. */
#define MAP_1(x, n, y, op) EACH_16(n, { store_left((y) + i, op(load_left((x) + i, left)), left); })
#define MAP_2(a, b, n, y, op)                                                                      \
    EACH_16(                                                                                       \
        n, { store_left((y) + i, op(load_left((a) + i, left), load_left((b) + i, left)), left); })

float ISA(moe_dot)(const float *a, const float *b, int64_t n)
{
    v16 acc = v16_zero();

    EACH_16(n, { acc = v16_fma(load_left(a + i, left), load_left(b + i, left), acc); });
    return v16_sum(acc);
}

float ISA(moe_sum)(const float *a, int64_t n)
{
    v16 acc = v16_zero();

    EACH_16(n, { acc = v16_add(acc, load_left(a + i, left)); });
    return v16_sum(acc);
}

float ISA(moe_max)(const float *a, int64_t n)
{
    v16 acc = v16_set1(-INFINITY);

    EACH_16(n, { acc = v16_max(acc, keep_left(load_left(a + i, left), left, -INFINITY)); });
    return v16_largest(acc);
}

void ISA(moe_rms_norm)(const float *x, const float *weight, float eps, int64_t n, float *y)
{
    float mean = ISA(moe_dot)(x, x, n) / (float)n;
    const v16 r = v16_set1(1.0f / sqrtf(mean + eps));

    if (weight == NULL)
        EACH_16(n, { store_left(y + i, v16_mul(load_left(x + i, left), r), left); });
    else
        EACH_16(n, {
            v16 scaled = v16_mul(load_left(x + i, left), r);
            store_left(y + i, v16_mul(scaled, load_left(weight + i, left)), left);
        });
}

void ISA(moe_layer_norm)(const float *x, const float *weight, const float *bias, float eps,
                         int64_t n, float *y)
{
    const v16 mean = v16_set1(ISA(moe_sum)(x, n) / (float)n);
    v16 acc = v16_zero();

    EACH_16(n, {
        v16 centred = v16_sub(load_left(x + i, left), mean);
        centred = keep_left(centred, left, 0.0f);
        acc = v16_fma(centred, centred, acc);
    });
    const v16 r = v16_set1(1.0f / sqrtf(v16_sum(acc) / (float)n + eps));
    EACH_16(n, {
        v16 normal = v16_mul(v16_sub(load_left(x + i, left), mean), r);
        v16 w = weight != NULL ? load_left(weight + i, left) : v16_set1(1.0f);
        v16 b = bias != NULL ? load_left(bias + i, left) : v16_zero();
        store_left(y + i, v16_fma(normal, w, b), left);
    });
}

void ISA(moe_add)(const float *a, const float *b, int64_t n, float *y)
{
    MAP_2(a, b, n, y, v16_add);
}

void ISA(moe_add_scaled)(const float *x, float w, int64_t n, float *y)
{
    const v16 factor = v16_set1(w);

    EACH_16(n, {
        v16 sum = v16_fma(factor, load_left(x + i, left), load_left(y + i, left));
        store_left(y + i, sum, left);
    });
}

void ISA(moe_scale)(const float *x, float w, int64_t n, float *y)
{
    const v16 factor = v16_set1(w);

    EACH_16(n, { store_left(y + i, v16_mul(factor, load_left(x + i, left)), left); });
}

V16_FN v16 silu_mul(v16 gate, v16 up)
{
    return v16_mul(v16_silu(gate), up);
}

void ISA(moe_silu_mul)(const float *gate, const float *up, int64_t n, float *y)
{
    MAP_2(gate, up, n, y, silu_mul);
}

V16_FN v16 gelu_mul(v16 gate, v16 up)
{
    return v16_mul(v16_gelu_tanh(gate), up);
}

void ISA(moe_gelu_mul)(const float *gate, const float *up, int64_t n, float *y)
{
    MAP_2(gate, up, n, y, gelu_mul);
}

void ISA(moe_gelu_erf)(const float *x, int64_t n, float *y)
{
    MAP_1(x, n, y, v16_gelu_erf);
}

void ISA(moe_gelu_tanh)(const float *x, int64_t n, float *y)
{
    MAP_1(x, n, y, v16_gelu_tanh);
}

void ISA(moe_exp)(const float *x, int64_t n, float *y)
{
    MAP_1(x, n, y, v16_exp);
}

void ISA(moe_sigmoid)(const float *x, int64_t n, float *y)
{
    MAP_1(x, n, y, v16_sigmoid);
}

void ISA(moe_softmax)(const float *x, int64_t n, float *y)
{
    const v16 m = v16_set1(ISA(moe_max)(x, n));
    v16 acc = v16_zero();

    EACH_16(n, {
        v16 p = v16_exp(v16_sub(load_left(x + i, left), m));
        store_left(y + i, p, left);
        acc = v16_add(acc, keep_left(p, left, 0.0f));
    });
    const v16 sum = v16_set1(v16_sum(acc));
    EACH_16(n, { store_left(y + i, v16_div(load_left(y + i, left), sum), left); });
}

float ISA(moe_exp_sum)(const float *x, int64_t n, float *m)
{
    *m = ISA(moe_max)(x, n);

    const v16 largest = v16_set1(*m);
    v16 acc = v16_zero();
    EACH_16(n, {
        v16 p = v16_exp(v16_sub(load_left(x + i, left), largest));
        acc = v16_add(acc, keep_left(p, left, 0.0f));
    });
    return v16_sum(acc);
}

/* x0' = fma(-x1, sin, x0 cos), x1' = fma(x0, sin, x1 cos). */
V16_FN void rotate_16(v16 *x0, v16 *x1, v16 cos, v16 sin)
{
    v16 old = *x0;
    *x0 = v16_fnma(*x1, sin, v16_mul(old, cos));
    *x1 = v16_fma(old, sin, v16_mul(*x1, cos));
}

static void rotate_1(float *x0, float *x1, float cos, float sin)
{
    float old = *x0;
    *x0 = fmaf(-*x1, sin, old * cos);
    *x1 = fmaf(old, sin, *x1 * cos);
}

void ISA(moe_rope)(float *x, int64_t n_heads, int64_t d, int64_t n_rot, const float *cos,
                   const float *sin, bool interleaved)
{
    const int64_t half = n_rot / 2;

    for (int64_t h = 0; h < n_heads; h++, x += d) {
        int64_t i = 0;
        for (; i + 16 <= half; i += 16) {
            v16 x0, x1;
            if (interleaved) {
                v16_load_pairs(x + 2 * i, &x0, &x1);
            } else {
                x0 = v16_load(x + i);
                x1 = v16_load(x + half + i);
            }
            rotate_16(&x0, &x1, v16_load(cos + i), v16_load(sin + i));
            if (interleaved) {
                v16_store_pairs(x + 2 * i, x0, x1);
            } else {
                v16_store(x + i, x0);
                v16_store(x + half + i, x1);
            }
        }
        for (; i < half; i++) {
            if (interleaved)
                rotate_1(x + 2 * i, x + 2 * i + 1, cos[i], sin[i]);
            else
                rotate_1(x + i, x + half + i, cos[i], sin[i]);
        }
    }
}
