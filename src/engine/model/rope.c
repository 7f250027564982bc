/*
 * Rotary frequencies and angles.
 *
 * Formulas: plain RoPE θ_i = base^(-2i/n); linear scaling θ/factor; YaRN (arXiv 2309.00071 §3.2)
 * blends θ/factor and θ by a ramp over the dimensions; Llama 3 blends by wavelength.
 */
#include "rope.h"

#include <math.h>

static const double PI = 3.14159265358979323846;
static const double LN2 = 0.69314718055994530942;

/* Natural logarithm of x > 0 to about 1e-16, by the series of 2·atanh((m-1)/(m+1)). */
static double fixed_log(double x)
{
    int e;
    double m = frexp(x, &e), t, t2, sum = 0.0;

    if (m < 0.70710678118654752440) {
        m *= 2.0;
        e--;
    }
    t = (m - 1.0) / (m + 1.0);
    t2 = t * t;
    for (int k = 41; k >= 1; k -= 2)
        sum = sum * t2 + 1.0 / k;
    return 2.0 * t * sum + e * LN2;
}

/* e^x for |x| < 700, by scaling and a Taylor series. */
static double fixed_exp(double x)
{
    double n = rint(x / LN2), r = x - n * LN2, sum = 1.0;

    for (int k = 20; k >= 1; k--)
        sum = 1.0 + sum * r / k;
    return ldexp(sum, (int)n);
}

/* Cosine and sine by reduction to [-π/4, π/4] with π/2 in three parts, and Taylor series. */
static void fixed_sincos(double x, double *cos_out, double *sin_out)
{
    /* The first two parts have at most 33 bits, so their products with n < 2^20 are exact. */
    static const double P1 = 1.57079632673412561417e+00, P2 = 6.07710050630396597660e-11,
                        P3 = 2.02226624879595063154e-21;
    double n = rint(x * (2.0 / PI)), r = ((x - n * P1) - n * P2) - n * P3, r2 = r * r;
    double s = 0.0, c = 0.0;

    for (int k = 17; k >= 3; k -= 2)
        s = (s + 1.0) * (-r2 / ((double)k * (k - 1)));
    s = r * (1.0 + s);
    for (int k = 18; k >= 2; k -= 2)
        c = (c + 1.0) * (-r2 / ((double)k * (k - 1)));
    c += 1.0;
    switch ((long long)n & 3) {
    case 0:
        *cos_out = c;
        *sin_out = s;
        break;
    case 1:
        *cos_out = -s;
        *sin_out = c;
        break;
    case 2:
        *cos_out = -c;
        *sin_out = -s;
        break;
    default:
        *cos_out = s;
        *sin_out = -c;
        break;
    }
}

/* The YaRN ramp's dimension at which `rotations` turns fit into the original context. */
static double yarn_dimension(const moe_rope_spec *rope, double rotations)
{
    return rope->n_rot * fixed_log(rope->orig_ctx / (rotations * 2.0 * PI)) /
           (2.0 * fixed_log(rope->base));
}

void moe_rope_frequencies(const moe_rope_spec *rope, double *freq)
{
    const int n_half = rope->n_rot / 2;
    const double step = -2.0 * fixed_log(rope->base) / rope->n_rot;
    double low = 0.0, high = 0.0;

    if (rope->scaling == MOE_ROPE_SCALING_YARN) {
        low = yarn_dimension(rope, rope->beta_fast);
        high = yarn_dimension(rope, rope->beta_slow);
        if (rope->truncate) {
            low = floor(low);
            high = ceil(high);
        }
        low = low < 0.0 ? 0.0 : low;
        high = high > rope->n_rot - 1 ? rope->n_rot - 1 : high;
        if (high <= low)
            high = low + 0.001;
    }
    for (int i = 0; i < n_half; i++) {
        double f = fixed_exp(step * i);

        if (rope->divisors != NULL)
            f /= rope->divisors[i];
        switch (rope->scaling) {
        case MOE_ROPE_SCALING_NONE:
            break;
        case MOE_ROPE_SCALING_LINEAR:
            f /= rope->factor;
            break;
        case MOE_ROPE_SCALING_YARN: {
            double ramp = (i - low) / (high - low);

            ramp = ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp;
            f = f / rope->factor * ramp + f * (1.0 - ramp);
            break;
        }
        case MOE_ROPE_SCALING_LLAMA3: {
            double wavelength = 2.0 * PI / f;

            if (wavelength > rope->orig_ctx / rope->low_freq) {
                f /= rope->factor;
            } else if (wavelength >= rope->orig_ctx / rope->high_freq) {
                double smooth = (rope->orig_ctx / wavelength - rope->low_freq) /
                                (rope->high_freq - rope->low_freq);

                f = (1.0 - smooth) * f / rope->factor + smooth * f;
            }
            break;
        }
        }
        freq[i] = f;
    }
}

void moe_rope_angles(const double *freq, int n_half, int64_t position, double magnitude,
                     float *cos_out, float *sin_out)
{
    for (int i = 0; i < n_half; i++) {
        double c, s;

        fixed_sincos((double)position * freq[i], &c, &s);
        cos_out[i] = (float)(c * magnitude);
        sin_out[i] = (float)(s * magnitude);
    }
}
