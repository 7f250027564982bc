/*
 * Reading a model's description: single values with range checks, and the groups of values that
 * families have in common (rope is in spec_rope.c).
 */
#include "spec_read.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* One value of either format. */
typedef enum value_kind {
    VALUE_ABSENT,
    VALUE_INT,
    VALUE_REAL,
    VALUE_BOOL,
    VALUE_STRING,
    VALUE_OTHER
} value_kind;

typedef struct value {
    value_kind kind;
    int64_t i;
    double f;
    bool b;
    const char *s;
    bool differs;    /* an array whose elements are not all equal */
    char label[160]; /* the key as messages name it */
} value;

void moe_reader_init(moe_reader *r, const moe_file *file, moe_error *err)
{
    memset(r, 0, sizeof *r);
    r->file = file;
    r->err = err;
    if (moe_file_format_of(file) == MOE_FILE_GGUF) {
        r->arch = moe_file_meta_string(file, "general.architecture", "");
    } else {
        r->config = moe_file_json(file, "config.json");
        r->hf_class =
            json_string_value(json_array_get(json_object_get(r->config, "architectures"), 0));
        if (r->hf_class == NULL) {
            moe_read_fail(r, MOE_ERR_FORMAT, "config.json does not name an architecture");
            r->hf_class = "";
        }
    }
}

void moe_read_fail(moe_reader *r, moe_status status, const char *fmt, ...)
{
    char message[sizeof r->err->message];
    va_list args;

    if (r->status != MOE_OK)
        return;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    r->status = moe_fail(r->err, status, "%s", message);
}

static void from_array(const moe_meta *meta, value *v)
{
    v->kind = VALUE_OTHER;
    if (meta->n == 0)
        return;
    if (meta->element == MOE_META_INT) {
        v->kind = VALUE_INT;
        v->i = meta->ints[0];
        for (size_t k = 1; k < meta->n; k++)
            v->differs = v->differs || meta->ints[k] != v->i;
    } else if (meta->element == MOE_META_FLOAT) {
        v->kind = VALUE_REAL;
        v->f = meta->floats[0];
        for (size_t k = 1; k < meta->n; k++)
            v->differs = v->differs || meta->floats[k] != v->f;
    }
}

static void from_meta(const moe_meta *meta, value *v)
{
    switch (meta->kind) {
    case MOE_META_INT:
        v->kind = VALUE_INT;
        v->i = meta->i;
        break;
    case MOE_META_UINT64: /* beyond int64, so beyond every range */
        v->kind = VALUE_INT;
        v->i = INT64_MAX;
        break;
    case MOE_META_FLOAT:
        v->kind = VALUE_REAL;
        v->f = meta->f;
        break;
    case MOE_META_BOOL:
        v->kind = VALUE_BOOL;
        v->b = meta->b;
        break;
    case MOE_META_STRING:
        v->kind = VALUE_STRING;
        v->s = meta->s.data;
        break;
    case MOE_META_ARRAY:
        from_array(meta, v);
        break;
    }
}

/* The element of config.json at a path "a.b"; NULL for none. */
static const json_t *config_at(const json_t *config, const char *path)
{
    const char *dot;

    while ((dot = strchr(path, '.')) != NULL) {
        config = json_object_getn(config, path, (size_t)(dot - path));
        path = dot + 1;
    }
    return json_object_get(config, path);
}

static void from_json(const json_t *json, value *v)
{
    switch (json_typeof(json)) {
    case JSON_INTEGER:
        v->kind = VALUE_INT;
        v->i = json_integer_value(json);
        break;
    case JSON_REAL:
        v->kind = VALUE_REAL;
        v->f = json_real_value(json);
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v->kind = VALUE_BOOL;
        v->b = json_is_true(json);
        break;
    case JSON_STRING:
        v->kind = VALUE_STRING;
        v->s = json_string_value(json);
        break;
    case JSON_NULL:
        break;
    default:
        v->kind = VALUE_OTHER;
        break;
    }
}

