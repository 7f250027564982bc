/*
 * Measures the expert cache: its hit rate against the best possible one, and what a smaller cache
 * costs.  One line of JSON per measurement.
 *
 *   bench_cache [-t threads] [-n tokens] [-w work,work] [-k skew] [-f text file] MODEL
 *
 * policy   routing recorded while the model generates -n tokens behind each line of -f, and made-up
 *          routings, replayed on the cache with room for an eighth to three quarters of the experts.
 *          hits: share of the wanted experts that were there; belady: the same if what is wanted
 *          last of all made room, which needs to know the future; fixed: if the most wanted
 *          experts stayed for good, which needs to know how often each is wanted and is the best that
 *          can be done without knowing the future where tokens choose independently of each other
 * speed    decoding with room for all experts down to an eighth: hits, decode_tps, and the
 *          megabytes read per token.  The model's files should be in the page cache.
 *          -k skew (0) is taken from the routers' selection biases, where the model has them: from
 *          that of an expert as many times as its rank in some order, from 0 to 1, says
 * overhead ns_per_expert: processor time that pinning, counting and unpinning a resident expert takes
 */
#include "../../src/engine/model_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const double policy_shares[] = {0.125, 0.25, 0.375, 0.5, 0.75};
static const double speed_shares[] = {1, 0.75, 0.5, 0.25, 0.125};

#define LENGTH(array) (int)(sizeof(array) / sizeof((array)[0]))

static const char sample_text[] = "VACUUM reclaims storage occupied by dead tuples.\n"
                                  "An index on a table speeds up queries that\n"
                                  "What is 12 + 30?\n"
                                  "The write-ahead log records every change\n"
                                  "Heavy rain is expected tomorrow in the north and\n"
                                  "A transaction is committed when\n";

static double clock_of(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double now(void)
{
    return clock_of(CLOCK_MONOTONIC);
}

static void check(moe_status status, const moe_error *err)
{
    if (status != MOE_OK) {
        fprintf(stderr, "bench_cache: %s\n", err->message);
        exit(1);
    }
}

static void *allocate(size_t size)
{
    void *p = calloc(1, size + 1);
    if (!p) {
        fprintf(stderr, "bench_cache: out of memory\n");
        exit(1);
    }
    return p;
}

static uint32_t random_below(uint32_t n)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(state >> 8) * n >> 24);
}

/* --- traces ---------------------------------------------------------------------------------- */

/* Experts in the order in which steps wanted them, numbered through all layers. */
typedef struct trace {
    int n_layers, n_experts; /* that have experts; per layer */
    int *experts;
    int n, cap;
} trace;

static void add(trace *t, int expert)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 1024;
        t->experts = realloc(t->experts, (size_t)t->cap * sizeof *t->experts);
        if (!t->experts) {
            fprintf(stderr, "bench_cache: out of memory\n");
            exit(1);
        }
    }
    t->experts[t->n++] = expert;
}

typedef struct recorder {
    trace *trace;
    int n_dense;
} recorder;

static void record(void *ud, int32_t unit, bool hit)
{
    const recorder *r = ud;
    (void)hit;
    add(r->trace, unit - r->n_dense);
}

static void generate(moe_model *model, const int32_t *ids, size_t n_ids, int n_tokens)
{
    moe_error err = {0};
    moe_scheduler *scheduler;
    moe_seq *seq;
    moe_request request = {.prompt = ids, .n_prompt = n_ids, .max_tokens = n_tokens,
                           .temperature = 0.8f, .seed = 1, .top_p = 1, .repeat_penalty = 1,
                           .ignore_eos = true};
    bool busy = true;
    check(moe_scheduler_create(model, NULL, &scheduler, &err), &err);
    check(moe_scheduler_add(scheduler, &request, &seq, &err), &err);
    while (busy)
        check(moe_scheduler_step(scheduler, &busy, &err), &err);
    moe_scheduler_free(scheduler);
}

static trace record_model(moe_engine *engine, const char *path, const char *text, int n_tokens)
{
    moe_error err = {0};
    moe_model *model;
    trace t = {0};
    check(moe_model_open(engine, path, &(moe_model_options){0}, &model, &err), &err);
    const moe_weights *w = &model->weights;
    recorder r = {&t, w->n_dense};
    t.n_experts = model->spec.moe.n_experts;
    t.n_layers = t.n_experts > 0 ? (w->n_units - w->n_dense) / t.n_experts : 0;
    model->resident->cache.trace = record;
    model->resident->cache.trace_ud = &r;
    for (const char *line = text; *line != '\0';) {
        size_t len = strcspn(line, "\n"), n_ids;
        int32_t *ids;
        if (len > 0 && t.n_layers > 0) {
            check(moe_tokenize(model, line, len, MOE_TEXT_ADD_SPECIAL, &ids, &n_ids, &err), &err);
            generate(model, ids, n_ids, n_tokens);
            free(ids);
        }
        line += len + (line[len] == '\n');
    }
    moe_model_close(model);
    return t;
}

