/*
 * Naming a model by its content (moe_model_digest) and noticing cheaply that it was replaced
 * (moe_model_stamp).
 *
 * The digest of a GGUF model is SHA-256 over the bytes of its file, or of all parts of a split set
 * one after the other.  Of a folder it is SHA-256 over one line "name size sha256\n" for each file
 * that the engine reads, sorted by name.  So it depends on content only, not on where the model
 * lies.
 *
 * The stamp is a hash over names, sizes and modification times.  It must not read files, so for a
 * folder it covers every safetensors file in it, listed by the index or not.
 */
#include "file_internal.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CHUNK_BYTES ((size_t)1 << 20)
#define SHA256_BYTES 32

/* moe_fail_errno for a path of which only the last component is shown. */
static moe_status fail_path_errno(moe_error *err, const char *path)
{
    int why = errno;
    char *name = moe_path_base(path);
    if (name == NULL)
        return moe_fail_memory(err, strlen(path) + 1);
    errno = why;
    moe_fail_errno(err, name);
    free(name);
    return err->status;
}

/* --- which files ---------------------------------------------------------------------------- */

/* Paths of a GGUF model: the file, or all parts if its name is that of the first part. */
static moe_status list_gguf(const char *path, moe_names *paths, moe_error *err)
{
    size_t prefix_len;
    int no, count;
    if (!moe_gguf_split_name(path, &prefix_len, &no, &count))
        return moe_names_add(paths, strdup(path), err);
    if (no != 1)
        return moe_gguf_fail_not_first(path, no, count, err);
    if (count > MOE_MAX_PARTS)
        return moe_fail(err, MOE_ERR_FORMAT, "a model can't have more than %d files",
                        MOE_MAX_PARTS);
    moe_status status = MOE_OK;
    for (int i = 1; status == MOE_OK && i <= count; i++)
        status = moe_names_add(paths, moe_gguf_part_path(path, prefix_len, i, count), err);
    return status;
}

/* Adds the names of the files beside the weights, whether they exist or not. */
static moe_status list_companions(moe_names *names, moe_error *err)
{
    moe_status status = moe_names_add(names, strdup(MOE_HF_TEMPLATE), err);
    for (size_t i = 0; status == MOE_OK && i < moe_hf_n_json; i++)
        status = moe_names_add(names, strdup(moe_hf_json_names[i]), err);
    return status;
}

/* Names of the files of a folder that the engine reads, sorted; some may not exist. */
static moe_status list_folder(const char *path, moe_names *names, moe_error *err)
{
    json_t *index = NULL;
    moe_status status = moe_hf_check_folder(path, err);
    if (status == MOE_OK)
        status = moe_hf_weight_files(path, names, &index, err);
    if (status == MOE_OK && index != NULL)
        status = moe_names_add(names, strdup(MOE_HF_INDEX), err);
    json_decref(index);
    if (status == MOE_OK)
        status = list_companions(names, err);
    moe_names_sort(names);
    return status;
}

/* The same without reading any file: all safetensors files and the index. */
static moe_status list_folder_by_name(const char *path, moe_names *names, moe_error *err)
{
    moe_status status = moe_hf_check_folder(path, err);
    if (status != MOE_OK)
        return status;
    DIR *dir = opendir(path);
    if (dir == NULL)
        return fail_path_errno(err, path);
    const struct dirent *entry;
    while (status == MOE_OK && (entry = readdir(dir)) != NULL) {
        if (moe_ends_with(entry->d_name, ".safetensors"))
            status = moe_names_add(names, strdup(entry->d_name), err);
    }
    closedir(dir);
    if (status == MOE_OK)
        status = moe_names_add(names, strdup(MOE_HF_INDEX), err);
    if (status == MOE_OK)
        status = list_companions(names, err);
    moe_names_sort(names);
    return status;
}

static moe_status stat_path(const char *path, struct stat *st, moe_error *err)
{
    return stat(path, st) == 0 ? MOE_OK : fail_path_errno(err, path);
}

/* --- digest --------------------------------------------------------------------------------- */

typedef struct hasher {
    EVP_MD_CTX *sum;
    unsigned char *buf; /* CHUNK_BYTES */
    const moe_cancel *cancel;
    moe_error *err;
} hasher;

