/*
 * exp, sigmoid and the activations on sixteen lanes: fixed polynomial forms (NUMERICS.md).
 *
 * The polynomials are Chebyshev fits (error below the rounding errors) made for this purpose.
 */

/* e^x within 1 ulp: 0 below -87.3365 (so no denormal results), +infinity from 88.72284 on, NaN for
 * NaN.  x = n ln 2 + r with |r| <= ln 2 / 2; n comes out of a sum with 1.5 * 2^23, whose last bits
 * then hold it as an integer. */
V16_FN v16 v16_exp_bounded(v16 x)
{
    const v16 magic = v16_set1(0x1.8p+23f);
    v16 t = v16_fma(x, v16_set1(0x1.715476p+0f), magic); /* 1 / ln 2 */
    v16 n = v16_sub(t, magic);
    v16 r = v16_fnma(n, v16_set1(0x1.63p-1f), x);   /* ln 2, upper bits */
    r = v16_fnma(n, v16_set1(-0x1.bd0106p-13f), r); /* ln 2, the rest */
    v16 p = v16_set1(0x1.6d1254p-10f);
    p = v16_fma(p, r, v16_set1(0x1.120cbap-7f));
    p = v16_fma(p, r, v16_set1(0x1.555518p-5f));
    p = v16_fma(p, r, v16_set1(0x1.5554dcp-3f));
    p = v16_fma(p, r, v16_set1(0.5f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_add_exponent(p, t);
    return v16_if_less(x, v16_set1(-87.3365f), v16_zero(), p);
}

V16_MATH_FN v16 v16_exp(v16 x)
{
    v16 p = v16_exp_bounded(x);
    return v16_if_less(x, v16_set1(0x1.62e43p+6f), p, v16_add(x, v16_set1(INFINITY)));
}

/* The same for an x that is never positive (or NaN). */
V16_MATH_FN v16 v16_exp_falling(v16 x)
{
    return v16_exp_bounded(x);
}

/* 1 + e^-x, the denominator of sigmoid and silu. */
V16_MATH_FN v16 v16_one_plus_exp_neg(v16 x)
{
    return v16_add(v16_set1(1.0f), v16_exp(v16_sub(v16_zero(), x)));
}

V16_MATH_FN v16 v16_sigmoid(v16 x)
{
    return v16_div(v16_set1(1.0f), v16_one_plus_exp_neg(x));
}

V16_MATH_FN v16 v16_silu(v16 x)
{
    return v16_div(x, v16_one_plus_exp_neg(x));
}

/* The tanh form of GELU: x/2 (1 + tanh u) = x sigmoid(2u), 2u = x (c1 + c3 x^2) with
 * c1 = 2 sqrt(2/pi), c3 = 0.044715 c1. */
V16_MATH_FN v16 v16_gelu_tanh(v16 x)
{
    v16 u = v16_fma(v16_mul(x, x), v16_set1(0x1.2444f2p-4f), v16_set1(0x1.988454p+0f));
    return v16_div(x, v16_one_plus_exp_neg(v16_mul(x, u)));
}

/* Exact GELU, x Phi(x).  For |x| < 1: Phi(x) = 1/2 + x Q(x^2).  Else by the tail Phi(-|x|) =
 * e^(-x^2/2) t P(t), t = 1 / (1 + |x|/4), which for positive x is taken off 1. */
V16_MATH_FN v16 v16_gelu_erf(v16 x)
{
    v16 a = v16_abs(x), square = v16_mul(x, x);

    v16 q = v16_set1(-0x1.010b86p-17f);
    q = v16_fma(q, square, v16_set1(0x1.dc102ap-14f));
    q = v16_fma(q, square, v16_set1(-0x1.36fe32p-10f));
    q = v16_fma(q, square, v16_set1(0x1.46ce58p-7f));
    q = v16_fma(q, square, v16_set1(-0x1.105832p-4f));
    q = v16_fma(q, square, v16_set1(0x1.988454p-2f));
    v16 inner = v16_mul(x, v16_fma(x, q, v16_set1(0.5f)));

    v16 t = v16_div(v16_set1(1.0f), v16_fma(a, v16_set1(0.25f), v16_set1(1.0f)));
    v16 p = v16_set1(0x1.de29f6p-6f);
    p = v16_fma(p, t, v16_set1(-0x1.5b4032p-3f));
    p = v16_fma(p, t, v16_set1(0x1.527d5p-2f));
    p = v16_fma(p, t, v16_set1(-0x1.f5bdf4p-3f));
    p = v16_fma(p, t, v16_set1(0x1.d47218p-3f));
    p = v16_fma(p, t, v16_set1(0x1.5fc74ep-6f));
    p = v16_fma(p, t, v16_set1(0x1.b4f086p-4f));
    p = v16_fma(p, t, v16_set1(0x1.91d756p-4f));
    p = v16_fma(p, t, v16_set1(0x1.98debp-4f));
    v16 tail = v16_mul(v16_mul(p, t), v16_exp(v16_mul(square, v16_set1(-0.5f))));
    v16 outer = v16_if_less(x, v16_zero(), v16_mul(x, tail), v16_fnma(x, tail, x));

    return v16_if_less(a, v16_set1(1.0f), inner, outer);
}
