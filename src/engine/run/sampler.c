/*
 * Samplers.  Candidates are ordered by a heap, so that a draw from the few likeliest tokens of a
 * large vocabulary does not sort all of it.
 */
#include "sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

moe_status moe_sampler_create(const moe_kernels *kernels, int n_vocab, moe_sampler **out,
                              moe_error *err)
{
    moe_sampler *s = calloc(1, sizeof(*s));

    *out = NULL;
    if (s == NULL)
        return moe_fail_memory(err, sizeof(*s));
    s->kernels = kernels;
    s->n_vocab = n_vocab;
    s->logits = malloc(sizeof(float) * (size_t)n_vocab);
    s->candidates = malloc(sizeof(moe_candidate) * (size_t)n_vocab);
    s->seen = calloc((size_t)n_vocab, 1);
    if (s->logits == NULL || s->candidates == NULL || s->seen == NULL) {
        moe_sampler_free(s);
        return moe_fail_memory(err, sizeof(moe_candidate) * (size_t)n_vocab);
    }
    *out = s;
    return MOE_OK;
}

void moe_sampler_free(moe_sampler *s)
{
    if (s == NULL)
        return;
    free(s->logits);
    free(s->candidates);
    free(s->seen);
    free(s);
}

static inline uint32_t any_infinite(const float *x, int n)
{
    uint32_t any = 0;

    for (int i = 0; i < n; i++) {
        uint32_t bits;

        memcpy(&bits, &x[i], sizeof(bits));
        any |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return any;
}

moe_status moe_check_logits(const float *logits, int n_vocab, moe_error *err)
{
    enum { PART = 64 }; /* a length that the compiler knows, for vectors */
    uint32_t bad = 0;
    int i = 0;

    for (; i + PART <= n_vocab; i += PART)
        bad |= any_infinite(logits + i, PART);
    bad |= any_infinite(logits + i, n_vocab - i);
    if (!bad)
        return MOE_OK;
    moe_fail(err, MOE_ERR_NUMERIC, "the model computed a value that is not a finite number");
    return moe_hint(err, "Its weights are damaged or not what the file's metadata says.");
}

float moe_logprob(const moe_kernels *kernels, const float *logits, int n_vocab, int32_t id)
{
    float max;
    const float sum = kernels->exp_sum(logits, n_vocab, &max);

    return (float)((double)logits[id] - (double)max - log((double)sum));
}

int moe_rank(const float *logits, int n_vocab, int32_t id)
{
    const float own = logits[id];
    int rank = 1;

    for (int i = 0; i < n_vocab; i++)
        rank += logits[i] > own || (logits[i] == own && i < id);
    return rank;
}

/* --- candidates
 * ----------------------------------------------------------------------------------- */

static bool before(const moe_candidate *a, const moe_candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sift_down(moe_candidate *heap, int n, int i)
{
    for (;;) {
        int child = 2 * i + 1;
        moe_candidate swap;

        if (child >= n)
            return;
        if (child + 1 < n && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &heap[i]))
            return;
        swap = heap[i];
        heap[i] = heap[child];
        heap[child] = swap;
        i = child;
    }
}

static void heap_all(moe_sampler *s, const float *logits)
{
    for (int i = 0; i < s->n_vocab; i++)
        s->candidates[i] = (moe_candidate){logits[i], i};
    for (int i = s->n_vocab / 2 - 1; i >= 0; i--)
        sift_down(s->candidates, s->n_vocab, i);
}

/* Moves the best of the heap's n candidates behind its end; afterwards it stands at [n - 1]. */
static moe_candidate pop(moe_candidate *heap, int n)
{
    moe_candidate best = heap[0];

    heap[0] = heap[n - 1];
    heap[n - 1] = best;
    sift_down(heap, n - 1, 0);
    return best;
}

int moe_top(moe_sampler *s, const float *logits, int n, const moe_candidate **top)
{
    const int count = n < s->n_vocab ? n : s->n_vocab;

    heap_all(s, logits);
    for (int i = 0; i < count; i++)
        pop(s->candidates, s->n_vocab - i);
    /* They stand at the end, best last. */
    for (int i = 0; i < count / 2; i++) {
        moe_candidate *a = &s->candidates[s->n_vocab - 1 - i];
        moe_candidate *b = &s->candidates[s->n_vocab - count + i];
        const moe_candidate swap = *a;

        *a = *b;
        *b = swap;
    }
    *top = s->candidates + s->n_vocab - count;
    return count;
}

/* --- drawing
 * -------------------------------------------------------------------------------------- */

double moe_philox_uniform(uint64_t seed, uint64_t counter)
{
    uint32_t c[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), 0, 0};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);

    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c[1] ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;

        c[0] = n0;
        c[1] = (uint32_t)p1;
        c[2] = n2;
        c[3] = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (double)(((uint64_t)c[0] << 32 | c[1]) >> 11) * 0x1p-53;
}

