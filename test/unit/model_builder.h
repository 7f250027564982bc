/*
 * Builds model files for tests, sound or broken, in a temporary folder.
 *
 * make_root and drop_root are a cmocka group's set-up and tear-down; names below are relative to
 * the folder.  A gguf collects metadata and tensor entries as bytes, so that a test can write
 * anything; its counts may be changed before finish writes the file and frees it.  Each function
 * fails the test if the file system does.
 */
#ifndef MODEL_BUILDER_H
#define MODEL_BUILDER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/engine/file/model_file.h"

static char root[64]; /* the temporary folder */

/* root/name; the last few results stay valid. */
static const char *at(const char *name)
{
    static char paths[8][512];
    static unsigned turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof(paths[0]), "%s/%s", root, name);
    return path;
}

static void write_file(const char *name, const void *data, size_t len)
{
    FILE *f = fopen(at(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static void write_text(const char *name, const char *text)
{
    write_file(name, text, strlen(text));
}

static void remove_tree(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    char child[512];
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
        if (unlink(child) != 0)
            remove_tree(child);
    }
    if (dir != NULL)
        closedir(dir);
    rmdir(path);
}

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/moe-test-file-XXXXXX");
    return mkdtemp(root) == NULL;
}

static int drop_root(void **state)
{
    (void)state;
    remove_tree(root);
    return 0;
}

static void make_folder(const char *name)
{
    remove_tree(at(name));
    assert_int_equal(mkdir(at(name), 0700), 0);
}

/* A GGUF in the making: metadata and tensor table as bytes, and how many of each. */
typedef struct gguf {
    moe_buf metas, tensors;
    uint64_t n_metas, n_tensors;
    size_t data_len;
    uint64_t alignment;
} gguf;

static void put(moe_buf *buf, const void *data, size_t len)
{
    assert_true(moe_buf_add(buf, data, len));
}

static void put_u32(moe_buf *buf, uint32_t value)
{
    put(buf, &value, sizeof(value));
}

static void put_u64(moe_buf *buf, uint64_t value)
{
    put(buf, &value, sizeof(value));
}

static void put_string(moe_buf *buf, const char *s)
{
    put_u64(buf, strlen(s));
    put(buf, s, strlen(s));
}

/* Begins a key; the caller adds the value to metas. */
static void key(gguf *g, const char *name, uint32_t kind)
{
    put_string(&g->metas, name);
    put_u32(&g->metas, kind);
    g->n_metas++;
}

static void key_value(gguf *g, const char *name, uint32_t kind, const void *value, size_t len)
{
    key(g, name, kind);
    put(&g->metas, value, len);
}

static void key_u32(gguf *g, const char *name, uint32_t value)
{
    key_value(g, name, 4, &value, sizeof(value));
}

static void key_u16(gguf *g, const char *name, uint16_t value)
{
    key_value(g, name, 2, &value, sizeof(value));
}

static void key_string(gguf *g, const char *name, const char *value)
{
    key(g, name, 8);
    put_string(&g->metas, value);
}

static void key_array(gguf *g, const char *name, uint32_t kind, uint64_t n, const void *data,
                      size_t len)
{
    key(g, name, 9);
    put_u32(&g->metas, kind);
    put_u64(&g->metas, n);
    put(&g->metas, data, len);
}

static void tensor(gguf *g, const char *name, uint32_t n_dims, const int64_t *dims, uint32_t type,
                   uint64_t offset)
{
    put_string(&g->tensors, name);
    put_u32(&g->tensors, n_dims);
    put(&g->tensors, dims, n_dims * sizeof(*dims));
    put_u32(&g->tensors, type);
    put_u64(&g->tensors, offset);
    g->n_tensors++;
}

static void matrix(gguf *g, const char *name, int64_t columns, int64_t rows, uint32_t type,
                   uint64_t offset)
{
    tensor(g, name, 2, (const int64_t[]){columns, rows}, type, offset);
}

/* Writes the file: data byte i is (char)i.  Returns the offset of the data. */
static size_t finish(gguf *g, const char *name)
{
    moe_buf out = {0};
    put(&out, "GGUF", 4);
    put_u32(&out, 3);
    put_u64(&out, g->n_tensors);
    put_u64(&out, g->n_metas);
    if (g->metas.len > 0)
        put(&out, g->metas.data, g->metas.len);
    if (g->tensors.len > 0)
        put(&out, g->tensors.data, g->tensors.len);
    uint64_t alignment = g->alignment == 0 ? 32 : g->alignment;
    while (out.len % alignment != 0)
        put(&out, "", 1);
    size_t data = out.len;
    for (size_t i = 0; i < g->data_len; i++)
        put(&out, &(char){(char)i}, 1);
    write_file(name, out.data, out.len);
    moe_buf_free(&out);
    moe_buf_free(&g->metas);
    moe_buf_free(&g->tensors);
    return data;
}

/* A folder with config.json and one safetensors file of the given header and data length. */
static void write_safetensors(const char *name, const char *header, size_t data_len)
{
    moe_buf out = {0};
    put_u64(&out, strlen(header));
    put(&out, header, strlen(header));
    for (size_t i = 0; i < data_len; i++)
        put(&out, &(char){(char)i}, 1);
    write_file(name, out.data, out.len);
    moe_buf_free(&out);
}

static void make_hf(const char *config, const char *header, size_t data_len)
{
    make_folder("hf");
    write_text("hf/config.json", config);
    write_safetensors("hf/model.safetensors", header, data_len);
}

#endif