static moe_status fail_openssl(moe_error *err)
{
    return moe_fail(err, MOE_ERR_UNSUPPORTED, "SHA-256 is not available from OpenSSL");
}

static moe_status hash_start(hasher *h)
{
    return EVP_DigestInit_ex(h->sum, EVP_sha256(), NULL) == 1 ? MOE_OK : fail_openssl(h->err);
}

static moe_status hash_add(hasher *h, const void *data, size_t len)
{
    return EVP_DigestUpdate(h->sum, data, len) == 1 ? MOE_OK : fail_openssl(h->err);
}

static moe_status hash_end(hasher *h, char hex[2 * SHA256_BYTES + 1])
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    if (EVP_DigestFinal_ex(h->sum, sum, NULL) != 1)
        return fail_openssl(h->err);
    for (int i = 0; i < SHA256_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", sum[i]);
    return MOE_OK;
}

static moe_status hash_open(hasher *h, const moe_cancel *cancel, moe_error *err)
{
    *h =
        (hasher){.sum = EVP_MD_CTX_new(), .buf = malloc(CHUNK_BYTES), .cancel = cancel, .err = err};
    return h->sum != NULL && h->buf != NULL ? MOE_OK : moe_fail_memory(err, CHUNK_BYTES);
}

static void hash_close(hasher *h)
{
    EVP_MD_CTX_free(h->sum);
    free(h->buf);
}

/* Adds the content of an open file. */
static moe_status hash_part(hasher *h, const moe_part *part)
{
    moe_status status = MOE_OK;
    for (uint64_t done = 0; status == MOE_OK && done < part->size;) {
        if (moe_cancelled(h->cancel))
            return moe_fail(h->err, MOE_ERR_CANCELLED, "reading file \"%s\" was cancelled",
                            part->name);
        size_t n = part->size - done < CHUNK_BYTES ? (size_t)(part->size - done) : CHUNK_BYTES;
        status = moe_part_read(part, done, n, h->buf, h->err);
        if (status == MOE_OK)
            status = hash_add(h, h->buf, n);
        done += n;
    }
    return status;
}

static moe_status digest_gguf(hasher *h, const char *path, char hex[65])
{
    moe_names paths = {0};
    moe_status status = list_gguf(path, &paths, h->err);
    if (status == MOE_OK)
        status = hash_start(h);
    for (size_t i = 0; status == MOE_OK && i < paths.n; i++) {
        char *name = moe_path_base(paths.items[i]);
        if (name == NULL) {
            status = moe_fail_memory(h->err, strlen(paths.items[i]) + 1);
            break;
        }
        moe_part part;
        status = moe_part_open(paths.items[i], name, false, &part, h->err);
        free(name);
        if (status == MOE_OK)
            status = hash_part(h, &part);
        moe_part_close(&part);
    }
    moe_names_free(&paths);
    return status == MOE_OK ? hash_end(h, hex) : status;
}

/* Adds the line of one file of a folder to *lines; nothing if it does not exist. */
static moe_status digest_member(hasher *h, const char *folder, const char *name, moe_buf *lines)
{
    char *path = moe_path_join(folder, name);
    if (path == NULL)
        return moe_fail_memory(h->err, strlen(folder) + strlen(name) + 2);
    moe_part part;
    moe_status status = moe_part_open(path, name, true, &part, h->err);
    free(path);
    if (status != MOE_OK || part.fd < 0)
        return status;
    char hex[65], tail[96];
    status = hash_start(h);
    if (status == MOE_OK)
        status = hash_part(h, &part);
    if (status == MOE_OK)
        status = hash_end(h, hex);
    if (status == MOE_OK) {
        snprintf(tail, sizeof(tail), " %llu %s\n", (unsigned long long)part.size, hex);
        if (!moe_buf_add_str(lines, name) || !moe_buf_add_str(lines, tail))
            status = moe_fail_memory(h->err, lines->len + strlen(name) + sizeof(tail));
    }
    moe_part_close(&part);
    return status;
}

