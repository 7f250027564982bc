/*
 * The inference engine's public interface.
 *
 * Plain C11, no PostgreSQL.  The engine never exits, aborts, prints or longjmps; functions that can
 * fail return a moe_status and fill a moe_error.  One thread of the host calls into an engine at a
 * time; the engine's own worker threads never call back into the host: every callback below
 * runs on the calling thread.  Objects are opaque and freed by their _free or _close, children
 * first: sequences, schedulers, models, engine.  Texts are UTF-8, lengths in bytes, ids are int32.
 */
#ifndef MOE_H
#define MOE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum moe_status {
    MOE_OK = 0,
    MOE_ERR_INVALID,     /* an argument or option is wrong */
    MOE_ERR_NOT_FOUND,   /* no such file */
    MOE_ERR_PERMISSION,  /* the operating system refuses access to a file */
    MOE_ERR_IO,          /* a file can't be read */
    MOE_ERR_FORMAT,      /* a file is broken */
    MOE_ERR_UNSUPPORTED, /* a family, type or feature this build does not have */
    MOE_ERR_MEMORY,      /* out of memory */
    MOE_ERR_TOO_LONG,    /* prompt does not fit the context or the KV cache */
    MOE_ERR_CANCELLED,   /* the host's cancelled callback said so */
    MOE_ERR_NUMERIC,     /* NaN or infinity where numbers must be finite */
    MOE_ERR_TEMPLATE,    /* a chat template failed or raised an exception */
    MOE_ERR_BUSY,        /* the queue is full */
} moe_status;

typedef struct moe_error {
    moe_status status;
    char message[512]; /* lower case, no final full stop */
    char detail[256];  /* empty, or sentences */
    char hint[256];    /* empty, or sentences */
} moe_error;

/* Asked between layers and in long loops; true makes the running call return MOE_ERR_CANCELLED. */
typedef struct moe_cancel {
    bool (*requested)(void *ud);
    void *ud;
} moe_cancel;

/* --- engine: threads and kernels of this process -------------------------------------------------
 */

typedef struct moe_engine moe_engine;

typedef struct moe_engine_options {
    int n_threads;     /* 0: as many as the affinity mask and the cgroup allow */
    const char *isa;   /* "auto", "scalar", "avx2", "avx512", "avx512_bf16", "amx" */
    bool reproducible; /* true: only kernels whose bits are the same on every CPU */
} moe_engine_options;

moe_status moe_engine_create(const moe_engine_options *options, moe_engine **out, moe_error *err);
void moe_engine_free(moe_engine *engine);
const char *moe_engine_isa(const moe_engine *engine); /* the instruction set in use */
int moe_engine_threads(const moe_engine *engine);

/* --- model
 * ---------------------------------------------------------------------------------------- */

typedef struct moe_model moe_model;

/* Where packed weights live: in an arena per key, which the processes of the host share and which
 * holds the units of one model (moe_arena_stats).  acquire finds or makes it, 4096-byte aligned, of
 * `least` to `most` bytes, the more the better.  *fresh = true: it is new; the caller prepares it
 * and calls ready; all others who ask for the key wait meanwhile.  release when the
 * model is closed.  A NULL store means private memory. */
typedef struct moe_weight_store {
    moe_status (*acquire)(void *ud, const char *key, size_t least, size_t most, void **arena,
                          size_t *size, bool *fresh, moe_error *err);
    void (*ready)(void *ud, const char *key);
    void (*release)(void *ud, const char *key);
    void *ud;
} moe_weight_store;

typedef enum moe_kv_type { MOE_KV_AUTO, MOE_KV_F16, MOE_KV_F32 } moe_kv_type;

/* Re-encoding of unquantised matrices when they are packed; see moe_weights_quantize. */
typedef enum moe_quantize {
    MOE_QUANTIZE_NONE,
    MOE_QUANTIZE_Q8_0,
    MOE_QUANTIZE_BF16, /* and so are the activations that meet them */
} moe_quantize;

typedef struct moe_model_options {
    int n_ctx;           /* longest sequence; 0: what the model was trained for */
    moe_kv_type kv_type; /* auto: f32 for unquantised weights, else f16 */
    moe_quantize quantize;
    size_t kv_bytes;      /* limit of the KV cache of this model in this process; 0: 1 GiB */
    size_t kv_idle_bytes; /* how much of it may stay filled with beginnings of prompts that no
                           * sequence uses at the moment; 0: all of it */
    const moe_weight_store *store; /* NULL: private memory */
    const char *store_key;         /* names the packed content: the files' digest and how they are
                                    * quantised, for example; needed with a store */
    const char *chat_template;     /* overrides the file's template if not NULL */
    moe_cancel cancel;
} moe_model_options;

