/*
 * What several test programs share: finding optional data, reading golden safetensors files, raw logits of
 * a model.  Header-only, so that every test program stays one file.
 */
#ifndef MOE_TEST_GOLDEN_H
#define MOE_TEST_GOLDEN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "../../src/engine/model_internal.h"
#include "../../src/engine/run/forward.h"

/* A path below the shared data folder, in one of four rotating buffers. */
static inline const char *shared_path(const char *fmt, ...)
{
    static char buffers[4][1024];
    static int next;
    char *buf = buffers[next++ % 4];
    const char *root = getenv("MOE_SHARED");
    va_list args;
    int n = snprintf(buf, 1024, "%s/", root != NULL ? root : "../shared");

    va_start(args, fmt);
    vsnprintf(buf + n, 1024 - (size_t)n, fmt, args);
    va_end(args);
    return buf;
}

/* Skips the running test with a printed line if path is absent. */
static inline void need(const char *path)
{
    if (access(path, R_OK) != 0) {
        print_message("skipped: %s is absent\n", path);
        skip();
    }
}

/* A golden file: the JSON header and the data behind it. */
typedef struct golden {
    char *bytes;
    json_t *header;
    const char *data;
} golden;

static inline golden golden_open(const char *path)
{
    golden g;
    FILE *f = fopen(path, "rb");
    uint64_t n;
    long size;

    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    size = ftell(f);
    rewind(f);
    g.bytes = malloc((size_t)size);
    assert_non_null(g.bytes);
    assert_int_equal(fread(g.bytes, 1, (size_t)size, f), size);
    fclose(f);
    memcpy(&n, g.bytes, 8);
    g.header = json_loadb(g.bytes + 8, n, 0, NULL);
    assert_non_null(g.header);
    g.data = g.bytes + 8 + n;
    return g;
}

static inline void golden_close(golden *g)
{
    json_decref(g->header);
    free(g->bytes);
}

/* A tensor of a golden file, its number of elements (4 bytes each) in *n; NULL if absent. */
static inline const void *golden_tensor(const golden *g, size_t *n, const char *fmt, ...)
{
    char name[64];
    va_list args;
    json_t *entry, *offsets;

    va_start(args, fmt);
    vsnprintf(name, sizeof(name), fmt, args);
    va_end(args);
    entry = json_object_get(g->header, name);
    if (entry == NULL)
        return NULL;
    offsets = json_object_get(entry, "data_offsets");
    *n = (size_t)(json_integer_value(json_array_get(offsets, 1)) -
                  json_integer_value(json_array_get(offsets, 0))) / 4;
    return g->data + json_integer_value(json_array_get(offsets, 0));
}

#define assert_ok(status, err)                                                                     \
    do {                                                                                           \
        if ((status) != MOE_OK)                                                                    \
            fail_msg("status %d: %s (%s %s)", (int)(status), (err).message, (err).detail,          \
                     (err).hint);                                                                  \
    } while (0)

static inline moe_engine *open_engine(int threads, const char *isa)
{
    moe_engine *engine;
    moe_error err = {0};

    assert_ok(moe_engine_create(&(moe_engine_options){threads, isa, true}, &engine, &err), err);
    return engine;
}

static inline moe_model *open_model_as(moe_engine *engine, const char *path, moe_quantize quantize)
{
    moe_model *model;
    moe_error err = {0};

    assert_ok(moe_model_open(engine, path, &(moe_model_options){.quantize = quantize}, &model, &err),
              err);
    return model;
}

static inline moe_model *open_model(moe_engine *engine, const char *path)
{
    return open_model_as(engine, path, MOE_QUANTIZE_NONE);
}

typedef struct logits_sink {
    float *out;
    int n_vocab;
} logits_sink;

static inline moe_status keep_logits(void *ud, int i, const float *logits, moe_error *err)
{
    logits_sink *sink = ud;

    (void)err;
    memcpy(sink->out + (size_t)i * (size_t)sink->n_vocab, logits,
           sizeof(float) * (size_t)sink->n_vocab);
    return MOE_OK;
}

/* Final hidden states and logits (either may be NULL) of all n tokens as one prompt, in chunks. */
static inline void run_tokens(moe_model *model, const int32_t *ids, int n, int chunk, bool prompt,
                              float *logits, float *hidden)
{
    const moe_forward forward = {&model->spec, &model->weights, model->device, NULL, NULL};
    int32_t pages[64], tokens[4096], rows[4096];
    int64_t positions[4096];
    const int n_pages = (n + MOE_KV_PAGE - 1) / MOE_KV_PAGE;
    moe_error err = {0};

    assert_true(n <= 4096 && n_pages <= 64);
    for (int i = 0; i < n_pages; i++)
        pages[i] = moe_kv_cache_take(model->kv);
    for (int at = 0; at < n; at += chunk) {
        const int rows_now = n - at < chunk ? n - at : chunk;
        const moe_span span = {.row = 0, .n_rows = rows_now, .pos = at, .pages = pages};
        const moe_step step = {.n_rows = rows_now, .n_prefill = prompt ? rows_now : 0, .tokens = tokens,
                               .positions = positions, .spans = &span, .n_spans = 1,
                               .kv = model->kv};
        logits_sink sink = {logits == NULL ? NULL
                                           : logits + (size_t)at * (size_t)model->spec.n_vocab,
                            model->spec.n_vocab};

        for (int i = 0; i < rows_now; i++) {
            tokens[i] = ids[at + i];
            positions[i] = at + i;
            rows[i] = i;
        }
        assert_ok(moe_forward_run(&forward, &step, rows, logits == NULL ? 0 : rows_now,
                                  keep_logits, &sink, &err), err);
        for (int i = 0; hidden != NULL && i < rows_now; i++)
            memcpy(hidden + (size_t)(at + i) * (size_t)model->spec.n_embd,
                   model->device->ops->hidden(model->device, i),
                   sizeof(float) * (size_t)model->spec.n_embd);
    }
    for (int i = 0; i < n_pages; i++)
        moe_kv_cache_release(model->kv, pages[i]);
}

static inline void run_prompt(moe_model *model, const int32_t *ids, int n, int chunk,
                              float *logits, float *hidden)
{
    run_tokens(model, ids, n, chunk, true, logits, hidden);
}

/* sum((a - b)^2) / sum(a^2), a the golden. */
static inline double nmse(const float *a, const float *b, size_t n)
{
    double num = 0.0, den = 0.0;

    for (size_t i = 0; i < n; i++) {
        num += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        den += (double)a[i] * a[i];
    }
    return num / den;
}

/* Runs one request to its end; the sequence is freed with the scheduler. */
static inline moe_seq *run_request(moe_model *model, const moe_request *request,
                                   moe_scheduler **scheduler)
{
    moe_error err = {0};
    moe_seq *seq;
    bool busy = true;

    assert_ok(moe_scheduler_create(model, NULL, scheduler, &err), err);
    assert_ok(moe_scheduler_add(*scheduler, request, &seq, &err), err);
    while (busy)
        assert_ok(moe_scheduler_step(*scheduler, &busy, &err), err);
    assert_true(moe_seq_done(seq));
    return seq;
}

#endif