/* Divides positive and multiplies negative logits of tokens that occurred (arXiv 1909.05858 §4.1).
 */
static void penalise(moe_sampler *s, const moe_request *r, const int32_t *history, size_t n)
{
    const size_t last = r->repeat_last_n < 0 ? n : (size_t)r->repeat_last_n;
    const size_t from = last < n ? n - last : 0;

    for (size_t i = from; i < n; i++) {
        const int32_t id = history[i];

        if (!s->seen[id]) {
            s->seen[id] = 1;
            s->logits[id] *= s->logits[id] > 0.0f ? 1.0f / r->repeat_penalty : r->repeat_penalty;
        }
    }
    for (size_t i = from; i < n; i++)
        s->seen[history[i]] = 0;
}

/* The lowest id of the largest; there is no NaN. */
static int32_t argmax(const moe_kernels *kernels, const float *v, int n)
{
    const float max = kernels->max(v, n);
    int32_t i = 0;

    while (v[i] != max)
        i++;
    return i;
}

/* Draws among the candidates that top-k, top-p and min-p leave.  Probabilities at temperature T are
 * exp((logit - max) / T); the normaliser runs over the tokens that top-k leaves. */
static int32_t draw(moe_sampler *s, const moe_request *r, double u)
{
    const int n = s->n_vocab;
    const int most = r->top_k > 0 && r->top_k < n ? r->top_k : n;
    const double t = r->temperature;
    double total = 0.0, kept = 0.0, target, max;
    int n_kept = 0;
    moe_candidate *tail = s->candidates + n; /* popped candidates: tail[-1] the best, tail[-2] … */

    heap_all(s, s->logits);
    max = s->candidates[0].logit;
    if (most == n) {
        for (int i = 0; i < n; i++)
            total += exp((s->logits[i] - max) / t);
    } else {
        for (int i = 0; i < most; i++)
            total += exp((pop(s->candidates, n - i).logit - max) / t);
    }
    while (n_kept < most) {
        const moe_candidate c = most == n ? pop(s->candidates, n - n_kept) : tail[-1 - n_kept];
        const double p = exp((c.logit - max) / t);

        if (n_kept > 0 && (kept >= (double)r->top_p * total || p < r->min_p))
            break;
        kept += p;
        n_kept++;
        if (most == n && r->top_p >= 1.0f && r->min_p <= 0.0f && kept > u * total) {
            /* Nothing is cut off, so the draw is decided once the sum has passed it. */
            return c.id;
        }
    }
    target = u * kept;
    kept = 0.0;
    for (int i = 0; i < n_kept - 1; i++) {
        kept += exp((tail[-1 - i].logit - max) / t);
        if (kept > target)
            return tail[-1 - i].id;
    }
    return tail[-n_kept].id;
}

moe_status moe_sample(moe_sampler *s, const moe_request *r, const float *logits,
                      const int32_t *history, size_t n_history, int32_t *id, moe_error *err)
{
    moe_status status = moe_check_logits(logits, s->n_vocab, err);

    if (status != MOE_OK)
        return status;
    if (r->repeat_penalty != 1.0f) {
        memcpy(s->logits, logits, sizeof(float) * (size_t)s->n_vocab);
        penalise(s, r, history, n_history);
    } else if (r->temperature <= 0.0f) {
        *id = argmax(s->kernels, logits, s->n_vocab);
        return MOE_OK;
    } else {
        memcpy(s->logits, logits, sizeof(float) * (size_t)s->n_vocab);
    }
    if (r->temperature <= 0.0f)
        *id = argmax(s->kernels, s->logits, s->n_vocab);
    else
        *id = draw(s, r, moe_philox_uniform(r->seed, n_history));
    return MOE_OK;
}