static value read_value(const moe_reader *r, const char *gguf, const char *hf)
{
    value v = {.kind = VALUE_ABSENT};

    if (r->arch != NULL && gguf != NULL) {
        char key[128];
        const moe_meta *meta;

        snprintf(key, sizeof key, "%s.%s", r->arch, gguf);
        snprintf(v.label, sizeof v.label, "metadata key \"%s\"", key);
        meta = moe_file_meta(r->file, key);
        if (meta != NULL)
            from_meta(meta, &v);
    } else if (r->config != NULL && hf != NULL) {
        const json_t *json = config_at(r->config, hf);

        snprintf(v.label, sizeof v.label, "\"%s\" of config.json", hf);
        if (json != NULL)
            from_json(json, &v);
    }
    return v;
}

bool moe_read_has(const moe_reader *r, const char *gguf, const char *hf)
{
    return read_value(r, gguf, hf).kind != VALUE_ABSENT;
}

static void fail_kind(moe_reader *r, const value *v, const char *wanted)
{
    moe_read_fail(r, MOE_ERR_FORMAT, "%s is not %s", v->label, wanted);
}

/* Reads an integer; false if the key is absent or there was a failure. */
static bool read_int(moe_reader *r, const char *gguf, const char *hf, int min, int max, int *out)
{
    value v;

    if (r->status != MOE_OK)
        return false;
    v = read_value(r, gguf, hf);
    /* config files written by scripts hold integers as 2048.0 here and there */
    if (v.kind == VALUE_REAL && v.f == rint(v.f) && fabs(v.f) < 1e15) {
        v.kind = VALUE_INT;
        v.i = (int64_t)v.f;
    }
    if (v.kind == VALUE_ABSENT)
        return false;
    if (v.kind != VALUE_INT)
        fail_kind(r, &v, "an integer");
    else if (v.differs)
        moe_read_fail(r, MOE_ERR_UNSUPPORTED, "%s differs between layers, which is not supported",
                      v.label);
    else if (v.i < min || v.i > max)
        moe_read_fail(r, MOE_ERR_FORMAT, "%s is %lld, but must be from %d to %d", v.label,
                      (long long)v.i, min, max);
    else
        *out = (int)v.i;
    return r->status == MOE_OK;
}

static bool read_double(moe_reader *r, const char *gguf, const char *hf, double min, double max,
                        double *out)
{
    value v;

    if (r->status != MOE_OK)
        return false;
    v = read_value(r, gguf, hf);
    if (v.kind == VALUE_INT) {
        v.kind = VALUE_REAL;
        v.f = (double)v.i;
    }
    if (v.kind == VALUE_ABSENT)
        return false;
    if (v.kind != VALUE_REAL)
        fail_kind(r, &v, "a number");
    else if (v.differs)
        moe_read_fail(r, MOE_ERR_UNSUPPORTED, "%s differs between layers, which is not supported",
                      v.label);
    else if (!(v.f >= min && v.f <= max)) /* NaN too */
        moe_read_fail(r, MOE_ERR_FORMAT, "%s is %g, but must be from %g to %g", v.label, v.f, min,
                      max);
    else
        *out = v.f;
    return r->status == MOE_OK;
}

static void fail_missing(moe_reader *r, const char *gguf, const char *hf)
{
    value v = read_value(r, gguf, hf);

    moe_read_fail(r, MOE_ERR_FORMAT, "%s is missing", v.label);
}

int moe_read_int(moe_reader *r, const char *gguf, const char *hf, int min, int max)
{
    int out = min;

    if (!read_int(r, gguf, hf, min, max, &out))
        fail_missing(r, gguf, hf);
    return out;
}

int moe_read_int_or(moe_reader *r, const char *gguf, const char *hf, int min, int max,
                    int otherwise)
{
    int out = otherwise;

    read_int(r, gguf, hf, min, max, &out);
    return out;
}