/* Steps that want n_used experts of each layer, the expert of rank r as often as 1 / r^skew tells; an
 * expert is wanted again in the next step with probability `again`. */
static trace make_up(int n_layers, int n_experts, int n_used, int n_steps, double skew, double again)
{
    trace t = {.n_layers = n_layers, .n_experts = n_experts};
    double *sums = allocate((size_t)n_experts * sizeof *sums), sum = 0;
    int *order = allocate((size_t)(n_layers * n_experts) * sizeof *order);
    int *last = allocate((size_t)(n_layers * n_used) * sizeof *last);
    bool *chosen = allocate((size_t)n_experts);

    for (int e = 0; e < n_experts; e++)
        sums[e] = sum += pow(e + 1, -skew);
    for (int i = 0; i < n_layers * n_experts; i++) { /* each layer has an order of its own */
        int first = i - i % n_experts, j = first + (int)random_below((uint32_t)(i - first + 1));
        order[i] = order[j];
        order[j] = i;
    }
    for (int s = 0; s < n_steps; s++) {
        for (int l = 0; l < n_layers; l++) {
            int *used = last + l * n_used, n = 0;
            memset(chosen, 0, (size_t)n_experts);
            for (int i = 0; i < n_used && s > 0; i++)
                if (random_below(1 << 20) < again * (1 << 20))
                    used[n++] = used[i];
            for (int i = 0; i < n; i++)
                chosen[used[i] % n_experts] = true;
            while (n < n_used) {
                double x = random_below(1 << 24) * sum / (1 << 24);
                int rank = 0;
                while (sums[rank] <= x)
                    rank++;
                int expert = order[l * n_experts + rank];
                if (!chosen[expert % n_experts]) {
                    chosen[expert % n_experts] = true;
                    used[n++] = expert;
                }
            }
            for (int i = 0; i < n; i++)
                add(&t, used[i]);
        }
    }
    free(sums);
    free(order);
    free(last);
    free(chosen);
    return t;
}

/* --- policies -------------------------------------------------------------------------------- */

static double belady(const trace *t, int n_frames)
{
    const int n_units = t->n_layers * t->n_experts;
    int *next = allocate((size_t)t->n * sizeof *next); /* when it is wanted again */
    int *last = allocate((size_t)n_units * sizeof *last);
    int *wanted = allocate((size_t)n_units * sizeof *wanted); /* resident: when; 0: not resident */
    int n = 0, hits = 0;

    for (int i = t->n - 1; i >= 0; i--) {
        next[i] = last[t->experts[i]] ? last[t->experts[i]] : t->n + 1;
        last[t->experts[i]] = i + 1;
    }
    for (int i = 0; i < t->n; i++) {
        int expert = t->experts[i], latest = -1;
        if (wanted[expert]) {
            hits++;
        } else if (n < n_frames) {
            n++;
        } else {
            for (int u = 0; u < n_units; u++)
                if (wanted[u] && (latest < 0 || wanted[u] > wanted[latest]))
                    latest = u;
            wanted[latest] = 0;
        }
        wanted[expert] = next[i];
    }
    free(next);
    free(last);
    free(wanted);
    return (double)hits / t->n;
}

static int compare_down(const void *a, const void *b)
{
    return *(const int *)b - *(const int *)a;
}

static double fixed(const trace *t, int n_frames)
{
    const int n_units = t->n_layers * t->n_experts;
    int *counts = allocate((size_t)n_units * sizeof *counts);
    double hits = 0;
    for (int i = 0; i < t->n; i++)
        counts[t->experts[i]]++;
    qsort(counts, (size_t)n_units, sizeof *counts, compare_down);
    for (int i = 0; i < n_frames; i++)
        hits += counts[i];
    free(counts);
    return hits / t->n;
}

