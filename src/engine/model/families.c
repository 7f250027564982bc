/*
 * The table of model families, and finding the line that fits a file.
 *
 * A GGUF file names its architecture in general.architecture, a Hugging Face folder in
 * config.json's architectures[0].  Lines of one family share its functions.
 */
#include "families.h"

#include <stdlib.h>
#include <string.h>

static const moe_family families[] = {
    {"deepseek2", "DeepseekV3ForCausalLM", moe_deepseek_read_spec, moe_deepseek_bind},
    {NULL, "DeepseekV2ForCausalLM", moe_deepseek_read_spec, moe_deepseek_bind},
    {"qwen3moe", "Qwen3MoeForCausalLM", moe_qwen_read_spec, moe_qwen_bind},
    {"qwen3", "Qwen3ForCausalLM", moe_qwen_read_spec, moe_qwen_bind},
    {"qwen2moe", "Qwen2MoeForCausalLM", moe_qwen_read_spec, moe_qwen_bind},
    {"qwen2", "Qwen2ForCausalLM", moe_qwen_read_spec, moe_qwen_bind},
    {"llama", "LlamaForCausalLM", moe_llama_read_spec, moe_llama_bind},
    {NULL, "MistralForCausalLM", moe_llama_read_spec, moe_llama_bind},
    {NULL, "MixtralForCausalLM", moe_llama_read_spec, moe_llama_bind},
    {"bert", "BertModel", moe_bert_read_spec, moe_bert_bind},
    {NULL, "BertForMaskedLM", moe_bert_read_spec, moe_bert_bind},
    {NULL, "BertForPreTraining", moe_bert_read_spec, moe_bert_bind},
};

enum { N_FAMILIES = sizeof families / sizeof families[0] };

static const char *family_key(const moe_family *family, bool gguf)
{
    return gguf ? family->gguf_arch : family->hf_class;
}

static moe_status fail_unknown(const char *found, bool gguf, moe_error *err)
{
    char list[sizeof err->hint] = "";
    size_t len = 0;

    for (int i = 0; i < N_FAMILIES; i++) {
        const char *key = family_key(&families[i], gguf);

        if (key == NULL)
            continue;
        if (len + strlen(key) + sizeof "Supported are , …." > sizeof list) {
            memcpy(list + len, ", …", sizeof ", …");
            break;
        }
        len += (size_t)snprintf(list + len, sizeof list - len, "%s%s", len > 0 ? ", " : "", key);
    }
    moe_fail(err, MOE_ERR_UNSUPPORTED, "model family \"%.64s\" is not supported", found);
    moe_hint(err, "Supported are %s.", list);
    return MOE_ERR_UNSUPPORTED;
}

moe_status moe_family_find(const moe_file *file, const moe_family **out, moe_error *err)
{
    const bool gguf = moe_file_format_of(file) == MOE_FILE_GGUF;
    const char *found;

    *out = NULL;
    if (gguf) {
        found = moe_file_meta_string(file, "general.architecture", NULL);
        if (found == NULL)
            return moe_fail(err, MOE_ERR_FORMAT,
                            "metadata key \"general.architecture\" is missing");
    } else {
        const json_t *config = moe_file_json(file, "config.json");

        found = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
        if (found == NULL)
            return moe_fail(err, MOE_ERR_FORMAT, "config.json does not name an architecture");
    }
    for (int i = 0; i < N_FAMILIES; i++) {
        const char *key = family_key(&families[i], gguf);

        if (key != NULL && strcmp(key, found) == 0) {
            *out = &families[i];
            return MOE_OK;
        }
    }
    return fail_unknown(found, gguf, err);
}

void moe_model_spec_free(moe_model_spec *spec)
{
    free(spec->layers);
    free(spec->rope.divisors);
    spec->layers = NULL;
    spec->rope.divisors = NULL;
}