static moe_status digest_folder(hasher *h, const char *path, char hex[65])
{
    moe_names names = {0};
    moe_buf lines = {0};
    moe_status status = list_folder(path, &names, h->err);
    for (size_t i = 0; status == MOE_OK && i < names.n; i++)
        status = digest_member(h, path, names.items[i], &lines);
    if (status == MOE_OK)
        status = hash_start(h);
    if (status == MOE_OK)
        status = hash_add(h, lines.data, lines.len);
    if (status == MOE_OK)
        status = hash_end(h, hex);
    moe_buf_free(&lines);
    moe_names_free(&names);
    return status;
}

moe_status moe_model_digest(const char *path, const moe_cancel *cancel, char hex[65],
                            moe_error *err)
{
    moe_error unwanted;
    if (err == NULL)
        err = &unwanted;
    hex[0] = '\0';
    struct stat st;
    moe_status status = stat_path(path, &st, err);
    if (status != MOE_OK)
        return status;
    hasher h;
    status = hash_open(&h, cancel, err);
    if (status == MOE_OK)
        status = S_ISDIR(st.st_mode) ? digest_folder(&h, path, hex) : digest_gguf(&h, path, hex);
    hash_close(&h);
    return status;
}

/* --- stamp ---------------------------------------------------------------------------------- */

/* Adds size and time of one file to the hash and its size to *total. */
static moe_status stamp_file(hasher *h, const char *path, const char *name, bool optional,
                             uint64_t *total)
{
    struct stat st;
    if (optional && stat(path, &st) != 0)
        return MOE_OK;
    moe_status status = stat_path(path, &st, h->err);
    if (status != MOE_OK)
        return status;
    if (!S_ISREG(st.st_mode))
        return moe_fail(h->err, MOE_ERR_FORMAT, "\"%s\" is not a regular file", name);
    char line[96];
    int len = snprintf(line, sizeof(line), " %lld %lld.%09ld\n", (long long)st.st_size,
                       (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    *total += (uint64_t)st.st_size;
    status = hash_add(h, name, strlen(name));
    return status == MOE_OK ? hash_add(h, line, (size_t)len) : status;
}

static moe_status stamp_folder(hasher *h, const char *path, uint64_t *total)
{
    moe_names names = {0};
    moe_status status = list_folder_by_name(path, &names, h->err);
    for (size_t i = 0; status == MOE_OK && i < names.n; i++) {
        char *file_path = moe_path_join(path, names.items[i]);
        status = file_path == NULL
                     ? moe_fail_memory(h->err, strlen(path) + strlen(names.items[i]) + 2)
                     : stamp_file(h, file_path, names.items[i], true, total);
        free(file_path);
    }
    moe_names_free(&names);
    return status;
}

static moe_status stamp_gguf(hasher *h, const char *path, uint64_t *total)
{
    moe_names paths = {0};
    moe_status status = list_gguf(path, &paths, h->err);
    for (size_t i = 0; status == MOE_OK && i < paths.n; i++) {
        char *name = moe_path_base(paths.items[i]);
        status = name == NULL ? moe_fail_memory(h->err, strlen(paths.items[i]) + 1)
                              : stamp_file(h, paths.items[i], name, false, total);
        free(name);
    }
    moe_names_free(&paths);
    return status;
}

moe_status moe_model_stamp(const char *path, char *stamp, size_t size, moe_error *err)
{
    moe_error unwanted;
    if (err == NULL)
        err = &unwanted;
    if (size > 0)
        stamp[0] = '\0';
    struct stat st;
    moe_status status = stat_path(path, &st, err);
    if (status != MOE_OK)
        return status;
    hasher h;
    char hex[65];
    uint64_t total = 0;
    status = hash_open(&h, NULL, err);
    if (status == MOE_OK)
        status = hash_start(&h);
    if (status == MOE_OK)
        status =
            S_ISDIR(st.st_mode) ? stamp_folder(&h, path, &total) : stamp_gguf(&h, path, &total);
    if (status == MOE_OK)
        status = hash_end(&h, hex);
    hash_close(&h);
    if (status != MOE_OK)
        return status;
    /* A quarter of the hash is plenty to notice a change. */
    int len = snprintf(stamp, size, "%llu-%.16s", (unsigned long long)total, hex);
    if (len < 0 || (size_t)len >= size)
        return moe_fail(err, MOE_ERR_INVALID, "a model's stamp does not fit %zu bytes", size);
    return MOE_OK;
}
