/*
 * What the files of this folder share: the inside of moe_file, and reading from untrusted files.
 *
 * A moe_file owns one open descriptor per part, an arena that holds every name, string and array
 * of the metadata, and the tables below.  Tables grow while a format's reader adds to them;
 * moe_file_index sorts them and checks the whole, after which nothing changes until close.
 */
#ifndef MOE_FILE_INTERNAL_H
#define MOE_FILE_INTERNAL_H

#include <time.h>

#include "model_file.h"

/* Limits on what an open may cost, well beyond real models (DeepSeek-V3 as safetensors: 91,000
 * tensors in 163 parts). */
#define MOE_MAX_PARTS 4096
#define MOE_MAX_TENSORS (1u << 20)
#define MOE_MAX_METAS (1u << 18)
#define MOE_MAX_METADATA_BYTES ((size_t)512 << 20)
#define MOE_MAX_JSON_BYTES ((uint64_t)256 << 20)
#define MOE_MAX_NAME 65535

/* --- memory --------------------------------------------------------------------------------- */

/* Small allocations that are freed together. */
typedef struct moe_arena {
    struct moe_arena_chunk *chunks; /* the newest first */
    size_t total;                   /* bytes handed out */
} moe_arena;

void *moe_arena_alloc(moe_arena *arena, size_t size); /* 16-byte aligned; NULL if memory is short */
char *moe_arena_string(moe_arena *arena, const void *data, size_t len); /* zero-terminated copy */
void moe_arena_free(moe_arena *arena);

/* A growing list of malloc'ed strings. */
typedef struct moe_names {
    char **items;
    size_t n, cap;
} moe_names;

/* Takes `name` over, also when it fails; a NULL name is an allocation that failed. */
moe_status moe_names_add(moe_names *names, char *name, moe_error *err);
void moe_names_sort(moe_names *names);
void moe_names_free(moe_names *names);

/* --- input.c: files of the operating system ------------------------------------------------- */

/* An open regular file.  fd is -1 if there is none. */
typedef struct moe_part {
    int fd;
    uint64_t size;
    struct timespec modified; /* when it was opened */
    char *name;               /* for messages; malloc'ed */
} moe_part;

/* "folder/name", malloc'ed. */
char *moe_path_join(const char *folder, const char *name);
/* Last component without trailing slashes, malloc'ed. */
char *moe_path_base(const char *path);
bool moe_ends_with(const char *s, const char *suffix);

/* Fills *err from errno after a failed stat, open or read of the file called `name`. */
moe_status moe_fail_errno(moe_error *err, const char *name);

/* Opens a regular file; `name` is for messages.  A FIFO, device or folder is MOE_ERR_FORMAT and
 * never waited for.  optional: a file that does not exist gives MOE_OK and fd -1. */
moe_status moe_part_open(const char *path, const char *name, bool optional, moe_part *out,
                         moe_error *err);
void moe_part_close(moe_part *part);

/* MOE_ERR_IO if the file's size or modification time is no longer what the part says. */
moe_status moe_part_check(const moe_part *part, moe_error *err);

/* Reads exactly len bytes at `offset`; the file's end before that is MOE_ERR_IO. */
moe_status moe_part_read(const moe_part *part, uint64_t offset, size_t len, void *dst,
                         moe_error *err);

/* Has the system begin to read len bytes, if the first of them is not in its cache. */
void moe_part_announce(const moe_part *part, uint64_t offset, size_t len);

/* Reads a whole file of at most MOE_MAX_JSON_BYTES, zero-terminated; *text is malloc'ed. */
moe_status moe_part_read_all(const moe_part *part, char **text, size_t *len, moe_error *err);

/* A file that is not what its place asks for: names what it is instead (a Git LFS pointer, a web
 * page, PyTorch, …) if its first bytes tell, and says what to do.  wanted: "GGUF", "safetensors".
 */
