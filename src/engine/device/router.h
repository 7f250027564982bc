/*
 * Choice of experts for one token from the router's logits.
 */
#ifndef MOE_ROUTER_H
#define MOE_ROUTER_H

#include "../../../kernels/cpu/kernels.h"
#include "../model/model_spec.h"

enum { MOE_MAX_EXPERTS = 4096, MOE_MAX_GROUPS = 256 };

/* logits (n_experts) are overwritten by the scores.  select_bias (n_experts) or NULL is added for
 * the selection only.  ids and weights (n_experts_used) come in rank order, best first; ties go to
 * the lower index. DeepSeek-V3 (arXiv 2412.19437) §2.1.2: sigmoid scores, selection by groups with
 * a bias, weights from the unbiased scores. */
void moe_route(const moe_kernels *kernels, const moe_moe_spec *moe, float *logits,
               const float *select_bias, int32_t *ids, float *weights);

#endif
