/*
 * Choice of the next token from logits.
 *
 * Order, as in the API that most users know: repetition penalty, temperature, top-k, top-p,
 * min-p, draw.  Temperature 0 is greedy: the largest logit, ties to the lower id.  Draws come from
 * a counter-based generator (Philox4x32-10, Salmon et al. 2011) keyed by seed and position, so a
 * seed gives the same text whatever runs beside it.
 */
#ifndef MOE_SAMPLER_H
#define MOE_SAMPLER_H

#include "../../../kernels/cpu/kernels.h"
#include "../support.h"

typedef struct moe_candidate {
    float logit;
    int32_t id;
} moe_candidate;

typedef struct moe_sampler {
    const moe_kernels *kernels;
    int n_vocab;
    float *logits;             /* (n_vocab) working copy */
    moe_candidate *candidates; /* (n_vocab) */
    uint8_t *seen; /* (n_vocab) scratch of the repetition penalty, all zero between calls */
} moe_sampler;

moe_status moe_sampler_create(const moe_kernels *kernels, int n_vocab, moe_sampler **out,
                              moe_error *err);
void moe_sampler_free(moe_sampler *sampler);

/* Draws a token for a request of MOE_TASK_GENERATE.  history: all ids so far, prompt included.
 * MOE_ERR_NUMERIC if a logit is NaN or infinite. */
moe_status moe_sample(moe_sampler *sampler, const moe_request *request, const float *logits,
                      const int32_t *history, size_t n_history, int32_t *id, moe_error *err);

/* MOE_ERR_NUMERIC unless all logits are finite. */
moe_status moe_check_logits(const float *logits, int n_vocab, moe_error *err);

/* Natural log-probability of id under softmax(logits). */
float moe_logprob(const moe_kernels *kernels, const float *logits, int n_vocab, int32_t id);

/* 1 + number of tokens with a larger logit, or an equal one and a lower id. */
int moe_rank(const float *logits, int n_vocab, int32_t id);

/* The n likeliest candidates in order, ties to the lower id; returns how many (<= n_vocab). */
int moe_top(moe_sampler *sampler, const float *logits, int n, const moe_candidate **top);

/* Uniform in [0, 1) with 53 bits from (seed, counter). */
double moe_philox_uniform(uint64_t seed, uint64_t counter);

#endif
