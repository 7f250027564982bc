/*
 * Text to token ids and back: byte-level BPE and WordPiece, from GGUF metadata or tokenizer.json.
 */
#ifndef MOE_TOKENIZER_H
#define MOE_TOKENIZER_H

#include "../file/model_file.h"

typedef struct moe_tokenizer moe_tokenizer;

/* Builds the tokenizer that a model file describes.  The file may be closed afterwards. */
moe_status moe_tokenizer_create(const moe_file *file, moe_tokenizer **out, moe_error *err);
void moe_tokenizer_free(moe_tokenizer *tok);

/* Appends the ids of text to *ids; flags as in moe.h (ADD_SPECIAL, PARSE_SPECIAL).
 * Invalid UTF-8: MOE_ERR_INVALID.  Safe to call from several threads at once. */
moe_status moe_tokenizer_encode(const moe_tokenizer *tok, const char *text, size_t len,
                                unsigned flags, moe_ids *ids, moe_error *err);

/* Appends the bytes of one token (they may be a part of a character); special tokens only with
 * MOE_TEXT_SHOW_SPECIAL.  Unknown ids: MOE_ERR_INVALID. */
moe_status moe_tokenizer_piece(const moe_tokenizer *tok, int32_t id, unsigned flags, moe_buf *out,
                               moe_error *err);

/* Text of ids[0..n): BPE concatenates pieces; WordPiece joins words with spaces and drops "##".
 * The result is valid UTF-8: bytes that are not become U+FFFD. */
moe_status moe_tokenizer_decode(const moe_tokenizer *tok, const int32_t *ids, size_t n,
                                unsigned flags, moe_buf *out, moe_error *err);

int32_t moe_tokenizer_size(const moe_tokenizer *tok); /* number of ids, holes included */
int32_t moe_tokenizer_bos(const moe_tokenizer *tok);  /* -1 if none */
int32_t moe_tokenizer_eos(const moe_tokenizer *tok);
const char *moe_tokenizer_bos_text(const moe_tokenizer *tok); /* "" if none */
const char *moe_tokenizer_eos_text(const moe_tokenizer *tok);
/* Ends a generation: EOS, EOT, <|im_end|> and the like, also those of generation_config.json. */
bool moe_tokenizer_is_end(const moe_tokenizer *tok, int32_t id);
bool moe_tokenizer_is_special(const moe_tokenizer *tok, int32_t id);
/* Longest input in tokens that the tokenizer's own files set for truncation; 0: none. */
int moe_tokenizer_max_length(const moe_tokenizer *tok);

#endif