moe_status moe_fail_content(const moe_part *part, const char *wanted, moe_error *err);
/* The same, but MOE_OK if the first bytes don't show another known content. */
moe_status moe_check_content(const moe_part *part, const char *wanted, moe_error *err);

/* --- json_input.c --------------------------------------------------------------------------- */

/* Parses text[0..len) from the file called `name` as JSON with the liberties of Python's parser:
 * NaN and Infinity (read as null) and integers beyond 64 bits (read as reals).  flags: jansson's.
 */
moe_status moe_json_parse(const char *text, size_t len, const char *name, size_t flags,
                          json_t **out, moe_error *err);

/* Reads folder/name.  optional: *out is NULL if the file does not exist. */
moe_status moe_json_read(const char *folder, const char *name, bool optional, json_t **out,
                         moe_error *err);

/* --- model_file.c: the tables --------------------------------------------------------------- */

struct moe_file {
    moe_file_format format;
    char *name; /* base name of the path */
    moe_arena arena;
    moe_part *parts;
    size_t n_parts, cap_parts;
    moe_tensor *tensors; /* in file order */
    size_t n_tensors, cap_tensors;
    const moe_tensor **by_name; /* (n_tensors), sorted; set by moe_file_index */
    moe_meta *metas;            /* sorted by key */
    size_t n_metas;
    json_t **json;       /* (moe_hf_n_json), NULL where absent; NULL for GGUF */
    char *chat_template; /* text of chat_template.jinja or NULL */
};

/* Opens one more part. */
moe_status moe_file_add_part(moe_file *file, const char *path, const char *name, moe_error *err);

/* Copies *tensor into the table, after checking that its bytes lie in its part. */
moe_status moe_file_add_tensor(moe_file *file, const moe_tensor *tensor, moe_error *err);

/* Sorts the tensors by name and refuses names that occur twice and data that overlaps. */
moe_status moe_file_index(moe_file *file, moe_error *err);

/* Product of dims[0..n) as a size; false on overflow or a negative dim. */
bool moe_dims_product(const int64_t *dims, int n, uint64_t *out);

/* --- gguf.c --------------------------------------------------------------------------------- */

moe_status moe_gguf_open(moe_file *file, const char *path, moe_error *err);

/* Looks key up among n metas sorted by key. */
const moe_meta *moe_meta_find(const moe_meta *metas, size_t n, const char *key);

/* A path that ends in "-00002-of-00003.gguf": true, *no = 2, *count = 3 and the length before that.
 */
bool moe_gguf_split_name(const char *path, size_t *prefix_len, int *no, int *count);
/* The path of part `no` (from 1), malloc'ed. */
char *moe_gguf_part_path(const char *path, size_t prefix_len, int no, int count);
/* The error for a path that is part `no` of `count` and not the first. */
moe_status moe_gguf_fail_not_first(const char *path, int no, int count, moe_error *err);

/* --- safetensors.c -------------------------------------------------------------------------- */

/* Adds a safetensors file as a part, with its tensors. */
moe_status moe_safetensors_add(moe_file *file, const char *path, const char *name, moe_error *err);

/* --- hf_folder.c ---------------------------------------------------------------------------- */

moe_status moe_hf_open(moe_file *file, const char *path, moe_error *err);

/* Names of the JSON files that are read from a folder. */
extern const char *const moe_hf_json_names[];
extern const size_t moe_hf_n_json;
#define MOE_HF_INDEX "model.safetensors.index.json"
#define MOE_HF_WEIGHTS "model.safetensors"
#define MOE_HF_TEMPLATE "chat_template.jinja"

/* MOE_ERR_FORMAT with a hint if the folder has no config.json. */
moe_status moe_hf_check_folder(const char *path, moe_error *err);

/* The weight files of a folder, sorted.  *index: the parsed index of a sharded set (the caller
 * drops the reference), NULL for a single file. */
moe_status moe_hf_weight_files(const char *path, moe_names *out, json_t **index, moe_error *err);

#endif
