/*
 * The functions of the family files, for the table in families.c.
 */
#ifndef MOE_FAMILIES_H
#define MOE_FAMILIES_H

#include "weights.h"

moe_status moe_deepseek_read_spec(const moe_file *file, moe_model_spec *spec, moe_error *err);
moe_status moe_deepseek_bind(const moe_file *file, const moe_model_spec *spec,
                             struct moe_weights *weights, moe_error *err);

/* Llama, Mistral and Mixtral: in GGUF all three are "llama". */
moe_status moe_llama_read_spec(const moe_file *file, moe_model_spec *spec, moe_error *err);
moe_status moe_llama_bind(const moe_file *file, const moe_model_spec *spec,
                          struct moe_weights *weights, moe_error *err);

/* Qwen2, Qwen2-MoE, Qwen3 and Qwen3-MoE. */
moe_status moe_qwen_read_spec(const moe_file *file, moe_model_spec *spec, moe_error *err);
moe_status moe_qwen_bind(const moe_file *file, const moe_model_spec *spec,
                         struct moe_weights *weights, moe_error *err);

moe_status moe_bert_read_spec(const moe_file *file, moe_model_spec *spec, moe_error *err);
moe_status moe_bert_bind(const moe_file *file, const moe_model_spec *spec,
                         struct moe_weights *weights, moe_error *err);

#endif