double moe_read_double(moe_reader *r, const char *gguf, const char *hf, double min, double max)
{
    double out = min;

    if (!read_double(r, gguf, hf, min, max, &out))
        fail_missing(r, gguf, hf);
    return out;
}

double moe_read_double_or(moe_reader *r, const char *gguf, const char *hf, double min, double max,
                          double otherwise)
{
    double out = otherwise;

    read_double(r, gguf, hf, min, max, &out);
    return out;
}

bool moe_read_bool_or(moe_reader *r, const char *gguf, const char *hf, bool otherwise)
{
    value v = read_value(r, gguf, hf);

    if (v.kind == VALUE_INT && (v.i == 0 || v.i == 1))
        return v.i != 0;
    if (v.kind != VALUE_ABSENT && v.kind != VALUE_BOOL)
        fail_kind(r, &v, "true or false");
    return v.kind == VALUE_BOOL ? v.b : otherwise;
}

const char *moe_read_string_or(moe_reader *r, const char *gguf, const char *hf,
                               const char *otherwise)
{
    value v = read_value(r, gguf, hf);

    if (v.kind != VALUE_ABSENT && v.kind != VALUE_STRING)
        fail_kind(r, &v, "a text");
    return v.kind == VALUE_STRING ? v.s : otherwise;
}

/* Copies a name up to its first invalid or control character, cut between characters. */
static void copy_name(char *dst, size_t size, const char *src)
{
    size_t len = 0, n_src = strlen(src);

    while (len < n_src) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)src + len,
                                              (utf8proc_ssize_t)(n_src - len), &c);

        if (n <= 0 || c < ' ' || len + (size_t)n >= size)
            break;
        len += (size_t)n;
    }
    memcpy(dst, src, len);
    dst[len] = '\0';
}

static void read_name(moe_reader *r, moe_model_spec *spec)
{
    const char *name, *slash;

    if (r->arch != NULL) {
        name = moe_file_meta_string(r->file, "general.name", "");
    } else {
        name = moe_read_string_or(r, NULL, "_name_or_path", "");
        slash = strrchr(name, '/');
        name = slash != NULL ? slash + 1 : name;
    }
    copy_name(spec->name, sizeof spec->name, name);
}

/* Sentence-transformers folders list the steps after the transformer in modules.json. */
static void check_modules(moe_reader *r)
{
    static const char *const known[] = {"Transformer", "Pooling", "Normalize"};
    const json_t *modules = moe_file_json(r->file, "modules.json");
    size_t i;
    json_t *module;

    json_array_foreach(modules, i, module)
    {
        const char *type = json_string_value(json_object_get(module, "type")), *dot;
        bool found = false;

        if (type == NULL)
            continue;
        dot = strrchr(type, '.');
        for (size_t k = 0; k < sizeof known / sizeof known[0]; k++)
            found = found || strcmp(dot != NULL ? dot + 1 : type, known[k]) == 0;
        if (!found)
            moe_read_fail(r, MOE_ERR_UNSUPPORTED,
                          "modules.json asks for \"%.100s\", which is not supported", type);
    }
}

static moe_pooling read_pooling_folder(moe_reader *r)
{
    static const struct {
        const char *key;
        int pooling; /* -1: not supported */
    } modes[] = {
        {"pooling_mode_mean_tokens", MOE_POOLING_MEAN}, {"pooling_mode_cls_token", MOE_POOLING_CLS},
        {"pooling_mode_lasttoken", MOE_POOLING_LAST},   {"pooling_mode_max_tokens", -1},
        {"pooling_mode_mean_sqrt_len_tokens", -1},      {"pooling_mode_weightedmean_tokens", -1},
    };
    const json_t *config = moe_file_json(r->file, "1_Pooling/config.json");
    int chosen = -1;

    if (config == NULL)
        return MOE_POOLING_MEAN;
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (!json_is_true(json_object_get(config, modes[i].key)))
            continue;
        if (modes[i].pooling < 0 || chosen >= 0) {
            moe_read_fail(r, MOE_ERR_UNSUPPORTED, "1_Pooling/config.json: %s is not supported%s",
                          modes[i].key, chosen >= 0 ? " together with another mode" : "");
            return MOE_POOLING_MEAN;
        }
        chosen = modes[i].pooling;
    }
    return chosen < 0 ? MOE_POOLING_MEAN : (moe_pooling)chosen;
}

