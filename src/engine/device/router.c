/*
 * The router: scores, group limit, stable top-k, weights.
 */
#include "router.h"

#include <math.h>
#include <string.h>

/* The best not yet taken index of v, the lowest of equals; some index is found even among NaNs. */
static int best_of(const float *v, const bool *taken, int n)
{
    int best = -1;

    for (int i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || v[i] > v[best]))
            best = i;
    return best;
}

/* Marks the experts of losing groups as taken. */
static void exclude_groups(const moe_moe_spec *moe, const float *choice, bool *taken)
{
    const int per_group = moe->n_experts / moe->n_groups;
    float score[MOE_MAX_GROUPS];
    bool kept[MOE_MAX_GROUPS] = {false};

    for (int g = 0; g < moe->n_groups; g++) {
        const float *c = choice + g * per_group;
        float first = -INFINITY, second = -INFINITY;

        for (int i = 0; i < per_group; i++) {
            if (c[i] > first) {
                second = first;
                first = c[i];
            } else if (c[i] > second) {
                second = c[i];
            }
        }
        score[g] = moe->group_score == MOE_GROUP_MAX || per_group == 1 ? first : first + second;
    }
    for (int i = 0; i < moe->n_groups_used; i++)
        kept[best_of(score, kept, moe->n_groups)] = true;
    for (int e = 0; e < moe->n_experts; e++)
        taken[e] = !kept[e / per_group];
}

void moe_route(const moe_kernels *kernels, const moe_moe_spec *moe, float *logits,
               const float *select_bias, int32_t *ids, float *weights)
{
    const int n = moe->n_experts, k = moe->n_experts_used;
    float biased[MOE_MAX_EXPERTS], sum = 0.0f;
    bool taken[MOE_MAX_EXPERTS];
    const float *choice = logits;

    if (moe->score == MOE_ROUTER_SIGMOID)
        kernels->sigmoid(logits, n, logits);
    else
        kernels->softmax(logits, n, logits);
    if (select_bias != NULL) {
        kernels->add(logits, select_bias, n, biased);
        choice = biased;
    }
    memset(taken, 0, (size_t)n * sizeof(taken[0]));
    if (moe->n_groups > 1)
        exclude_groups(moe, choice, taken);
    for (int r = 0; r < k; r++) {
        ids[r] = best_of(choice, taken, n);
        taken[ids[r]] = true;
        weights[r] = logits[ids[r]];
        sum += weights[r];
    }
    if (moe->normalise) {
        sum += (float)moe->normalise_floor;
        for (int r = 0; r < k; r++)
            weights[r] /= sum;
    }
    for (int r = 0; r < k; r++)
        weights[r] *= (float)moe->scale;
}