typedef struct moe_model_info {
    const char *family;                /* "deepseek_v3", "qwen3_moe", "bert", … */
    const char *name;                  /* the file's own name for itself, or "" */
    const char *type;                  /* most common weight type by bytes: "Q4_K", "BF16" */
    int64_t n_params, n_params_active; /* active: read per token */
    int n_ctx_train, n_ctx;
    int n_layers, n_embd, n_vocab, n_experts, n_experts_used;
    bool is_encoder; /* embeddings only */
    bool has_chat_template;
    size_t weight_bytes; /* packed */
    size_t kv_bytes_per_token;
    int32_t bos_id, eos_id; /* -1 if none */
} moe_model_info;

/* Opens a GGUF file (the first of a split set) or a Hugging Face folder.  Weights are read and
 * packed when they are first needed, unless the arena has them already: the files stay open. */
moe_status moe_model_open(moe_engine *engine, const char *path, const moe_model_options *options,
                          moe_model **out, moe_error *err);
void moe_model_close(moe_model *model);
const moe_model_info *moe_model_info_of(const moe_model *model);

/* Reads only what describes the model: no weights are packed.  Free with moe_model_close; only
 * moe_model_info_of and the text functions work on it. */
moe_status moe_model_describe(const char *path, const moe_model_options *options, moe_model **out,
                              moe_error *err);

/* Loads what is not in memory yet, dense parts first, then experts from the hottest on, as far as
 * there is room for them without evicting others; at most max_bytes, if that is not 0, of experts,
 * but at least one unit. */
moe_status moe_model_prewarm(moe_model *model, size_t max_bytes, const moe_cancel *cancel,
                             int *n_units, size_t *n_bytes, moe_error *err);

/* The host has found that the files, though their stamp has changed, still have the right content.
 * Without this, loading ends with MOE_ERR_IO when size or modification time are no longer those
 * at opening. */
void moe_model_accept_files(moe_model *model);
int moe_model_descriptors(const moe_model *model); /* file descriptors that it holds */

/* --- arenas --------------------------------------------------------------------------------------
 */

/* What is in an arena, of the model's units: one is what belongs to the whole model, the dense part
 * of a layer, or an expert of a layer.  A hit is an expert that a step found there, a miss one that
 * it had to load or wait for. */
typedef struct moe_arena_stats {
    int n_units, n_resident;
    size_t bytes, resident_bytes; /* of all units, of those */
    int64_t hits, misses, loads, evictions;
    int pins;        /* 0 when no model is open */
    int expert_pins; /* of these on experts: 0 when no step is being computed */
} moe_arena_stats;

typedef struct moe_arena_unit {
    int layer, expert; /* -1: the whole model, a dense part */
    size_t bytes;
    int64_t hits, misses;
    uint16_t heat; /* how much it has been used of late */
    bool resident;
} moe_arena_unit;

/* Any prepared arena may be asked, at any time and without its model. */
void moe_arena_stats_of(const void *arena, moe_arena_stats *out);
bool moe_arena_unit_of(const void *arena, int i, moe_arena_unit *out); /* false: i is beyond */

/* Forgets all units that nobody uses at the moment; their memory is free for others of the
 * model. */
void moe_arena_evict(void *arena, int *n_units, size_t *n_bytes);

/* Makes an arena end at `size` bytes from now on, if that leaves room for what acquire was told is
 * the least, and `size` bytes are there.  What lies beyond is evicted; false: not all of it, as
 * some is in use; the caller tries again before he takes the memory, or gives the arena its end
 * back. */
bool moe_arena_resize(void *arena, size_t size);

/* Says how much the units had been used when the arena last existed; false if n_units is not their
 * number. */
bool moe_arena_remember(void *arena, const uint16_t *heat, int n_units);

/* SHA-256 over the model's files as lower-case hex (64 digits and a zero): of a GGUF file its
 * content (split sets: all parts in order); of a folder the sorted list of "name size sha256" lines
 * of the files that the engine reads. */
moe_status moe_model_digest(const char *path, const moe_cancel *cancel, char hex[65],
                            moe_error *err);

