/*
 * Measures the engine by itself, without PostgreSQL, on one model, and writes one line of JSON.
 *
 *   bench_engine [-t threads] [-r repetitions] [-p prompt tokens] [-n generated tokens] [-i isa] MODEL
 *
 * open_ms      opening the model: reading the file and packing its weights; the first repetition
 *              may have to read from the disk, so the median is that of a warm page cache
 * first_ms     from before opening to the first token after a prompt of 16 tokens
 * prefill_tps  prompt tokens per second: one prompt of -p tokens, up to its last token's logits
 * decode_tps   generated tokens per second after the first: -n tokens behind a prompt of one
 * generate_ms  a generation of 64 tokens behind a short text, queueing and sampling included: what
 *              the same call from SQL is compared with
 * embed_tps    encoders only, in place of the last three: tokens per second of 64 texts of 64 tokens
 *
 * All are medians over the repetitions; token ids are pseudo-random, greedy decoding, end-of-text ignored.
 */
#include "../../src/engine/moe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_REPETITIONS = 100, FIRST_PROMPT = 16, TEXT_TOKENS = 64, TEXTS = 64, GENERATE = 64 };

static const char generate_prompt[] = "The write-ahead log records every change";

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

/* Ids from a linear congruential generator, so that every run and thread count sees the same ones. */
static int32_t *random_ids(int n, int n_vocab)
{
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    if (!ids) {
        fprintf(stderr, "bench_engine: out of memory\n");
        exit(1);
    }
    uint32_t state = 1;
    for (int i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        ids[i] = (int32_t)((state >> 8) % (uint32_t)n_vocab);
    }
    return ids;
}

static moe_request request_for(moe_task task, const int32_t *ids, size_t n_ids, int max_tokens)
{
    return (moe_request){.task = task, .prompt = ids, .n_prompt = n_ids, .max_tokens = max_tokens,
                         .top_p = 1, .repeat_penalty = 1, .ignore_eos = true, .n_top = 1};
}

static bool step(moe_scheduler *scheduler)
{
    moe_error err = {0};
    bool busy;
    check(moe_scheduler_step(scheduler, &busy, &err), &err);
    return busy;
}

/* Runs n_requests equal-sized requests over consecutive slices of ids to their end.  Returns seconds in
 * all and, if first is not NULL, the seconds up to the first token of the first sequence. */
static double run(moe_model *model, moe_request request, int n_requests, double *first)
{
    moe_error err = {0};
    moe_scheduler *scheduler;
    moe_seq *seqs[TEXTS];
    double begin = now();
    check(moe_scheduler_create(model, &(moe_scheduler_options){0}, &scheduler, &err), &err);
    for (int i = 0; i < n_requests; i++) {
        check(moe_scheduler_add(scheduler, &request, &seqs[i], &err), &err);
        request.prompt += request.n_prompt;
    }
    moe_token token;
    bool seen = false;
    while (step(scheduler)) {
        while (moe_seq_next(seqs[0], &token)) {
            if (!seen && first)
                *first = now() - begin;
            seen = true;
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
    int n_threads = 1, repetitions = 5, n_prompt = 512, n_generate = 64, opt;
    const char *isa = "auto";
    while ((opt = getopt(argc, argv, "t:r:p:n:i:")) != -1) {
        switch (opt) {
        case 't': n_threads = number(optarg, 0, 1024); break;
        case 'r': repetitions = number(optarg, 1, MAX_REPETITIONS); break;
        case 'p': n_prompt = number(optarg, 1, 1 << 20); break;
        case 'n': n_generate = number(optarg, 2, 1 << 20); break;
        case 'i': isa = optarg; break;
        default: optind = argc;
        }
    }
    if (optind != argc - 1) {
        fprintf(stderr, "usage: bench_engine [-t threads] [-r repetitions] [-p prompt tokens] "
                        "[-n generated tokens] [-i isa] MODEL\n");
        return 2;
    }
    const char *path = argv[optind];

    moe_error err = {0};
    moe_engine *engine;
    moe_engine_options engine_options = {.n_threads = n_threads, .isa = isa, .reproducible = true};
    check(moe_engine_create(&engine_options, &engine, &err), &err);

    moe_model *model = NULL;
    double open[MAX_REPETITIONS], first[MAX_REPETITIONS], prefill[MAX_REPETITIONS],
        decode[MAX_REPETITIONS], generate[MAX_REPETITIONS], embed[MAX_REPETITIONS];
    int32_t *ids = NULL;
    for (int i = 0; i < repetitions; i++) {
        if (model)
            moe_model_close(model);
        double begin = now();
        check(moe_model_open(engine, path, &(moe_model_options){0}, &model, &err), &err);
        open[i] = now() - begin;
        if (!ids) {
            int most = n_prompt > TEXTS * TEXT_TOKENS ? n_prompt : TEXTS * TEXT_TOKENS;
            ids = random_ids(most, moe_model_info_of(model)->n_vocab);
        }
        if (!moe_model_info_of(model)->is_encoder) {
            double seconds = 0;
            run(model, request_for(MOE_TASK_GENERATE, ids, FIRST_PROMPT, 1), 1, &seconds);
            first[i] = open[i] + seconds;
        }
    }

    const moe_model_info *info = moe_model_info_of(model);
    int32_t *text_ids;
    size_t n_text_ids;
    check(moe_tokenize(model, generate_prompt, strlen(generate_prompt), MOE_TEXT_ADD_SPECIAL,
                       &text_ids, &n_text_ids, &err), &err);
    for (int i = 0; i < repetitions; i++) {
        if (info->is_encoder) {
            embed[i] = TEXTS * TEXT_TOKENS /
                       run(model, request_for(MOE_TASK_EMBED, ids, TEXT_TOKENS, 0), TEXTS, NULL);
            continue;
        }
        double until_first = 0;
        prefill[i] = n_prompt / run(model, request_for(MOE_TASK_NEXT, ids, (size_t)n_prompt, 0), 1, NULL);
        double all = run(model, request_for(MOE_TASK_GENERATE, ids, 1, n_generate), 1, &until_first);
        decode[i] = (n_generate - 1) / (all - until_first);
        generate[i] = run(model, request_for(MOE_TASK_GENERATE, text_ids, n_text_ids, GENERATE), 1, NULL);
    }

    const char *slash = strrchr(path, '/');
    printf("{\"engine\": \"pg_moe\", \"model\": \"%s\", \"isa\": \"%s\", \"threads\": %d, "
           "\"weight_mb\": %.1f, \"open_ms\": %.1f", slash ? slash + 1 : path,
           moe_engine_isa(engine), moe_engine_threads(engine), (double)info->weight_bytes / 1e6,
           median(open, repetitions) * 1e3);
    if (info->is_encoder) {
        printf(", \"embed_tps\": %.1f}\n", median(embed, repetitions));
    } else {
        printf(", \"first_ms\": %.1f, \"prefill_tps\": %.1f, \"decode_tps\": %.2f, "
               "\"generate_ms\": %.2f}\n", median(first, repetitions) * 1e3,
               median(prefill, repetitions), median(decode, repetitions),
               median(generate, repetitions) * 1e3);
    }
    free(text_ids);
    free(ids);
    moe_model_close(model);
    moe_engine_free(engine);
    return 0;
}