static moe_pooling read_pooling(moe_reader *r)
{
    int type;

    if (r->arch == NULL) {
        check_modules(r);
        return read_pooling_folder(r);
    }
    type = moe_read_int_or(r, "pooling_type", NULL, -1, 255, 1);
    switch (type) {
    case -1: /* unspecified, none: the file leaves it to us */
    case 0:
    case 1:
        return MOE_POOLING_MEAN;
    case 2:
        return MOE_POOLING_CLS;
    case 3:
        return MOE_POOLING_LAST;
    default:
        moe_read_fail(r, MOE_ERR_UNSUPPORTED, "pooling type %d is not supported%s", type,
                      type == 4 ? " (the model ranks pairs of texts)" : "");
        return MOE_POOLING_MEAN;
    }
}

/* Folders whose tensors are packed by another program's quantiser hold no tensors that we know. */
static void check_quantisation(moe_reader *r)
{
    const char *method = moe_read_string_or(r, NULL, "quantization_config.quant_method", "");

    /* fp8 keeps the names, so the tensor itself can be named later */
    if (method[0] == '\0' || strcmp(method, "fp8") == 0)
        return;
    moe_read_fail(r, MOE_ERR_UNSUPPORTED,
                  "config.json: quantization method \"%.64s\" is not supported", method);
    moe_hint(r->err, "Use the unquantized model or a GGUF file.");
}

static int read_vocab(moe_reader *r)
{
    const moe_tensor *table;

    if (r->config != NULL)
        return moe_read_int(r, NULL, "vocab_size", 1, MOE_MAX_VOCAB);
    /* the key is missing from many files, and the table is what counts */
    table = moe_file_tensor(r->file, "token_embd.weight");
    if (table == NULL)
        moe_read_fail(r, MOE_ERR_FORMAT, "tensor \"token_embd.weight\" is missing");
    else if (table->dims[1] < 1 || table->dims[1] > MOE_MAX_VOCAB)
        moe_read_fail(r, MOE_ERR_FORMAT, "tensor \"token_embd.weight\" has %lld rows",
                      (long long)table->dims[1]);
    return r->status == MOE_OK ? (int)table->dims[1] : 1;
}

void moe_read_common(moe_reader *r, moe_model_spec *spec)
{
    int n_extra;

    memset(spec, 0, sizeof *spec);
    spec->causal = true;
    spec->gated_ffn = true;
    spec->embedding_scale = spec->residual_scale = spec->logit_scale = 1.0f;
    spec->rope.magnitude = spec->rope.factor = 1.0;
    spec->rope.truncate = true;
    spec->moe.n_groups = spec->moe.n_groups_used = 1;
    spec->moe.scale = 1.0;
    if (r->status != MOE_OK)
        return;

    read_name(r, spec);
    if (r->config != NULL)
        check_quantisation(r);
    spec->n_layers = moe_read_int(r, "block_count", "num_hidden_layers", 1, MOE_MAX_LAYERS);
    /* GGUF counts the draft layers, which the forward pass does not run; config.json does not */
    n_extra = moe_read_int_or(r, "nextn_predict_layers", NULL, 0, MOE_MAX_LAYERS, 0);
    if (n_extra >= spec->n_layers && n_extra > 0)
        moe_read_fail(r, MOE_ERR_FORMAT, "all %d layers are draft layers (nextn_predict_layers)",
                      spec->n_layers);
    else
        spec->n_layers -= n_extra;
    spec->n_embd = moe_read_int(r, "embedding_length", "hidden_size", 1, MOE_MAX_EMBD);
    spec->n_ctx_train =
        moe_read_int(r, "context_length", "max_position_embeddings", 1, MOE_MAX_CTX);
    spec->n_vocab = read_vocab(r);
    spec->pooling = read_pooling(r);
    if (r->status != MOE_OK)
        return;
    spec->layers = calloc((size_t)spec->n_layers, sizeof *spec->layers);
    if (spec->layers == NULL)
        r->status = moe_fail_memory(r->err, (size_t)spec->n_layers * sizeof *spec->layers);
}

