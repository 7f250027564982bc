/*
 * Rotary position embeddings (arXiv 2104.09864): frequencies of a model and the cosines and sines
 * of positions.  All arithmetic is double precision by code of our own, rounded to float32 at the
 * end, so that the tables are the same on every machine and with every libm.
 */
#ifndef MOE_ROPE_H
#define MOE_ROPE_H

#include "model_spec.h"

/* Fills freq (n_rot / 2) with radians per position, scaling included. */
void moe_rope_frequencies(const moe_rope_spec *rope, double *freq);

/* cos and sin (n / 2 each) of position times frequency, times the model's magnitude. */
void moe_rope_angles(const double *freq, int n_half, int64_t position, double magnitude,
                     float *cos_out, float *sin_out);

#endif