/* Size and modification time of the model's files folded into one short text: changes when a
 * file is replaced, and costs only stat calls. */
moe_status moe_model_stamp(const char *path, char *stamp, size_t size, moe_error *err);

/* --- text
 * ------------------------------------------------------------------------------------------ */

enum {
    MOE_TEXT_ADD_SPECIAL = 1,   /* BOS, EOS, CLS, SEP as the model wants them */
    MOE_TEXT_PARSE_SPECIAL = 2, /* special tokens written in the text become their ids */
    MOE_TEXT_SHOW_SPECIAL = 4,  /* detokenize: write special tokens out */
};

/* *ids and *text are malloc'ed; the caller frees them.  text is zero-terminated as well. */
moe_status moe_tokenize(const moe_model *model, const char *text, size_t len, unsigned flags,
                        int32_t **ids, size_t *n_ids, moe_error *err);
moe_status moe_detokenize(const moe_model *model, const int32_t *ids, size_t n_ids, unsigned flags,
                          char **text, size_t *len, moe_error *err);

/* Renders messages (a JSON array) with the model's chat template.  options: a JSON object or NULL:
 * tools, add_generation_prompt (default true), enable_thinking, template, variables, system (a
 * prompt in front of the messages). */
moe_status moe_chat_render(const moe_model *model, const char *messages, const char *options,
                           char **text, size_t *len, moe_error *err);

/* Splits an answer into reasoning and content (slices of text).  prompt_ends_in_think: the rendered
 * prompt ended inside <think>.  Unfinished reasoning leaves the content empty. */
typedef struct moe_reply {
    const char *reasoning, *content; /* reasoning NULL if there was none */
    size_t reasoning_len, content_len;
} moe_reply;
bool moe_prompt_ends_in_think(const char *prompt, size_t len);
void moe_split_reasoning(const char *text, size_t len, bool prompt_ends_in_think, moe_reply *reply);

/* --- sequences
 * ------------------------------------------------------------------------------------- */

typedef struct moe_scheduler moe_scheduler;
typedef struct moe_seq moe_seq;

typedef enum moe_task {
    MOE_TASK_GENERATE,
    MOE_TASK_EMBED, /* pooled, L2-normalised */
    MOE_TASK_SCORE, /* log-probability and rank of every prompt token from score_from on */
    MOE_TASK_NEXT,  /* the n_top likeliest next tokens */
} moe_task;

typedef struct moe_request {
    moe_task task;
    const int32_t *prompt; /* copied */
    size_t n_prompt;
    int max_tokens;       /* generate: >= 0 */
    int64_t pause_at;     /* generate: see moe_seq_pause_at; 0: never */
    float temperature;    /* 0: greedy */
    int top_k;            /* 0: off */
    float top_p;          /* 1: off */
    float min_p;          /* 0: off */
    float repeat_penalty; /* 1: off */
    int repeat_last_n;    /* tokens looked back at; -1: all */
    uint64_t seed;
    const char *const *stop; /* stop strings, copied */
    int n_stop;
    bool ignore_eos;
    bool show_special; /* pieces of special tokens are written out */
    bool logprobs;     /* fill moe_token.logprob (costs a pass over the vocabulary) */
    int n_top;         /* next: how many */
    size_t score_from; /* score: first scored position, >= 1 */
    uint32_t group;    /* who asks: groups get equal shares */
    bool bulk;         /* many rows for later, as against somebody who waits for the first token */
    void *ud;          /* the host's, for moe_seq_ud */
} moe_request;

typedef enum moe_finish {
    MOE_FINISH_NONE,
    MOE_FINISH_STOP,
    MOE_FINISH_LENGTH,
    MOE_FINISH_CONTEXT,
    MOE_FINISH_ERROR /* see moe_seq_error */
} moe_finish;

typedef struct moe_token {
    int32_t id;
    float logprob;    /* natural logarithm, of the unmodified distribution; NaN if not asked for */
    int rank;         /* score: 1 = the likeliest; 0 otherwise */
    int64_t position; /* in the sequence */
    const char
        *piece; /* may be empty; valid until the next call on the sequence. generate: complete
                 * UTF-8; score and next: the bytes of this token, maybe part of a character */
    size_t piece_len;
} moe_token;