/* The cache as the engine uses it, on units of one line. */
static double replay(const trace *t, int n_frames)
{
    const int n_experts = t->n_layers * t->n_experts, n_dense = 1 + t->n_layers;
    moe_weights w = {.n_layers = t->n_layers, .n_units = n_dense + n_experts, .n_dense = n_dense};
    moe_expert_cache cache;
    int hits = 0;
    char *address;

    w.units = allocate((size_t)w.n_units * sizeof *w.units);
    for (int u = 0; u < w.n_units; u++) {
        int expert = u - n_dense;
        w.units[u] = expert < 0 ? (moe_weight_unit){u - 1, -1, 64}
                                : (moe_weight_unit){expert / t->n_experts, expert % t->n_experts, 64};
    }
    size_t size = moe_cache_bytes(&w, n_frames);
    void *arena = aligned_alloc(4096, size);
    if (!arena)
        exit(1);
    moe_cache_prepare(&w, arena, size);
    moe_cache_attach(&cache, &w, arena);
    for (int i = 0, end; i < t->n; i = end) {
        const int layer = t->experts[i] / t->n_experts;
        int pinned = 0;
        for (end = i; end < t->n && t->experts[end] / t->n_experts == layer; end++)
            ;
        int *list = t->experts + i, n = end - i;
        moe_cache_visit(&cache, layer);
        for (int k = 0; k < n; k++) {
            bool hit = moe_cache_pin(&cache, n_dense + list[k], false, &address) == MOE_PIN_READY;
            moe_cache_touch(&cache, n_dense + list[k], hit);
            if (hit) { /* to the front, in a copy of no consequence */
                int expert = list[k];
                list[k] = list[pinned];
                list[pinned++] = expert;
            }
        }
        hits += pinned;
        for (int k = pinned; k < n; k++) {
            moe_pin_result result = moe_cache_pin(&cache, n_dense + list[k], true, &address);
            if (result == MOE_PIN_FULL) { /* what is pinned has been computed: go on without */
                while (pinned > 0)
                    moe_cache_unpin(&cache, n_dense + list[--pinned]);
                moe_cache_pin(&cache, n_dense + list[k], true, &address);
                moe_cache_settle(&cache, n_dense + list[k], true);
                moe_cache_unpin(&cache, n_dense + list[k]);
                continue;
            }
            moe_cache_settle(&cache, n_dense + list[k], true);
            int expert = list[k];
            list[k] = list[pinned];
            list[pinned++] = expert;
        }
        while (pinned > 0)
            moe_cache_unpin(&cache, n_dense + list[--pinned]);
    }
    free(arena);
    free(w.units);
    return (double)hits / t->n;
}

static void compare(const char *name, trace t)
{
    for (int i = 0; i < LENGTH(policy_shares); i++) {
        int n_frames = (int)(policy_shares[i] * t.n_layers * t.n_experts);
        double best = belady(&t, n_frames), known = fixed(&t, n_frames), got = replay(&t, n_frames);
        printf("{\"work\": \"policy\", \"routing\": \"%s\", \"wanted\": %d, \"room\": %.3f, "
               "\"hits\": %.3f, \"belady\": %.3f, \"fixed\": %.3f, \"hits/belady\": %.2f}\n",
               name, t.n, policy_shares[i], got, best, known, got / best);
        fflush(stdout);
    }
    free(t.experts);
}

/* --- speed ----------------------------------------------------------------------------------- */

/* A store of one arena with room for a share of the experts. */
typedef struct small_store {
    double share;
    void *arena;
} small_store;

static moe_status acquire(void *ud, const char *key, size_t least, size_t most, void **arena,
                          size_t *size, bool *fresh, moe_error *err)
{
    small_store *s = ud;
    (void)key;
    *size = least + (size_t)((double)(most - least) * s->share) / 4096 * 4096;
    *arena = s->arena = aligned_alloc(4096, *size);
    *fresh = true;
    return s->arena ? MOE_OK : moe_fail_memory(err, *size);
}

static void ready(void *ud, const char *key)
{
    (void)ud;
    (void)key;
}

static void release(void *ud, const char *key)
{
    (void)key;
    free(((small_store *)ud)->arena);
}

static void add_skew(moe_model *model, double skew)
{
    const int n = model->spec.moe.n_experts;
    for (int l = 0; l < model->spec.n_layers; l++) {
        const moe_slot *slot = &model->weights.layers[l][MOE_ROUTER_SELECT_BIAS];
        float *bias = (float *)(uintptr_t)moe_slot_vector(&model->weights, slot);
        for (int e = 0; bias && e < n; e++)
            bias[e] -= (float)(skew * ((e * 37 + l * 11) % n) / n);
    }
}

