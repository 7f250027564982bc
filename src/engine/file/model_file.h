/*
 * A model on disk: a GGUF file (or the first file of a split set), or a Hugging Face folder with
 * config.json, tokenizer.json and safetensors.
 *
 * Metadata is parsed into memory at open; tensor data is read by moe_file_read with pread, never
 * mapped, so that a file truncated by somebody else gives an error and not SIGBUS.  Every offset
 * and size is checked against the file's length with overflow-safe arithmetic before it is used.
 */
#ifndef MOE_MODEL_FILE_H
#define MOE_MODEL_FILE_H

#include <jansson.h>

#include "../../../kernels/types.h"
#include "../support.h"

typedef struct moe_file moe_file;

typedef enum moe_file_format { MOE_FILE_GGUF, MOE_FILE_HF } moe_file_format;

/* A tensor as stored.  dims[0] is the row length (columns), the fastest running index, in both
 * formats (safetensors shapes are turned round); dims past n_dims are 1.  Safetensors of more than
 * four dimensions have the outermost ones multiplied into dims[3], scalars have n_dims 0, and a dim
 * may be 0 there. */
typedef struct moe_tensor {
    const char *name;
    int type; /* moe_type, or another GGUF type number */
    const char *type_name;
    int n_dims;
    int64_t dims[4];
    uint64_t offset; /* absolute, in its file */
    uint64_t size;   /* bytes */
    int part;        /* which file of a split or sharded set */
} moe_tensor;

/* GGUF metadata.  Strings are zero-terminated copies that may hold zero bytes: len counts. */
typedef enum moe_meta_kind {
    MOE_META_INT,    /* any integer type: i */
    MOE_META_UINT64, /* a u64 beyond int64: u (rare) */
    MOE_META_FLOAT,  /* f32 and f64: f */
    MOE_META_BOOL,
    MOE_META_STRING,
    MOE_META_ARRAY,
} moe_meta_kind;

typedef struct moe_string {
    const char *data;
    size_t len;
} moe_string;

typedef struct moe_meta {
    const char *key;
    moe_meta_kind kind;
    int64_t i;
    uint64_t u;
    double f;
    bool b;
    moe_string s;
    /* arrays: element kind INT (ints), FLOAT (floats), BOOL (ints 0/1), STRING (strings) */
    moe_meta_kind element;
    size_t n;
    const int64_t *ints;
    const double *floats;
    const moe_string *strings;
} moe_meta;

/* Opens path.  Errors: MOE_ERR_NOT_FOUND, _PERMISSION, _IO, _FORMAT, _UNSUPPORTED, _MEMORY, each
 * naming the file's base name or the tensor, and with a hint what to do. */
moe_status moe_file_open(const char *path, moe_file **out, moe_error *err);
void moe_file_close(moe_file *file);
moe_file_format moe_file_format_of(const moe_file *file);
const char *moe_file_name(const moe_file *file); /* last component of the path it was opened by */

/* NULL if there is none. */
const moe_tensor *moe_file_tensor(const moe_file *file, const char *name);
size_t moe_file_n_tensors(const moe_file *file);
const moe_tensor *moe_file_tensor_at(const moe_file *file, size_t i);

/* Reads len bytes of a tensor's data from byte offset (within the tensor) on. */
moe_status moe_file_read(const moe_file *file, const moe_tensor *tensor, uint64_t offset,
                         size_t len, void *dst, moe_error *err);

/* Says that these bytes will be read soon, so that a disk works on many requests at a time; costs
 * next to nothing if they are in the system's cache. */
void moe_file_announce(const moe_file *file, const moe_tensor *tensor, uint64_t offset, size_t len);

/* Gives back what only opening a model needs: metadata, JSON, the chat template and the look-up by
 * name.  Afterwards tensors that were found can be read, and nothing else works. */
moe_status moe_file_forget_metadata(moe_file *file, moe_error *err);

/* MOE_ERR_IO if a file has another size or modification time than when it was opened, or accepted
 * since: what is read from now on may be something else. */
moe_status moe_file_check(const moe_file *file, moe_error *err);
/* Takes the files as they are now, which the caller has verified. */
void moe_file_accept(moe_file *file);
int moe_file_descriptors(const moe_file *file); /* that it holds open */

/* GGUF metadata by key; NULL if absent or not a GGUF. */
const moe_meta *moe_file_meta(const moe_file *file, const char *key);

/* The same with defaults; a key of the wrong kind counts as absent.  int also accepts bool, float
 * also int. */
int64_t moe_file_meta_int(const moe_file *file, const char *key, int64_t otherwise);
double moe_file_meta_float(const moe_file *file, const char *key, double otherwise);
bool moe_file_meta_bool(const moe_file *file, const char *key, bool otherwise);
const char *moe_file_meta_string(const moe_file *file, const char *key, const char *otherwise);

/* The JSON files of a Hugging Face folder, parsed; NULL if the file is absent or not HF.  name is
 * one of "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
 * "special_tokens_map.json", "modules.json", "1_Pooling/config.json",
 * "sentence_bert_config.json", "config_sentence_transformers.json".  modules.json is an array, the
 * others are objects.  NaN and Infinity read as null. */
const json_t *moe_file_json(const moe_file *file, const char *name);

/* The chat template text of the model, NULL if it has none: tokenizer.chat_template, or
 * chat_template.jinja, or tokenizer_config.json's chat_template (a string, or a list of named ones:
 * "default"). */
const char *moe_file_chat_template(const moe_file *file);

#endif
