/*
 * Measures the engine by itself, without PostgreSQL, on one model, and writes one line of JSON.
 *
 *   bench_engine [-t threads] [-r repetitions] [-i isa] [-w work,work,…] [-p prompt tokens]
 *                [-n generated tokens] [-s sequences] [-d depth] [-f text file] [-x text] MODEL
 *
 * first     open_ms: opening the model, without its weights
 *           first_ms: from before opening to the first token behind a short text (-x), which loads the
 *           weights that these tokens use; before all other work the rest is loaded.  With -w
           first alone nothing else is, so that the time of the process is that of its first token
 * prefill   prefill_tps: prompt tokens per second, -p of them, up to the last one's logits
 * decode    decode_tps: tokens per second after the first, -n of them behind a prompt of one
 * batch     batch_decode_tps: the same of -s sequences together, half as many tokens in each
 *           behind 16
 * deep      deep_prefill_tps, deep_decode_tps: a prompt of -d tokens, and 32 tokens behind it;
 *           absent if the model's context is too short
 * generate  generate_ms: a generation of 64 tokens behind a short text, queueing and sampling
 *           included, which the same call from SQL is compared with
 * embed     embed_tps: tokens per second of 64 texts of 64 tokens; encoders only do this and first
 * tokenize  tokenize_mbs, tokens: 10^6 bytes of -f per second, in pieces of 8 KiB; needs no weights
 *
 * Medians over the repetitions; token ids are pseudo-random and new in each, decoding is greedy and
 * passes over ends of texts.  Besides, what the limits follow from, of the model as it lies packed:
 *
 * dense_mb, expert_mb    10^6 bytes that every step reads, and those of one expert of every layer
 * experts, experts_used  of a layer, and of these by one token
 * kv_kb                  10^3 bytes of cache that a token reads per token before it
 * token_mop              10^6 multiplications and additions per prompt token, without attention
 * attention_kop          10^3 of them per prompt token and token before it
 */
#include "../../src/engine/model_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_REPETITIONS = 100,
    MAX_FIGURES = 16,
    MAX_SEQUENCES = 1024,
    BATCH_PROMPT = 16,
    TEXT_TOKENS = 64,
    TEXTS = 64,
    GENERATE = 64,
    DEEP_TOKENS = 32,
    PIECE = 8192
};

static const char *short_text = "The write-ahead log records every change";

/* --- helpers ---------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void check(moe_status status, const moe_error *err)
{
    if (status != MOE_OK) {
        fprintf(stderr, "bench_engine: %s\n", err->message);
        exit(1);
    }
}

static void *allocate(size_t size)
{
    void *p = malloc(size);
    if (!p) {
        fprintf(stderr, "bench_engine: out of memory\n");
        exit(1);
    }
    return p;
}

/* Figures in the order of their first samples. */
static struct {
    const char *name;
    double samples[MAX_REPETITIONS];
    int n;
} figures[MAX_FIGURES];