static void measure_speed(moe_engine *engine, const char *path, double share, double skew, int n_tokens)
{
    moe_error err = {0};
    small_store s = {share, NULL};
    moe_weight_store store = {acquire, ready, release, &s};
    moe_model *model;
    moe_arena_stats before, after;
    int32_t ids[8];
    int n;
    size_t bytes;

    check(moe_model_open(engine, path,
                         &(moe_model_options){.store = &store, .store_key = "bench"}, &model, &err),
          &err);
    check(moe_model_prewarm(model, 0, NULL, &n, &bytes, &err), &err);
    add_skew(model, skew);
    for (int i = 0; i < LENGTH(ids); i++)
        ids[i] = (int32_t)random_below((uint32_t)model->info.n_vocab);
    generate(model, ids, LENGTH(ids), n_tokens);
    moe_arena_stats_of(s.arena, &before);
    double begin = now();
    generate(model, ids, 1, n_tokens);
    double seconds = now() - begin;
    moe_arena_stats_of(s.arena, &after);
    double hits = (double)(after.hits - before.hits), misses = (double)(after.misses - before.misses);
    printf("{\"work\": \"speed\", \"skew\": %.2f, \"room\": %.3f, \"hits\": %.3f, \"decode_tps\": "
           "%.2f, \"mb_per_token\": %.1f}\n",
           skew, share, hits + misses > 0 ? hits / (hits + misses) : 0, n_tokens / seconds,
           (double)(after.loads - before.loads) * (double)model->weights.units[model->weights.n_units - 1].bytes / 1e6 / n_tokens);
    fflush(stdout);
    moe_model_close(model);
}

/* --- overhead -------------------------------------------------------------------------------- */

static void measure_overhead(moe_engine *engine, const char *path)
{
    enum { VISITS = 200000 };
    moe_error err = {0};
    moe_model *model;
    size_t bytes;
    int n, n_pinned;

    check(moe_model_open(engine, path, &(moe_model_options){0}, &model, &err), &err);
    check(moe_model_prewarm(model, 0, NULL, &n, &bytes, &err), &err);
    int used = model->spec.moe.n_experts_used, all = model->spec.moe.n_experts;
    int32_t *list = allocate((size_t)used * sizeof *list);
    int layer = model->spec.n_layers - 1; /* has experts, if any layer has */
    double begin = clock_of(CLOCK_THREAD_CPUTIME_ID);
    for (int v = 0; v < VISITS; v++) {
        for (int i = 0; i < used; i++)
            list[i] = (v + i) % all;
        check(moe_resident_pin(model->resident, layer, list, used, true, NULL, &n_pinned, &err), &err);
        moe_resident_unpin(model->resident, layer, list, n_pinned);
    }
    printf("{\"work\": \"overhead\", \"experts_used\": %d, \"ns_per_expert\": %.1f}\n", used,
           (clock_of(CLOCK_THREAD_CPUTIME_ID) - begin) * 1e9 / VISITS / used);
    free(list);
    moe_model_close(model);
}

/* --- the command ----------------------------------------------------------------------------- */

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "bench_cache: no text: %s\n", path);
        exit(1);
    }
    fseek(f, 0, SEEK_END);
    size_t len = (size_t)ftell(f);
    rewind(f);
    char *text = allocate(len);
    if (fread(text, 1, len, f) != len)
        exit(1);
    fclose(f);
    return text;
}

int main(int argc, char **argv)
{
    int n_threads = 1, n_tokens = 48, opt;
    double skew = 0;
    const char *works = "policy,speed,overhead", *text = NULL;
    while ((opt = getopt(argc, argv, "t:n:w:k:f:")) != -1) {
        switch (opt) {
        case 't': n_threads = atoi(optarg); break;
        case 'n': n_tokens = atoi(optarg); break;
        case 'w': works = optarg; break;
        case 'k': skew = atof(optarg); break;
        case 'f': text = optarg; break;
        default: optind = argc;
        }
    }
    if (optind != argc - 1 || n_threads < 0 || n_tokens < 1) {
        fprintf(stderr, "usage: bench_cache [-t threads] [-n tokens] [-w work,work] [-f text file] "
                        "[-k skew]\n       MODEL\nwork: policy, speed, overhead\n");
        return 2;
    }
    const char *path = argv[optind];
    moe_error err = {0};
    moe_engine *engine;
    check(moe_engine_create(&(moe_engine_options){n_threads, "auto", true}, &engine, &err), &err);
    if (strstr(works, "policy")) {
        char *lines = text ? read_text(text) : NULL;
        trace recorded = record_model(engine, path, lines ? lines : sample_text, n_tokens);
        if (recorded.n > 0)
            compare("recorded", recorded);
        compare("uniform", make_up(8, 32, 4, 600, 0, 0));
        compare("skew 1", make_up(8, 32, 4, 600, 1, 0));
        compare("skew 1.5", make_up(8, 32, 4, 600, 1.5, 0));
        compare("skew 2", make_up(8, 32, 4, 600, 2, 0));
        compare("skew 1, half again", make_up(8, 32, 4, 600, 1, 0.5));
        free(lines);
    }
    if (strstr(works, "overhead"))
        measure_overhead(engine, path);
    if (strstr(works, "speed"))
        for (int i = 0; i < LENGTH(speed_shares); i++)
            measure_speed(engine, path, speed_shares[i], skew, n_tokens);
    moe_engine_free(engine);
    return 0;
}
