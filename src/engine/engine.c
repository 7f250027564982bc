/*
 * Engines and models: opening, describing and closing.
 *
 * An engine is a pool of threads and a table of kernels.  A model is built in this order: file,
 * family, spec, weights (bound and laid out), tokenizer, arena for the weights, device, KV cache.
 * Weights are loaded by the steps that need them, so the file stays open.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "device/cpu_device.h"
#include "model_internal.h"

/* --- engine
 * ---------------------------------------------------------------------------------------- */

moe_status moe_engine_create(const moe_engine_options *options, moe_engine **out, moe_error *err)
{
    const int threads = options->n_threads > 0 ? options->n_threads : moe_available_threads();
    const char *name = options->isa != NULL ? options->isa : "auto";
    moe_engine *engine;
    moe_status status;
    moe_isa isa;

    *out = NULL;
    if (!moe_isa_by_name(name, &isa)) {
        moe_fail(err, MOE_ERR_INVALID, "unknown instruction set \"%s\"", name);
        return moe_hint(err, "Known are auto, scalar, avx2, avx512, avx512_bf16 and amx.");
    }
    if (moe_cpu_kernels(isa) == NULL) {
        moe_fail(err, MOE_ERR_UNSUPPORTED, "this CPU does not have the instruction set \"%s\"",
                 name);
        return moe_hint(err, "Set moe.cpu_isa to auto.");
    }
    engine = calloc(1, sizeof(*engine));
    if (engine == NULL)
        return moe_fail_memory(err, sizeof(*engine));
    engine->kernels = moe_cpu_kernels(isa);
    engine->reproducible = options->reproducible;
    status = moe_pool_create(threads, &engine->pool, err);
    if (status != MOE_OK) {
        free(engine);
        return status;
    }
    *out = engine;
    return MOE_OK;
}

void moe_engine_free(moe_engine *engine)
{
    if (engine == NULL)
        return;
    moe_pool_free(engine->pool);
    free(engine);
}

const char *moe_engine_isa(const moe_engine *engine)
{
    return engine->kernels->name;
}

int moe_engine_threads(const moe_engine *engine)
{
    return moe_pool_threads(engine->pool);
}

/* --- model
 * ------------------------------------------------------------------------------------------ */

static bool is_unquantised(moe_type type)
{
    return type == MOE_TYPE_F32 || type == MOE_TYPE_F16 || type == MOE_TYPE_BF16 ||
           type == MOE_TYPE_BF16_PAIRS;
}

/* True if KV entries are kept as f32: float weights deserve it, quantised ones do not. */
static bool kv_is_f32(const moe_model *model, moe_kv_type type)
{
    return type == MOE_KV_F32 || (type == MOE_KV_AUTO && is_unquantised(model->weights.main_type));
}

static moe_status fill_info(moe_model *model, const moe_model_options *options, moe_error *err)
{
    const moe_model_spec *spec = &model->spec;
    const size_t element = kv_is_f32(model, options->kv_type) ? 4 : 2;
    const size_t width =
        spec->attention == MOE_ATTENTION_MLA
            ? (size_t)(spec->kv_lora_rank + spec->head_dim_rope)
            : (size_t)spec->n_kv_heads * (size_t)(spec->head_dim + spec->head_dim_v);
    moe_model_info *info = &model->info;

    if (options->n_ctx < 0 || options->n_ctx > spec->n_ctx_train) {
        moe_fail(err, MOE_ERR_INVALID, "n_ctx must lie between 1 and %d", spec->n_ctx_train);
        return moe_hint(err, "That is the context the model was trained for.");
    }
    *info = (moe_model_info){
        .family = spec->family,
        .name = spec->name,
        .type = moe_type_info_of(model->weights.main_type)->name,
        .n_params = model->weights.n_params,
        .n_params_active = model->weights.n_params_active,
        .n_ctx_train = spec->n_ctx_train,
        .n_ctx = options->n_ctx > 0 ? options->n_ctx : spec->n_ctx_train,
        .n_layers = spec->n_layers,
        .n_embd = spec->n_embd,
        .n_vocab = spec->n_vocab,
        .n_experts = spec->moe.n_experts,
        .n_experts_used = spec->moe.n_experts > 0 ? spec->moe.n_experts_used : 0,
        .is_encoder = !spec->causal,
        .has_chat_template = model->chat_template != NULL,
        .weight_bytes = model->weights.size,
        .kv_bytes_per_token = element * width * (spec->causal ? (size_t)spec->n_layers : 1),
        .bos_id = moe_tokenizer_bos(model->tokenizer),
        .eos_id = moe_tokenizer_eos(model->tokenizer),
    };
    if (!spec->causal && spec->embed_max_tokens > 0 && spec->embed_max_tokens < info->n_ctx)
        info->n_ctx = spec->embed_max_tokens;
    return MOE_OK;
}