typedef struct moe_usage {
    int64_t prompt_tokens, cached_tokens, generated_tokens, steps; /* cached: of the prompt's */
    int64_t expert_hits, expert_misses; /* its share, by rows, of those of its steps: the sum over
                                         * all sequences is what the steps had */
    double seconds;                     /* in steps that this sequence took part in */
} moe_usage;

typedef struct moe_scheduler_options {
    int max_step_tokens; /* tokens of one forward pass; 0: 512 */
    int max_seqs;        /* sequences that run at a time, at most three quarters of
                          * max_step_tokens; 0: 64 */
    int max_waiting;     /* length of the queue; 0: no bound */
    double step_seconds; /* what a step is to take about, as far as prompts go, when others wait
                          * for its end; 0: no bound */
    moe_cancel cancel;
} moe_scheduler_options;

moe_status moe_scheduler_create(moe_model *model, const moe_scheduler_options *options,
                                moe_scheduler **out, moe_error *err);
void moe_scheduler_free(moe_scheduler *scheduler); /* frees its sequences too */

/* Queues a request.  MOE_ERR_TOO_LONG if the prompt can't fit; encoders cut it instead.
 * MOE_ERR_BUSY if the queue is full.  The sequence belongs to the scheduler until moe_seq_free,
 * which may come at any time between steps and frees all it holds. */
moe_status moe_scheduler_add(moe_scheduler *scheduler, const moe_request *request, moe_seq **out,
                             moe_error *err);
void moe_seq_free(moe_seq *seq);

/* One forward pass over the queued sequences.  *busy = false when nothing was left to do, but for
 * sequences that rest.  What
 * goes wrong with one sequence ends that one alone (moe_seq_error); an error here concerns all.
 * After a cancelled step the scheduler is as good as before: the next one does what is missing. */
moe_status moe_scheduler_step(moe_scheduler *scheduler, bool *busy, moe_error *err);

/* Takes the next sequence that got tokens or ended since it was last taken here; NULL if there is
 * none.  So a host with many sequences need not look at each after every step. */
moe_seq *moe_scheduler_next_changed(moe_scheduler *scheduler);

/* What there is to do: work for later only, or also some that somebody waits for. */
typedef enum moe_work { MOE_WORK_NONE, MOE_WORK_BULK, MOE_WORK_INTERACTIVE } moe_work;
moe_work moe_scheduler_work(const moe_scheduler *scheduler);

/* Says that others than its own sequences wait for the end of its next step. */
void moe_scheduler_hurry(moe_scheduler *scheduler);

/* Sequences that wait for admission, and that run. */
int64_t moe_scheduler_waiting(const moe_scheduler *scheduler);
int64_t moe_scheduler_running(const moe_scheduler *scheduler);

/* The sequence is to rest when it has generated so many tokens, until it is told a higher number.
 * It keeps its place and its part of the KV cache; so if others wait for these, it goes on. */
void moe_seq_pause_at(moe_seq *seq, int64_t n_tokens);

bool moe_seq_in_step(const moe_seq *seq); /* it has a part in the step that is being computed */
bool moe_seq_done(const moe_seq *seq);
/* Takes the next finished token (generate, score, next); false if there is none at the moment. */
bool moe_seq_next(moe_seq *seq, moe_token *token);
/* Text generated so far, without a stop string; belongs to the sequence. */
const char *moe_seq_text(const moe_seq *seq, size_t *len);
const float *moe_seq_embedding(const moe_seq *seq, int *n); /* NULL before it is done */
moe_finish moe_seq_finish(const moe_seq *seq);
const moe_error *moe_seq_error(const moe_seq *seq); /* NULL unless it failed */
const moe_usage *moe_seq_usage(const moe_seq *seq);
/* Prompt tokens whose positions are in the cache by now, reused ones included. */
size_t moe_seq_prompt_read(const moe_seq *seq);
void *moe_seq_ud(const moe_seq *seq);

/* Counters of a model.  Those of the first two lines must be zero when no sequence is left: a
 * host's leak check. */
typedef struct moe_counters {
    int64_t schedulers, sequences, waiting, running;
    int64_t kv_pages_used;   /* by sequences, shared ones counted once */
    int64_t kv_pages_cached; /* kept for prompts that begin as earlier ones did */
    int64_t kv_pages_total;
    int64_t prefix_hits, cached_tokens; /* since opening: sequences that found a beginning, and the
                                         * tokens they did not have to compute */
} moe_counters;
void moe_model_counters(const moe_model *model, moe_counters *out);

#endif
