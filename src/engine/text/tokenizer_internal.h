/*
 * The inside of a tokenizer, shared by the files that build one and the file that runs it.
 *
 * A tokenizer is a chain: added tokens are found in the raw text; what lies between them is
 * normalized, searched for the added tokens that want normalized text, cut into pieces, and each
 * piece encoded by the model.  After creation nothing changes but the memory of moe_bpe, so that
 * threads share it.
 */
#ifndef MOE_TOKENIZER_INTERNAL_H
#define MOE_TOKENIZER_INTERNAL_H

#include "added_tokens.h"
#include "bpe.h"
#include "normalize.h"
#include "pretokenize.h"
#include "tokenizer.h"
#include "wordpiece.h"

typedef enum moe_tokenizer_model {
    MOE_TOKENIZER_NONE, /* ids only: the file has no text model */
    MOE_TOKENIZER_BPE,
    MOE_TOKENIZER_WORDPIECE,
} moe_tokenizer_model;

struct moe_tokenizer {
    moe_tokenizer_model model;
    moe_vocab vocab; /* BPE: plain bytes; WordPiece: as in the file, with its marks */
    moe_added_tokens raw, normalized;
    moe_normalizer normalizer;
    moe_pretokenizer pretokenizer;
    moe_bpe bpe;
    moe_wordpiece wordpiece;
    char part_mark[8];      /* WordPiece: "##" before continuations, or "▁" before beginnings */
    bool mark_begins_word;  /* which of the two */
    bool tidy_spaces;       /* WordPiece: no space before . ? ! , when decoding */
    moe_ids prefix, suffix; /* around a text with MOE_TEXT_ADD_SPECIAL */
    int32_t bos, eos;
    char *bos_text, *eos_text; /* malloc'ed, "" if none */
    moe_ids ends;
    int max_length;
};

/* The files of a Hugging Face folder that describe a tokenizer; NULL where absent. */
typedef struct moe_tokenizer_files {
    const json_t *tokenizer, *tokenizer_config, *special_tokens_map, *generation_config, *config;
} moe_tokenizer_files;

/* Builds a tokenizer from parsed JSON, which is not kept. */
moe_status moe_tokenizer_from_json(const moe_tokenizer_files *files, moe_tokenizer **out,
                                   moe_error *err);

/* Fill a zeroed tokenizer; the caller frees it if they fail. */
moe_status moe_tokenizer_read_gguf(const moe_file *file, moe_tokenizer *tok, moe_error *err);
moe_status moe_tokenizer_read_json(const moe_tokenizer_files *files, moe_tokenizer *tok,
                                   moe_error *err);

/* Parts of tokenizer.json.  The post-processor fills prefix and suffix. */
moe_status moe_json_normalizer(const json_t *json, moe_normalizer *normalizer, moe_error *err);
moe_status moe_json_pretokenizer(const json_t *json, moe_pretokenizer *pretokenizer,
                                 moe_error *err);
moe_status moe_json_post_processor(const json_t *json, const moe_vocab *vocab, moe_ids *prefix,
                                   moe_ids *suffix, moe_error *err);

/* Adds merge `number` of a byte-level BPE, its halves in the byte alphabet (valid UTF-8).
 * MOE_ERR_FORMAT if the vocabulary lacks a half or the whole.  work: scratch. */
moe_status moe_tokenizer_add_merge(moe_bpe *bpe, size_t number, const char *left, size_t left_len,
                                   const char *right, size_t right_len, moe_buf *work,
                                   moe_error *err);

/* The splits that a tokenizer.ggml.pre name stands for. */
typedef struct moe_gguf_split {
    const char *names[16];   /* NULL-terminated */
    const char *patterns[8]; /* applied in order, NULL-terminated */
    bool ignore_merges;
    bool add_bos; /* unless the file says otherwise */
    bool add_sep;
} moe_gguf_split;

/* NULL if the name is unknown. */
const moe_gguf_split *moe_gguf_split_find(const char *name);

/* Sets bos or eos and its text, id -1: none. */
moe_status moe_tokenizer_set_bos(moe_tokenizer *tok, int32_t id, moe_error *err);
moe_status moe_tokenizer_set_eos(moe_tokenizer *tok, int32_t id, moe_error *err);

/* Marks a token as one that ends a generation; ids that do not exist are ignored. */
moe_status moe_tokenizer_add_end(moe_tokenizer *tok, int64_t id, moe_error *err);

/* Marks the control tokens that end a turn by their usual texts. */
moe_status moe_tokenizer_add_usual_ends(moe_tokenizer *tok, moe_error *err);

#endif