/* Everything that the file says, short of reading weights. */
static moe_status describe(const moe_file *file, const moe_model_options *options, moe_model *model,
                           moe_error *err)
{
    const char *template =
        options->chat_template != NULL ? options->chat_template : moe_file_chat_template(file);
    const moe_family *family;
    moe_status status = moe_family_find(file, &family, err);

    if (status == MOE_OK)
        status = family->read_spec(file, &model->spec, err);
    if (status == MOE_OK)
        status = moe_weights_init(&model->weights, model->spec.n_layers, err);
    if (status == MOE_OK)
        status = family->bind(file, &model->spec, &model->weights, err);
    if (status == MOE_OK && options->quantize != MOE_QUANTIZE_NONE)
        moe_weights_quantize(&model->weights, &model->spec,
                             options->quantize == MOE_QUANTIZE_Q8_0 ? MOE_TYPE_Q8_0
                                                                    : MOE_TYPE_BF16_PAIRS);
    if (status == MOE_OK)
        status = moe_weights_layout(&model->weights, &model->spec, err);
    if (status == MOE_OK)
        status = moe_tokenizer_create(file, &model->tokenizer, err);
    if (status != MOE_OK)
        return status;
    if (template != NULL) {
        model->chat_template = strdup(template);
        if (model->chat_template == NULL)
            return moe_fail_memory(err, strlen(template));
    }
    return fill_info(model, options, err);
}

enum { HUGE_PAGE = 2 << 20 };

/* Private memory for an arena: zeroed, taken from the system as it is written to. */
static moe_status map_arena(moe_model *model, size_t size, moe_error *err)
{
    const size_t rounded = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *arena = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (arena == MAP_FAILED)
        return moe_fail_memory(err, rounded);
    madvise(arena, rounded, MADV_HUGEPAGE); /* where it can't be had, small pages do */
    model->arena = arena;
    model->arena_size = rounded;
    return MOE_OK;
}

/* Finds the model's arena in the store, or makes one. */
static moe_status find_arena(const moe_model_options *options, moe_model *model, moe_error *err)
{
    const moe_weight_store *store = options->store;
    const moe_weights *w = &model->weights;
    const int n_experts = w->n_units - w->n_dense;
    const int n_used = n_experts > 0 ? model->spec.moe.n_experts_used : 0;
    const size_t least = moe_cache_bytes(w, n_used), most = moe_cache_bytes(w, n_experts);
    bool fresh = true;
    moe_status status;

    if (most == SIZE_MAX)
        return moe_fail(err, MOE_ERR_FORMAT, "the weights are too large for memory addresses");
    if (store == NULL) {
        status = map_arena(model, most, err);
    } else {
        model->store_key = strdup(options->store_key);
        if (model->store_key == NULL)
            return moe_fail_memory(err, strlen(options->store_key));
        status = store->acquire(store->ud, model->store_key, least, most, &model->arena,
                                &model->arena_size, &fresh, err);
        if (status == MOE_OK)
            model->store = store;
    }
    if (status == MOE_OK && fresh) {
        moe_cache_prepare(w, model->arena, model->arena_size);
        if (store != NULL)
            store->ready(store->ud, model->store_key);
    }
    return status;
}

static moe_status open_file(const char *path, const moe_model_options *options, moe_file **file,
                            moe_model **model, moe_error *err)
{
    moe_status status = moe_file_open(path, file, err);

    *model = NULL;
    if (status != MOE_OK)
        return status;
    *model = calloc(1, sizeof(**model));
    if (*model == NULL) {
        moe_file_close(*file);
        return moe_fail_memory(err, sizeof(**model));
    }
    return describe(*file, options, *model, err);
}