static void sample(const char *name, double value)
{
    int i = 0;
    while (figures[i].name && strcmp(figures[i].name, name) != 0)
        i++;
    figures[i].name = name;
    figures[i].samples[figures[i].n++] = value;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static void print_figures(void)
{
    for (int i = 0; i < MAX_FIGURES && figures[i].name; i++)
        printf(", \"%s\": %.2f", figures[i].name, median(figures[i].samples, figures[i].n));
}

/* The next n ids of a linear congruential generator, so that every run sees the same ones. */
static int32_t *random_ids(int n, int n_vocab)
{
    static uint32_t state = 1;
    int32_t *ids = allocate((size_t)n * sizeof *ids);
    for (int i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        ids[i] = (int32_t)((state >> 8) % (uint32_t)n_vocab);
    }
    return ids;
}

/* --- what the limits follow from -------------------------------------------------------------- */

static void print_needs(const moe_model *model)
{
    const moe_model_spec *spec = &model->spec;
    const moe_weights *w = &model->weights;
    const int n_used = spec->moe.n_experts_used;
    const bool tied = spec->causal && !w->global[MOE_OUTPUT].present;
    double dense = 0, expert = 0, per_prompt_token = 0, per_position;

    for (int s = 0; s < MOE_N_GLOBAL_SLOTS; s++) {
        const moe_slot *slot = &w->global[s];
        bool lookup =
            s == MOE_POSITION_EMBD || s == MOE_TYPE_EMBD || (s == MOE_TOKEN_EMBD && !tied);
        if (slot->present && !lookup)
            dense += (double)slot->n_mats * (double)slot->mat_stride;
    }
    for (int l = 0; l < w->n_layers; l++) {
        for (int s = 0; s < MOE_N_LAYER_SLOTS; s++) {
            const moe_slot *slot = &w->layers[l][s];
            bool of_expert = s == MOE_EXPERT_GATE || s == MOE_EXPERT_UP || s == MOE_EXPERT_DOWN;
            if (!slot->present)
                continue;
            if (!of_expert)
                dense += (double)slot->n_mats * (double)slot->mat_stride;
            else if (s == MOE_EXPERT_UP)
                expert += (double)w->units[slot->unit].bytes;
            if (!slot->is_vector)
                per_prompt_token += 2.0 * (double)(of_expert ? n_used : slot->n_mats) *
                                    (double)slot->n_rows * (double)slot->n_cols;
        }
    }
    per_position = spec->attention == MOE_ATTENTION_MLA
                       ? 2.0 * spec->kv_lora_rank + spec->head_dim_rope
                       : (double)spec->head_dim + spec->head_dim_v;
    per_position *= 2.0 * spec->n_heads * spec->n_layers;
    printf(", \"weight_mb\": %.1f, \"dense_mb\": %.2f, \"expert_mb\": %.3f, \"experts\": %d, "
           "\"experts_used\": %d, \"kv_kb\": %.2f, \"token_mop\": %.1f, \"attention_kop\": %.1f",
           (double)w->size / 1e6, dense / 1e6, expert / 1e6, spec->moe.n_experts, n_used,
           (double)model->info.kv_bytes_per_token / 1e3, per_prompt_token / 1e6,
           per_position / 1e3);
}

/* --- runs ------------------------------------------------------------------------------------- */

static moe_request request_for(moe_task task, const int32_t *ids, size_t n_ids, int max_tokens)
{
    return (moe_request){.task = task,
                         .prompt = ids,
                         .n_prompt = n_ids,
                         .max_tokens = max_tokens,
                         .top_p = 1,
                         .repeat_penalty = 1,
                         .ignore_eos = true,
                         .n_top = 1};
}

/* Runs n_requests equal requests over consecutive slices of ids to their end.  Returns seconds in
 * all and, if first is not NULL, the seconds up to the first token of the last sequence. */
static double run(moe_model *model, moe_request request, int n_requests, double *first)
{
    moe_error err = {0};
    moe_scheduler *scheduler;
    moe_scheduler_options options = {.max_seqs = n_requests};
    moe_seq *seqs[MAX_SEQUENCES];
    moe_token token;
    bool busy = true, seen = false;
    double begin = now();

    check(moe_scheduler_create(model, &options, &scheduler, &err), &err);
    for (int i = 0; i < n_requests; i++) {
        check(moe_scheduler_add(scheduler, &request, &seqs[i], &err), &err);
        request.prompt += request.n_prompt;
    }
    while (busy) {
        check(moe_scheduler_step(scheduler, &busy, &err), &err);
        if (!seen && moe_seq_next(seqs[n_requests - 1], &token)) {
            seen = true;
            if (first)
                *first = now() - begin;
        }
    }
    double seconds = now() - begin;
    for (int i = 0; i < n_requests; i++) {
        if (!moe_seq_done(seqs[i])) {
            fprintf(stderr, "bench_engine: a sequence did not finish\n");
            exit(1);
        }
    }
    moe_scheduler_free(scheduler);
    return seconds;
}

/* Seconds of n_requests requests with n_ids new ids each. */
static double run_task(moe_model *model, moe_task task, int n_requests, int n_ids, int max_tokens,
                       double *first)
{
    int32_t *ids = random_ids(n_requests * n_ids, model->info.n_vocab);
    double seconds =
        run(model, request_for(task, ids, (size_t)n_ids, max_tokens), n_requests, first);
    free(ids);
    return seconds;
}

static double run_text(moe_model *model, int max_tokens)
{
    moe_error err = {0};
    int32_t *ids;
    size_t n_ids;

    check(moe_tokenize(model, short_text, strlen(short_text), MOE_TEXT_ADD_SPECIAL, &ids, &n_ids,
                       &err),
          &err);
    double seconds = run(model, request_for(MOE_TASK_GENERATE, ids, n_ids, max_tokens), 1, NULL);
    free(ids);
    return seconds;
}

static char *read_text(const char *path, size_t *len)
{
    FILE *f = path ? fopen(path, "rb") : NULL;
    if (!f) {
        fprintf(stderr, "bench_engine: no text: %s\n", path ? path : "-f is missing");
        exit(1);
    }
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    char *text = allocate(*len + 1);
    *len = fread(text, 1, *len, f);
    fclose(f);
    return text;
}

/* A piece ends behind the first line end at or after PIECE bytes. */
static void tokenize(const char *model_path, const char *text_path, int repetitions)
{
    moe_error err = {0};
    moe_file *file;
    moe_tokenizer *tokenizer;
    size_t len;
    char *text = read_text(text_path, &len);

    check(moe_file_open(model_path, &file, &err), &err);
    check(moe_tokenizer_create(file, &tokenizer, &err), &err);
    for (int i = 0; i < repetitions; i++) {
        size_t n_tokens = 0;
        double begin = now();
        for (size_t at = 0, end; at < len; at = end) {
            moe_ids ids = {0};
            const char *line_end =
                at + PIECE < len ? memchr(text + at + PIECE, '\n', len - at - PIECE) : NULL;
            end = line_end ? (size_t)(line_end - text) + 1 : len;
            check(moe_tokenizer_encode(tokenizer, text + at, end - at, MOE_TEXT_PARSE_SPECIAL, &ids,
                                       &err),
                  &err);
            n_tokens += ids.len;
            free(ids.data);
        }
        sample("tokenize_mbs", (double)len / 1e6 / (now() - begin));
        sample("tokens", (double)n_tokens);
    }
    moe_tokenizer_free(tokenizer);
    moe_file_close(file);
    free(text);
}

/* --- the command ------------------------------------------------------------------------------ */

static bool wants(const char *works, const char *work)
{
    size_t len = strlen(work);
    for (const char *at = works; (at = strstr(at, work)) != NULL; at += len) {
        if ((at == works || at[-1] == ',') && (at[len] == ',' || at[len] == '\0'))
            return true;
    }
    return false;
}

static int number(const char *text, int low, int high)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < low || value > high) {
        fprintf(stderr, "bench_engine: %s is not a number from %d to %d\n", text, low, high);
        exit(2);
    }
    return (int)value;
}