void moe_read_gqa(moe_reader *r, moe_model_spec *spec)
{
    int width;

    spec->attention = MOE_ATTENTION_GQA;
    spec->n_heads =
        moe_read_int(r, "attention.head_count", "num_attention_heads", 1, MOE_MAX_HEADS);
    spec->n_kv_heads = moe_read_int_or(r, "attention.head_count_kv", "num_key_value_heads", 1,
                                       MOE_MAX_HEADS, spec->n_heads);
    if (spec->n_heads % spec->n_kv_heads != 0)
        moe_read_fail(r, MOE_ERR_FORMAT, "%d heads can't share %d key and value heads evenly",
                      spec->n_heads, spec->n_kv_heads);
    width = moe_read_int_or(r, "attention.key_length", "head_dim", 1, MOE_MAX_HEAD_DIM, 0);
    if (width == 0) {
        if (spec->n_embd % spec->n_heads != 0)
            moe_read_fail(r, MOE_ERR_FORMAT, "embedding width %d is no multiple of %d heads",
                          spec->n_embd, spec->n_heads);
        width = spec->n_embd / spec->n_heads;
    }
    spec->head_dim = width;
    spec->head_dim_v =
        moe_read_int_or(r, "attention.value_length", NULL, 1, MOE_MAX_HEAD_DIM, width);
    spec->attention_scale = (float)(1.0 / sqrt(width));
}

void moe_read_silu(moe_reader *r)
{
    const char *act = moe_read_string_or(r, NULL, "hidden_act", "silu");

    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        moe_read_fail(r, MOE_ERR_UNSUPPORTED,
                      "activation \"%.64s\" is not supported for this family", act);
}

void moe_refuse_window(moe_reader *r, const moe_model_spec *spec)
{
    int window = moe_read_int_or(r, "attention.sliding_window", "sliding_window", 0, INT32_MAX, 0);

    if (window > 0 && window < spec->n_ctx_train)
        moe_read_fail(
            r, MOE_ERR_UNSUPPORTED,
            "sliding window attention (%d of %d positions) is not supported for this family",
            window, spec->n_ctx_train);
}

void moe_check_moe(moe_reader *r, const moe_moe_spec *moe)
{
    if (r->status != MOE_OK)
        return;
    if (moe->n_experts_used > moe->n_experts)
        moe_read_fail(r, MOE_ERR_FORMAT, "%d of %d experts can't be used", moe->n_experts_used,
                      moe->n_experts);
    else if (moe->n_experts % moe->n_groups != 0 || moe->n_groups_used > moe->n_groups)
        moe_read_fail(r, MOE_ERR_FORMAT, "%d experts can't be in %d groups with %d chosen",
                      moe->n_experts, moe->n_groups, moe->n_groups_used);
    else if (moe->n_experts_used > moe->n_experts / moe->n_groups * moe->n_groups_used)
        moe_read_fail(r, MOE_ERR_FORMAT, "%d of %d groups hold fewer than the %d experts to use",
                      moe->n_groups_used, moe->n_groups, moe->n_experts_used);
    else if (moe->n_groups > 1 && moe->group_score == MOE_GROUP_TOP2_SUM &&
             moe->n_experts / moe->n_groups < 2)
        moe_read_fail(r, MOE_ERR_FORMAT, "groups of one expert have no two largest scores");
}

moe_status moe_read_end(moe_reader *r, moe_model_spec *spec)
{
    if (r->status != MOE_OK)
        moe_model_spec_free(spec);
    return r->status;
}