moe_status moe_model_describe(const char *path, const moe_model_options *options, moe_model **out,
                              moe_error *err)
{
    moe_file *file = NULL;
    moe_model *model;
    moe_status status = open_file(path, options, &file, &model, err);

    *out = NULL;
    if (model == NULL)
        return status;
    moe_file_close(file);
    if (status != MOE_OK) {
        moe_model_close(model);
        return status;
    }
    *out = model;
    return MOE_OK;
}

moe_status moe_model_open(moe_engine *engine, const char *path, const moe_model_options *options,
                          moe_model **out, moe_error *err)
{
    const size_t kv_bytes = options->kv_bytes > 0 ? options->kv_bytes : (size_t)1 << 30;
    moe_file *file = NULL;
    moe_model *model;
    moe_status status = open_file(path, options, &file, &model, err);

    *out = NULL;
    if (model == NULL)
        return status;
    model->engine = engine;
    model->file = file;
    model->cancel = options->cancel;
    if (status == MOE_OK)
        status = moe_file_forget_metadata(file, err);
    if (status == MOE_OK)
        status = find_arena(options, model, err);
    if (status == MOE_OK)
        status = moe_resident_create(&model->weights, file, engine->kernels, engine->pool,
                                     model->arena, &model->resident, err);
    if (status == MOE_OK)
        status = moe_cpu_device_create(&model->spec, model->resident, engine->kernels, engine->pool,
                                       engine->reproducible, &model->device, err);
    if (status == MOE_OK)
        status = moe_kv_cache_create(&model->spec, kv_is_f32(model, options->kv_type), kv_bytes,
                                     &model->kv, err);
    if (status == MOE_OK)
        status = moe_prefix_cache_create(
            model->kv, options->kv_idle_bytes > 0 ? options->kv_idle_bytes : SIZE_MAX,
            &model->prefixes, err);
    if (status == MOE_OK)
        status = moe_sampler_create(engine->kernels, model->spec.n_vocab, &model->sampler, err);
    if (status != MOE_OK) {
        moe_model_close(model);
        return status;
    }
    *out = model;
    return MOE_OK;
}

void moe_model_close(moe_model *model)
{
    if (model == NULL)
        return;
    if (model->device != NULL)
        model->device->ops->free(model->device);
    moe_prefix_cache_free(model->prefixes);
    moe_kv_cache_free(model->kv);
    moe_sampler_free(model->sampler);
    moe_resident_free(model->resident);
    if (model->store != NULL)
        model->store->release(model->store->ud, model->store_key);
    else if (model->arena != NULL)
        munmap(model->arena, model->arena_size);
    free(model->store_key);
    moe_file_close(model->file);
    moe_tokenizer_free(model->tokenizer);
    free(model->chat_template);
    moe_weights_free(&model->weights);
    moe_model_spec_free(&model->spec);
    free(model);
}

const moe_model_info *moe_model_info_of(const moe_model *model)
{
    return &model->info;
}

moe_status moe_model_prewarm(moe_model *model, size_t max_bytes, const moe_cancel *cancel,
                             int *n_units, size_t *n_bytes, moe_error *err)
{
    return moe_resident_prewarm(model->resident, max_bytes, cancel, n_units, n_bytes, err);
}

void moe_model_accept_files(moe_model *model)
{
    if (model->file != NULL)
        moe_file_accept(model->file);
}

int moe_model_descriptors(const moe_model *model)
{
    return model->file != NULL ? moe_file_descriptors(model->file) : 0;
}

void moe_model_counters(const moe_model *model, moe_counters *out)
{
    *out = (moe_counters){
        .schedulers = model->n_schedulers,
        .sequences = model->n_sequences,
        .waiting = model->n_waiting,
        .running = model->n_running,
        .prefix_hits = model->n_prefix_hits,
        .cached_tokens = model->n_cached_tokens,
    };
    if (model->prefixes == NULL)
        return;
    out->kv_pages_used = moe_prefix_cache_held(model->prefixes);
    out->kv_pages_cached = model->prefixes->n_idle;
    out->kv_pages_total = model->kv->n_pages_max;
}