int main(int argc, char **argv)
{
    int n_threads = 1, repetitions = 5, n_prompt = 512, n_generate = 64, n_seqs = 16, depth = 8192,
        opt;
    const char *isa = "auto", *text = NULL, *works = "first,prefill,decode,batch,generate,embed";
    while ((opt = getopt(argc, argv, "t:r:p:n:s:d:i:w:f:x:")) != -1) {
        switch (opt) {
        case 't': n_threads = number(optarg, 0, 1024); break;
        case 'r': repetitions = number(optarg, 1, MAX_REPETITIONS); break;
        case 'p': n_prompt = number(optarg, 1, 1 << 20); break;
        case 'n': n_generate = number(optarg, 4, 1 << 20); break;
        case 's': n_seqs = number(optarg, 1, MAX_SEQUENCES); break;
        case 'd': depth = number(optarg, 1, 1 << 20); break;
        case 'i': isa = optarg; break;
        case 'w': works = optarg; break;
        case 'f': text = optarg; break;
        case 'x': short_text = optarg; break;
        default: optind = argc;
        }
    }
    if (optind != argc - 1) {
        fprintf(stderr,
                "usage: bench_engine [-t threads] [-r repetitions] [-i isa] [-w work,work,…] "
                "[-p prompt tokens]\n       [-n generated tokens] [-s sequences] [-d depth] "
                "[-f text file] [-x text] MODEL\n"
                "work: first, prefill, decode, batch, deep, generate, embed, tokenize\n");
        return 2;
    }
    const char *path = argv[optind], *slash = strrchr(path, '/');
    printf("{\"engine\": \"pg_moe\", \"model\": \"%s\"", slash ? slash + 1 : path);
    if (wants(works, "tokenize")) {
        tokenize(path, text, repetitions);
        print_figures();
        printf("}\n");
        return 0;
    }

    moe_error err = {0};
    moe_engine *engine;
    moe_engine_options engine_options = {.n_threads = n_threads, .isa = isa, .reproducible = true};
    moe_model *model = NULL;
    check(moe_engine_create(&engine_options, &engine, &err), &err);
    for (int i = 0; i < (wants(works, "first") ? repetitions : 1); i++) {
        if (model)
            moe_model_close(model);
        double begin = now();
        check(moe_model_open(engine, path, &(moe_model_options){0}, &model, &err), &err);
        sample("open_ms", (now() - begin) * 1e3);
        if (wants(works, "first") && !model->info.is_encoder) {
            run_text(model, 1);
            sample("first_ms", (now() - begin) * 1e3);
        }
    }

    const moe_model_info *info = moe_model_info_of(model);
    const bool more = strcmp(works, "first") != 0;
    int n_units;
    size_t n_bytes;
    if (more)
        check(moe_model_prewarm(model, 0, NULL, &n_units, &n_bytes, &err), &err);
    for (int i = 0; more && i < repetitions; i++) {
        double all, first = 0;
        if (info->is_encoder) {
            if (wants(works, "embed"))
                sample("embed_tps",
                       TEXTS * TEXT_TOKENS /
                           run_task(model, MOE_TASK_EMBED, TEXTS, TEXT_TOKENS, 0, NULL));
            continue;
        }
        if (wants(works, "prefill"))
            sample("prefill_tps", n_prompt / run_task(model, MOE_TASK_NEXT, 1, n_prompt, 0, NULL));
        if (wants(works, "decode")) {
            all = run_task(model, MOE_TASK_GENERATE, 1, 1, n_generate, &first);
            sample("decode_tps", (n_generate - 1) / (all - first));
        }
        if (wants(works, "batch")) {
            all = run_task(model, MOE_TASK_GENERATE, n_seqs, BATCH_PROMPT, n_generate / 2, &first);
            sample("batch_decode_tps", n_seqs * (n_generate / 2 - 1) / (all - first));
        }
        if (wants(works, "deep") && depth + DEEP_TOKENS + 1 <= info->n_ctx) {
            all = run_task(model, MOE_TASK_GENERATE, 1, depth, DEEP_TOKENS + 1, &first);
            sample("deep_prefill_tps", depth / first);
            sample("deep_decode_tps", DEEP_TOKENS / (all - first));
        }
        if (wants(works, "generate"))
            sample("generate_ms", run_text(model, GENERATE) * 1e3);
    }
    printf(", \"isa\": \"%s\", \"threads\": %d", moe_engine_isa(engine),
           moe_engine_threads(engine));
    print_figures();
    print_needs(model);
    printf("}\n");
    moe_model_close(model);
    moe_engine_free(engine);
    return 0;
}
