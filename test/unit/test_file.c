/*
 * Unit tests of the file layer (src/engine/file): GGUF, safetensors and Hugging Face folders, sound
 * and broken, digests and stamps.
 *
 * Every file is built in a temporary folder that the run removes at its end.  Where the shared
 * models are present (environment variable MOE_SHARED), all of them are opened and read too.
 */
#include "model_builder.h"

#include <fcntl.h>
#include <math.h>

/* --- expectations --------------------------------------------------------------------------- */

static moe_file *open_ok(const char *name)
{
    moe_file *file;
    moe_error err = {0};
    if (moe_file_open(at(name), &file, &err) != MOE_OK)
        fail_msg("%s: %s (%s)", name, err.message, err.hint);
    return file;
}

static void open_fails(const char *name, moe_status status, const char *message, const char *hint)
{
    moe_file *file = NULL;
    moe_error err = {0};
    moe_status found = moe_file_open(at(name), &file, &err);
    if (found != status || strstr(err.message, message) == NULL || strstr(err.hint, hint) == NULL)
        fail_msg("%s: wanted %d \"%s\" / \"%s\", got %d \"%s\" / \"%s\"", name, status, message,
                 hint, found, err.message, err.hint);
    assert_null(file);
}

/* --- sound GGUF files ----------------------------------------------------------------------- */

static void gguf_metadata_of_every_kind_is_read(void **state)
{
    (void)state;
    gguf g = {0};
    key_value(&g, "u8", 0, &(uint8_t){200}, 1);
    key_value(&g, "i8", 1, &(int8_t){-100}, 1);
    key_value(&g, "u16", 2, &(uint16_t){60000}, 2);
    key_value(&g, "i16", 3, &(int16_t){-30000}, 2);
    key_value(&g, "u32", 4, &(uint32_t){4000000000u}, 4);
    key_value(&g, "i32", 5, &(int32_t){-2000000000}, 4);
    key_value(&g, "f32", 6, &(float){0.25f}, 4);
    key_value(&g, "yes", 7, &(uint8_t){1}, 1);
    key_value(&g, "no", 7, &(uint8_t){0}, 1);
    key_string(&g, "string", "sh\xC3\xA4ll");
    key_value(&g, "u64", 10, &(uint64_t){1ull << 62}, 8);
    key_value(&g, "u64 big", 10, &(uint64_t){UINT64_MAX}, 8);
    key_value(&g, "i64", 11, &(int64_t){INT64_MIN}, 8);
    key_value(&g, "f64", 12, &(double){1e300}, 8);
    key_array(&g, "i16s", 3, 3, (int16_t[]){-1, 0, 7}, 6);
    key_array(&g, "bools", 7, 2, (uint8_t[]){1, 0}, 2);
    key_array(&g, "f32s", 6, 2, (float[]){1.5f, -2}, 8);
    key_array(&g, "none", 8, 0, "", 0);
    key(&g, "strings", 9);
    put_u32(&g.metas, 8);
    put_u64(&g.metas, 3);
    put_string(&g.metas, "a");
    put_string(&g.metas, "");
    put_u64(&g.metas, 3);
    put(&g.metas, "x\0y", 3);
    finish(&g, "kinds.gguf");

    moe_file *f = open_ok("kinds.gguf");
    assert_int_equal(moe_file_format_of(f), MOE_FILE_GGUF);
    assert_string_equal(moe_file_name(f), "kinds.gguf");
    assert_int_equal(moe_file_meta_int(f, "u8", 0), 200);
    assert_int_equal(moe_file_meta_int(f, "i8", 0), -100);
    assert_int_equal(moe_file_meta_int(f, "u16", 0), 60000);
    assert_int_equal(moe_file_meta_int(f, "i16", 0), -30000);
    assert_int_equal(moe_file_meta_int(f, "u32", 0), 4000000000);
    assert_int_equal(moe_file_meta_int(f, "i32", 0), -2000000000);
    assert_int_equal(moe_file_meta_int(f, "u64", 0), 1ll << 62);
    assert_true(moe_file_meta_int(f, "i64", 0) == INT64_MIN);
    assert_int_equal(moe_file_meta(f, "u64 big")->kind, MOE_META_UINT64);
    assert_true(moe_file_meta(f, "u64 big")->u == UINT64_MAX);
    assert_true(moe_file_meta_float(f, "f32", 0) == 0.25);
    assert_true(moe_file_meta_float(f, "f64", 0) == 1e300);
    assert_true(moe_file_meta_bool(f, "yes", false));
    assert_false(moe_file_meta_bool(f, "no", true));
    assert_string_equal(moe_file_meta_string(f, "string", ""), "sh\xC3\xA4ll");

    /* defaults: absent keys and wrong kinds; an int serves as float, a bool as int */
    assert_int_equal(moe_file_meta_int(f, "absent", -7), -7);
    assert_int_equal(moe_file_meta_int(f, "f32", -7), -7);
    assert_int_equal(moe_file_meta_int(f, "u64 big", -7), -7);
    assert_int_equal(moe_file_meta_int(f, "yes", -7), 1);
    assert_true(moe_file_meta_float(f, "i8", 0) == -100);
    assert_true(moe_file_meta_float(f, "string", 3) == 3);
    assert_true(moe_file_meta_bool(f, "u8", true));
    assert_null(moe_file_meta_string(f, "u8", NULL));
    assert_null(moe_file_json(f, "config.json"));
    assert_null(moe_file_chat_template(f));

    const moe_meta *m = moe_file_meta(f, "i16s");
    assert_int_equal(m->kind, MOE_META_ARRAY);
    assert_int_equal(m->element, MOE_META_INT);
    assert_int_equal(m->n, 3);
    assert_int_equal(m->ints[0], -1);
    assert_int_equal(m->ints[2], 7);
    m = moe_file_meta(f, "bools");
    assert_int_equal(m->element, MOE_META_BOOL);
    assert_int_equal(m->ints[0] * 10 + m->ints[1], 10);
    m = moe_file_meta(f, "f32s");
    assert_int_equal(m->element, MOE_META_FLOAT);
    assert_true(m->floats[0] == 1.5 && m->floats[1] == -2);
    assert_int_equal(moe_file_meta(f, "none")->n, 0);
    m = moe_file_meta(f, "strings");
    assert_int_equal(m->element, MOE_META_STRING);
    assert_string_equal(m->strings[0].data, "a");
    assert_int_equal(m->strings[1].len, 0);
    assert_int_equal(m->strings[2].len, 3);
    assert_memory_equal(m->strings[2].data, "x\0y", 4);
    moe_file_close(f);
}

static void gguf_long_arrays_cross_the_read_buffer(void **state)
{
    (void)state;
    enum { N = 30001 };
    gguf g = {0};
    int32_t *ints = malloc(N * sizeof(*ints));
    assert_non_null(ints);
    for (int i = 0; i < N; i++)
        ints[i] = i * 7 - 1000;
    key_array(&g, "ints", 5, N, ints, N * sizeof(*ints));
    free(ints);
    key(&g, "strings", 9);
    put_u32(&g.metas, 8);
    put_u64(&g.metas, N);
    char text[32];
    for (int i = 0; i < N; i++) {
        snprintf(text, sizeof(text), "token %d", i);
        put_string(&g.metas, text);
    }
    key_u32(&g, "after", 42);
    finish(&g, "long.gguf");
    moe_file *f = open_ok("long.gguf");
    for (int i = 0; i < N; i++) {
        assert_int_equal(moe_file_meta(f, "ints")->ints[i], i * 7 - 1000);
        snprintf(text, sizeof(text), "token %d", i);
        assert_string_equal(moe_file_meta(f, "strings")->strings[i].data, text);
    }
    assert_int_equal(moe_file_meta_int(f, "after", 0), 42);
    moe_file_close(f);
}

static void gguf_tensors_are_found_and_read(void **state)
{
    (void)state;
    gguf g = {.data_len = 128 + 144 + 40, .alignment = 8};
    key_u32(&g, "general.alignment", 8);
    key_string(&g, "tokenizer.chat_template", "{{ x }}");
    tensor(&g, "b.weight", 3, (const int64_t[]){4, 4, 2}, MOE_TYPE_F32, 0);
    matrix(&g, "a.weight", 256, 1, MOE_TYPE_Q4_K, 128);
    matrix(&g, "c.weight", 32, 1, 39, 272);
    size_t data = finish(&g, "tensors.gguf");
    moe_file *f = open_ok("tensors.gguf");
    assert_int_equal(moe_file_n_tensors(f), 3);
    assert_string_equal(moe_file_tensor_at(f, 0)->name, "b.weight"); /* file order */
    assert_null(moe_file_tensor_at(f, 3));
    assert_null(moe_file_tensor(f, "a.weigh"));
    assert_string_equal(moe_file_chat_template(f), "{{ x }}");

    const moe_tensor *t = moe_file_tensor(f, "b.weight");
    assert_ptr_equal(t, moe_file_tensor_at(f, 0));
    assert_int_equal(t->n_dims, 3);
    assert_int_equal(t->dims[2], 2);
    assert_int_equal(t->dims[3], 1);
    assert_int_equal(t->size, 128);
    assert_int_equal(t->offset, data);
    t = moe_file_tensor(f, "a.weight");
    assert_int_equal(t->type, MOE_TYPE_Q4_K);
    assert_string_equal(t->type_name, "Q4_K");
    assert_int_equal(t->size, 144);
    unsigned char bytes[144];
    assert_int_equal(moe_file_read(f, t, 0, 144, bytes, NULL), MOE_OK);
    for (int i = 0; i < 144; i++)
        assert_int_equal(bytes[i], (128 + i) & 0xFF);
    assert_int_equal(moe_file_read(f, t, 140, 4, bytes, NULL), MOE_OK);
    assert_int_equal(bytes[3], (128 + 143) & 0xFF);
    assert_int_equal(moe_file_read(f, t, 144, 0, bytes, NULL), MOE_OK);
    t = moe_file_tensor(f, "c.weight"); /* known, but nothing computes with it */
    assert_string_equal(t->type_name, "MXFP4");
    assert_int_equal(t->size, 17);
    assert_false(moe_type_info_of(t->type)->computable);

    moe_error err;
    assert_int_equal(moe_file_read(f, t, 0, 18, bytes, &err), MOE_ERR_INVALID);
    assert_int_equal(moe_file_read(f, t, UINT64_MAX, 1, bytes, &err), MOE_ERR_INVALID);
    assert_int_equal(moe_file_read(f, t, 1, SIZE_MAX, bytes, &err), MOE_ERR_INVALID);
    /* somebody truncates the open file: an error, no signal */
    assert_int_equal(truncate(at("tensors.gguf"), (off_t)data + 10), 0);
    assert_int_equal(moe_file_read(f, t, 0, 17, bytes, &err), MOE_ERR_IO);
    assert_non_null(strstr(err.message, "tensors.gguf"));
    moe_file_close(f);
    moe_file_close(NULL);
}

/* --- broken GGUF files ---------------------------------------------------------------------- */

/* Each makes one broken file. */
static void bad_alignment(gguf *g)
{
    key_u32(g, "general.alignment", 24);
}
static void zero_alignment(gguf *g)
{
    key_u32(g, "general.alignment", 0);
}
static void string_alignment(gguf *g)
{
    key_string(g, "general.alignment", "32");
}
static void twin_keys(gguf *g)
{
    key_u32(g, "twin", 1);
    key_u32(g, "other", 1);
    key_u32(g, "twin", 2);
}
static void empty_key(gguf *g)
{
    key_u32(g, "", 1);
}
static void zero_byte_in_key(gguf *g)
{
    put_u64(&g->metas, 3);
    put(&g->metas, "a\0b", 3);
    put_u32(&g->metas, 4);
    put_u32(&g->metas, 1);
    g->n_metas++;
}
static void unknown_kind(gguf *g)
{
    key_value(g, "odd", 13, "", 1);
}
static void nested_array(gguf *g)
{
    key_array(g, "nested", 9, 1, (uint32_t[]){4, 0, 0}, 12);
}
static void unknown_element(gguf *g)
{
    key_array(g, "odd", 77, 1, "", 1);
}
static void huge_array(gguf *g)
{
    key_array(g, "huge", 4, 1ull << 60, "", 1);
}
static void overflowing_array(gguf *g)
{
    key_array(g, "huge", 10, 1ull << 61, "", 1);
}
static void huge_string(gguf *g)
{
    key(g, "s", 8);
    put_u64(&g->metas, UINT64_MAX);
}
static void big_element(gguf *g)
{
    key_array(g, "big", 10, 1, &(uint64_t){1ull << 63}, 8);
}
static void huge_key_count(gguf *g)
{
    g->n_metas = 1ull << 62;
}
static void negative_tensor_count(gguf *g)
{
    g->n_tensors = (uint64_t)-1;
}
static void twin_tensors(gguf *g)
{
    matrix(g, "x", 8, 1, 0, 0);
    matrix(g, "y", 8, 1, 0, 32);
    matrix(g, "x", 8, 1, 0, 64);
}
static void overlapping_tensors(gguf *g)
{
    matrix(g, "x", 8, 2, 0, 0);
    matrix(g, "y", 8, 1, 0, 32);
}
static void five_dims(gguf *g)
{
    tensor(g, "x", 5, (const int64_t[]){1, 1, 1, 1, 1}, 0, 0);
}
static void no_dims(gguf *g)
{
    tensor(g, "x", 0, NULL, 0, 0);
}
static void zero_dim(gguf *g)
{
    matrix(g, "x", 8, 0, 0, 0);
}
static void negative_dim(gguf *g)
{
    matrix(g, "x", 8, -1, 0, 0);
}
static void overflowing_dims(gguf *g)
{
    tensor(g, "x", 4, (const int64_t[]){1 << 20, 1 << 20, 1 << 20, 1 << 20}, 0, 0);
}
static void overflowing_size(gguf *g)
{
    tensor(g, "x", 2, (const int64_t[]){1ll << 31, 1ll << 31}, 28, 0);
}
static void ragged_row(gguf *g)
{
    matrix(g, "x", 300, 1, MOE_TYPE_Q4_K, 0);
}
static void unaligned_offset(gguf *g)
{
    matrix(g, "x", 8, 1, 0, 16);
}
static void far_offset(gguf *g)
{
    matrix(g, "x", 8, 1, 0, 1 << 20);
}
static void overflowing_offset(gguf *g)
{
    matrix(g, "x", 8, 1, 0, UINT64_MAX & ~31ull);
}
static void private_type(gguf *g)
{
    matrix(g, "x", 256, 1, 139, 0);
}
static void safetensors_type(gguf *g)
{
    matrix(g, "x", 256, 1, 256, 0);
}
static void withdrawn_type(gguf *g)
{
    matrix(g, "x", 256, 1, 31, 0);
}
static void huge_type(gguf *g)
{
    matrix(g, "x", 256, 1, UINT32_MAX, 0);
}
static void part_beyond_count(gguf *g)
{
    key_u16(g, "split.no", 4);
    key_u16(g, "split.count", 3);
}
static void too_many_parts(gguf *g)
{
    key_u16(g, "split.count", 60000);
}

static void broken_gguf_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        void (*make)(gguf *g);
        moe_status status;
        const char *message;
    } cases[] = {
        {bad_alignment, MOE_ERR_FORMAT, "not a power of two"},
        {zero_alignment, MOE_ERR_FORMAT, "not a power of two"},
        {string_alignment, MOE_ERR_FORMAT, "not a power of two"},
        {twin_keys, MOE_ERR_FORMAT, "key \"twin\" occurs twice"},
        {empty_key, MOE_ERR_FORMAT, "metadata key at byte 24"},
        {zero_byte_in_key, MOE_ERR_FORMAT, "zero byte"},
        {unknown_kind, MOE_ERR_FORMAT, "key \"odd\" of \"broken.gguf\" has the unknown kind 13"},
        {nested_array, MOE_ERR_FORMAT, "array of arrays"},
        {unknown_element, MOE_ERR_FORMAT, "unknown kind 77"},
        {huge_array, MOE_ERR_FORMAT, "beyond the file's end"},
        {overflowing_array, MOE_ERR_FORMAT, "beyond the file's end"},
        {huge_string, MOE_ERR_FORMAT, "beyond the file's end"},
        {big_element, MOE_ERR_FORMAT, "beyond 63 bits"},
        {huge_key_count, MOE_ERR_FORMAT, "beyond the file's end"},
        {negative_tensor_count, MOE_ERR_FORMAT, "beyond the file's end"},
        {twin_tensors, MOE_ERR_FORMAT, "tensor \"x\" occurs twice"},
        {overlapping_tensors, MOE_ERR_FORMAT, "tensors \"x\" and \"y\" overlap"},
        {five_dims, MOE_ERR_FORMAT, "tensor \"x\" has 5 dimensions"},
        {no_dims, MOE_ERR_FORMAT, "tensor \"x\" has 0 dimensions"},
        {zero_dim, MOE_ERR_FORMAT, "dimension 1 of tensor \"x\" is 0"},
        {negative_dim, MOE_ERR_FORMAT, "dimension 1 of tensor \"x\" is -1"},
        {overflowing_dims, MOE_ERR_FORMAT, "dimensions of tensor \"x\" overflow"},
        {overflowing_size, MOE_ERR_FORMAT, "dimensions of tensor \"x\" overflow"},
        {ragged_row, MOE_ERR_FORMAT, "not a multiple of the 256 of type Q4_K"},
        {unaligned_offset, MOE_ERR_FORMAT, "not a multiple of the alignment 32"},
        {far_offset, MOE_ERR_FORMAT, "tensor \"x\" ends at byte"},
        {overflowing_offset, MOE_ERR_FORMAT, "overflow"},
        {private_type, MOE_ERR_UNSUPPORTED, "type number 139"},
        {safetensors_type, MOE_ERR_UNSUPPORTED, "type number 256"},
        {withdrawn_type, MOE_ERR_UNSUPPORTED, "type number 31"},
        {huge_type, MOE_ERR_UNSUPPORTED, "type number 4294967295"},
        {part_beyond_count, MOE_ERR_FORMAT, "calls itself part 5 of 3"},
        {too_many_parts, MOE_ERR_FORMAT, "of 60000"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        gguf g = {.data_len = 96};
        cases[i].make(&g);
        finish(&g, "broken.gguf");
        open_fails("broken.gguf", cases[i].status, cases[i].message, "");
    }
}

static void truncated_gguf_names_the_tensor(void **state)
{
    (void)state;
    gguf g = {.data_len = 64};
    matrix(&g, "token_embd.weight", 8, 1, 0, 0);
    matrix(&g, "blk.3.ffn_down_exps.weight", 8, 2, 0, 32);
    size_t data = finish(&g, "short.gguf");
    char message[128];
    snprintf(message, sizeof(message),
             "tensor \"blk.3.ffn_down_exps.weight\" ends at byte %zu, beyond the file's end at %zu",
             data + 96, data + 64);
    open_fails("short.gguf", MOE_ERR_FORMAT, message,
               "The file seems to be truncated; fetch it again.");
}

/* Every prefix of a small file is refused, whatever it cuts through. */
static void every_truncation_is_refused(void **state)
{
    (void)state;
    gguf g = {.data_len = 64};
    key_string(&g, "general.architecture", "llama");
    key_array(&g, "i", 4, 2, (uint32_t[]){1, 2}, 8);
    matrix(&g, "x", 8, 2, 0, 0);
    size_t size = finish(&g, "whole.gguf") + 64;
    char bytes[1024];
    assert_true(size < sizeof(bytes));
    FILE *f = fopen(at("whole.gguf"), "rb");
    assert_non_null(f);
    assert_int_equal(fread(bytes, 1, sizeof(bytes), f), size);
    fclose(f);
    moe_file_close(open_ok("whole.gguf"));
    for (size_t len = 0; len < size; len++) {
        write_file("cut.gguf", bytes, len);
        moe_file *file;
        moe_error err;
        assert_int_equal(moe_file_open(at("cut.gguf"), &file, &err), MOE_ERR_FORMAT);
        assert_true(err.message[0] != '\0');
        if (len >= 8)
            assert_string_equal(err.hint, "The file seems to be truncated; fetch it again.");
    }
}

static void other_contents_are_told_apart(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        moe_status status;
        const char *message, *hint;
    } cases[] = {
        {"", 0, MOE_ERR_FORMAT, "is empty", "Fetch"},
        {"GG", 2, MOE_ERR_FORMAT, "is not a GGUF file", ""},
        {"hello world", 11, MOE_ERR_FORMAT, "is not a GGUF file", ""},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", 56, MOE_ERR_FORMAT,
         "Git LFS pointer", "git lfs pull"},
        {"\n <!DOCTYPE html><html>", 23, MOE_ERR_FORMAT, "web page", "address"},
        {"<HTML><head>", 12, MOE_ERR_FORMAT, "web page", "address"},
        {"lmgg\1\0\0\0", 8, MOE_ERR_UNSUPPORTED, "old GGML format", "GGUF"},
        {"PK\3\4abcd", 8, MOE_ERR_UNSUPPORTED, "PyTorch", "safetensors"},
        {"GGUF\1\0\0\0xxxxxxxxxxxxxxxx", 24, MOE_ERR_UNSUPPORTED, "version 1", "convert"},
        {"GGUF\0\0\0\3xxxxxxxxxxxxxxxx", 24, MOE_ERR_UNSUPPORTED, "big-endian", "little-endian"},
        {"GGUF\7\0\0\0xxxxxxxxxxxxxxxx", 24, MOE_ERR_UNSUPPORTED, "unknown GGUF version 7", ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        write_file("other.gguf", cases[i].bytes, cases[i].len);
        open_fails("other.gguf", cases[i].status, cases[i].message, cases[i].hint);
    }
}

static void things_that_are_not_files_are_refused_at_once(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(at("fifo.gguf"), 0600), 0);
    open_fails("fifo.gguf", MOE_ERR_FORMAT, "\"fifo.gguf\" is not a regular file", "");
    open_fails("absent.gguf", MOE_ERR_NOT_FOUND, "file \"absent.gguf\" does not exist", "");
    open_fails("fifo.gguf/x", MOE_ERR_NOT_FOUND, "does not exist", "");
    moe_file *file;
    moe_error err;
    assert_int_equal(moe_file_open("/dev/zero", &file, &err), MOE_ERR_FORMAT);
    assert_int_equal(moe_file_open("", &file, &err), MOE_ERR_NOT_FOUND);
    assert_int_equal(moe_file_open("/nonexistent/x.gguf", &file, NULL), MOE_ERR_NOT_FOUND);
    make_folder("hf");
    assert_int_equal(mkfifo(at("hf/config.json"), 0600), 0);
    open_fails("hf", MOE_ERR_FORMAT, "\"config.json\" is not a regular file", "");
    if (geteuid() != 0) {
        write_text("closed.gguf", "x");
        assert_int_equal(chmod(at("closed.gguf"), 0), 0);
        open_fails("closed.gguf", MOE_ERR_PERMISSION, "permission denied", "user");
    }
}

static void pieces_and_parts_of_models_get_a_hint(void **state)
{
    (void)state;
    write_text("m.gguf-split-a", "GGUF");
    open_fails("m.gguf-split-a", MOE_ERR_UNSUPPORTED, "cut up", "Join");
    write_text("m.gguf.part1of2", "GGUF");
    open_fails("m.gguf.part1of2", MOE_ERR_UNSUPPORTED, "cut up", "Join");
    write_text("model.safetensors", "xxxxxxxxxxxx");
    open_fails("model.safetensors", MOE_ERR_FORMAT, "only a part", "folder");
    write_text("config.json", "{}");
    open_fails("config.json", MOE_ERR_FORMAT, "only a part", "folder");
}

/* --- split sets ----------------------------------------------------------------------------- */

/* Part `no` (from 0) of `count` with one tensor "t<no>" of eight floats. */
static void write_part(const char *name, int no, int count)
{
    gguf g = {.data_len = 32};
    if (no == 0) {
        key_string(&g, "general.architecture", "llama");
        key_u32(&g, "split.tensors.count", 3);
    }
    key_u16(&g, "split.no", (uint16_t)no);
    key_u16(&g, "split.count", (uint16_t)count);
    matrix(&g, (const char *[]){"t0", "t1", "t2"}[no], 8, 1, 0, 0);
    finish(&g, name);
}

static void split_set_opens_as_one_model(void **state)
{
    (void)state;
    write_part("set-00001-of-00003.gguf", 0, 3);
    write_part("set-00002-of-00003.gguf", 1, 3);
    write_part("set-00003-of-00003.gguf", 2, 3);
    moe_file *f = open_ok("set-00001-of-00003.gguf");
    assert_int_equal(moe_file_n_tensors(f), 3);
    assert_string_equal(moe_file_meta_string(f, "general.architecture", ""), "llama");
    for (int i = 0; i < 3; i++) {
        const moe_tensor *t = moe_file_tensor(f, (const char *[]){"t0", "t1", "t2"}[i]);
        unsigned char bytes[32];
        assert_int_equal(t->part, i);
        assert_int_equal(moe_file_read(f, t, 0, 32, bytes, NULL), MOE_OK);
        assert_int_equal(bytes[31], 31);
    }
    moe_file_close(f);
}

static void incomplete_split_sets_are_refused(void **state)
{
    (void)state;
    write_part("set-00001-of-00003.gguf", 0, 3);
    write_part("set-00002-of-00003.gguf", 1, 3);
    write_part("set-00003-of-00003.gguf", 2, 3);
    open_fails("set-00002-of-00003.gguf", MOE_ERR_FORMAT, "is part 2 of a model split into 3 files",
               "\"set-00001-of-00003.gguf\"");
    write_part("renamed.gguf", 1, 3);
    open_fails("renamed.gguf", MOE_ERR_FORMAT, "is part 2", "-00001-of-00003.gguf");
    write_part("renamed.gguf", 0, 3);
    open_fails("renamed.gguf", MOE_ERR_FORMAT, "the first of 3 files", "-00001-of-00003.gguf");
    write_part("set-00003-of-00003.gguf", 1, 3);
    open_fails("set-00001-of-00003.gguf", MOE_ERR_FORMAT, "calls itself part 2 of 3, not 3 of 3",
               "different sets");
    assert_int_equal(unlink(at("set-00003-of-00003.gguf")), 0);
    open_fails("set-00001-of-00003.gguf", MOE_ERR_NOT_FOUND, "\"set-00003-of-00003.gguf\"",
               "Part 3 of 3 is missing");
    gguf g = {0};
    key_u16(&g, "split.no", 2);
    key_u16(&g, "split.count", 3);
    finish(&g, "set-00003-of-00003.gguf");
    open_fails("set-00001-of-00003.gguf", MOE_ERR_FORMAT, "hold 2 tensors in place of 3", "");
}

/* --- Hugging Face folders ------------------------------------------------------------------- */

static void folder_opens_with_json_and_tensors(void **state)
{
    (void)state;
    make_hf("{\"hidden_size\": 2, \"rope_scaling\": null}",
            "{\"__metadata__\":{\"format\":\"pt\"},"
            "\"m\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":[0,24]},"
            "\"s\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[24,26]},"
            "\"e\":{\"dtype\":\"I64\",\"shape\":[0,4],\"data_offsets\":[26,26]},"
            "\"f8\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[26,28]},"
            "\"conv\":{\"dtype\":\"U8\",\"shape\":[2,1,3,1,2],\"data_offsets\":[28,40]}}",
            40);
    make_folder("hf/1_Pooling");
    write_text("hf/1_Pooling/config.json", "{\"pooling_mode_mean_tokens\": true}");
    write_text("hf/modules.json", "[{\"idx\": 0}]");
    write_text("hf/config_sentence_transformers.json", "\xEF\xBB\xBF{\"prompts\": {}}");
    char path[128];
    snprintf(path, sizeof(path), "%s/hf//", root);
    moe_file *f;
    assert_int_equal(moe_file_open(path, &f, NULL), MOE_OK);
    assert_int_equal(moe_file_format_of(f), MOE_FILE_HF);
    assert_string_equal(moe_file_name(f), "hf");
    const json_t *config = moe_file_json(f, "config.json");
    assert_int_equal(json_integer_value(json_object_get(config, "hidden_size")), 2);
    assert_true(json_is_null(json_object_get(config, "rope_scaling")));
    assert_non_null(moe_file_json(f, "1_Pooling/config.json"));
    assert_true(json_is_array(moe_file_json(f, "modules.json")));
    assert_non_null(moe_file_json(f, "config_sentence_transformers.json"));
    assert_null(moe_file_json(f, "tokenizer.json"));
    assert_null(moe_file_json(f, "other.json"));
    assert_null(moe_file_meta(f, "general.architecture"));

    assert_int_equal(moe_file_n_tensors(f), 5);
    const moe_tensor *t = moe_file_tensor(f, "m");
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 2); /* columns first */
    assert_int_equal(t->dims[1], 3);
    unsigned char bytes[24];
    assert_int_equal(moe_file_read(f, t, 0, 24, bytes, NULL), MOE_OK);
    assert_int_equal(bytes[23], 23);
    t = moe_file_tensor(f, "s");
    assert_int_equal(t->n_dims, 0);
    assert_int_equal(t->dims[0], 1);
    assert_int_equal(t->type, MOE_TYPE_BF16);
    assert_int_equal(moe_file_tensor(f, "e")->size, 0);
    t = moe_file_tensor(f, "f8");
    assert_string_equal(t->type_name, "F8_E4M3");
    assert_false(moe_type_info_of(t->type)->computable);
    t = moe_file_tensor(f, "conv");
    assert_int_equal(t->n_dims, 4);
    assert_int_equal(t->dims[0], 2);
    assert_int_equal(t->dims[2], 3);
    assert_int_equal(t->dims[3], 2); /* 1 * 2: the outermost two in one */
    moe_file_close(f);
}

static void json_as_python_writes_it_is_read(void **state)
{
    (void)state;
    make_hf("{\"a\": NaN, \"b\": [-Infinity, Infinity], \"c\": \"NaN \\\" Infinity\",\n"
            " \"d\": 1000000000000000019884624838656, \"e\": -9223372036854775808,\n"
            " \"f\": 9223372036854775807, \"g\": -1e3, \"h\": \"12345678901234567890123\",\n"
            " \"i\": \"a\\u0000b\", \"j\": 12345678901234567890.5}",
            "{}", 0);
    moe_file *f = open_ok("hf");
    const json_t *c = moe_file_json(f, "config.json");
    assert_true(json_is_null(json_object_get(c, "a")));
    assert_true(json_is_null(json_array_get(json_object_get(c, "b"), 1)));
    assert_string_equal(json_string_value(json_object_get(c, "c")), "NaN \" Infinity");
    assert_true(json_is_real(json_object_get(c, "d")));
    assert_true(fabs(json_real_value(json_object_get(c, "d")) / 1e30 - 1) < 1e-12);
    assert_true(json_integer_value(json_object_get(c, "e")) == INT64_MIN);
    assert_true(json_integer_value(json_object_get(c, "f")) == INT64_MAX);
    assert_true(json_real_value(json_object_get(c, "g")) == -1000);
    assert_string_equal(json_string_value(json_object_get(c, "h")), "12345678901234567890123");
    assert_int_equal(json_string_length(json_object_get(c, "i")), 3);
    assert_true(json_is_real(json_object_get(c, "j")));
    moe_file_close(f);
}

static void chat_template_is_found_in_its_places(void **state)
{
    (void)state;
    make_hf("{}", "{}", 0);
    moe_file *f = open_ok("hf");
    assert_null(moe_file_chat_template(f));
    moe_file_close(f);
    static const struct {
        const char *config, *found;
    } cases[] = {
        {"{\"chat_template\": \"plain\"}", "plain"},
        {"{\"chat_template\": \"\"}", NULL},
        {"{\"chat_template\": null}", NULL},
        {"{\"chat_template\": 7}", NULL},
        {"{\"chat_template\": [{\"name\": \"rag\", \"template\": \"r\"},"
         " {\"name\": \"default\", \"template\": \"d\"}]}",
         "d"},
        {"{\"chat_template\": [7, {\"name\": \"rag\", \"template\": \"r\"}]}", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        write_text("hf/tokenizer_config.json", cases[i].config);
        f = open_ok("hf");
        if (cases[i].found == NULL)
            assert_null(moe_file_chat_template(f));
        else
            assert_string_equal(moe_file_chat_template(f), cases[i].found);
        moe_file_close(f);
    }
    write_text("hf/chat_template.jinja", "from jinja");
    f = open_ok("hf");
    assert_string_equal(moe_file_chat_template(f), "from jinja");
    moe_file_close(f);
    write_file("hf/chat_template.jinja", "a\0b", 3);
    open_fails("hf", MOE_ERR_FORMAT, "zero byte", "");
}

static void broken_safetensors_headers_are_refused(void **state)
{
    (void)state;
#define ONE(dtype, shape, offsets)                                                                 \
    "{\"x\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const struct {
        const char *header;
        moe_status status;
        const char *message;
    } cases[] = {
        {"[]", MOE_ERR_FORMAT, "is not a safetensors file"},
        {"{\"x\":", MOE_ERR_FORMAT, "is not valid JSON"},
        {"{\"x\":1}", MOE_ERR_FORMAT, "no proper dtype, shape and data_offsets"},
        {ONE("F32", "[2]", "[0]"), MOE_ERR_FORMAT, "no proper"},
        {ONE("F32", "[2]", "[8,0]"), MOE_ERR_FORMAT, "no proper"},
        {ONE("F32", "[2]", "[-8,0]"), MOE_ERR_FORMAT, "no proper"},
        {ONE("F32", "[2]", "[0,8.0]"), MOE_ERR_FORMAT, "no proper"},
        {ONE("F32", "[-2]", "[0,8]"), MOE_ERR_FORMAT, "no proper"},
        {ONE("F32", "2", "[0,8]"), MOE_ERR_FORMAT, "no proper"},
        {ONE("F32", "[4294967296,4294967296]", "[0,8]"), MOE_ERR_FORMAT, "no proper"},
        {ONE("F32", "[0,4294967296,4294967296]", "[0,0]"), MOE_ERR_FORMAT, "no proper"},
        {ONE("F32", "[4611686018427387904]", "[0,8]"), MOE_ERR_FORMAT, "does not fit its shape"},
        {ONE("F32", "[2]", "[0,4]"), MOE_ERR_FORMAT, "has 4 bytes, which does not fit"},
        {ONE("F32", "[3]", "[0,12]"), MOE_ERR_FORMAT, "tensor \"x\" ends at byte"},
        {ONE("F32", "[2]", "[9223372036854775799,9223372036854775807]"), MOE_ERR_FORMAT,
         "tensor \"x\" ends at byte"},
        {ONE("F99", "[2]", "[0,8]"), MOE_ERR_UNSUPPORTED, "unknown dtype \"F99\""},
        {ONE("Q4_0", "[32]", "[0,18]"), MOE_ERR_UNSUPPORTED, "unknown dtype \"Q4_0\""},
        {ONE("F4", "[3]", "[0,2]"), MOE_ERR_FORMAT, "does not fit"},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         MOE_ERR_FORMAT, "duplicate"},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"y\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         MOE_ERR_FORMAT, "overlap"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", MOE_ERR_FORMAT,
         "no proper"},
    };
#undef ONE
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        make_hf("{}", cases[i].header, 8);
        open_fails("hf", cases[i].status, cases[i].message, "");
    }
    make_hf("{}", "{}", 0);
    write_file("hf/model.safetensors", "\x40\0\0\0\0\0\0\0{\"x\":", 13);
    open_fails("hf", MOE_ERR_FORMAT, "ends at byte 72, beyond the file's end at 13", "truncated");
    write_file("hf/model.safetensors", "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10);
    open_fails("hf", MOE_ERR_FORMAT, "is not a safetensors file", "");
    write_file("hf/model.safetensors", "x", 1);
    open_fails("hf", MOE_ERR_FORMAT, "is not a safetensors file", "");
    write_text("hf/model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
    open_fails("hf", MOE_ERR_FORMAT, "Git LFS pointer", "git lfs pull");
}

static void broken_folders_are_refused(void **state)
{
    (void)state;
    make_folder("hf");
    open_fails("hf", MOE_ERR_FORMAT, "folder \"hf\" has no config.json", "Hugging Face folder");
    write_text("hf/m-Q4_K_M.gguf", "GGUF");
    open_fails("hf", MOE_ERR_FORMAT, "has no config.json", "\"m-Q4_K_M.gguf\"");
    write_text("hf/config.json", "{}");
    open_fails("hf", MOE_ERR_FORMAT, "has no model.safetensors", "\"m-Q4_K_M.gguf\"");
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "\"config.json\" is empty"},
        {"{", "\"config.json\" is not valid JSON"},
        {"{\"a\": \"\xFF\"}", "\"config.json\" is not valid JSON"},
        {"[]", "\"config.json\" is not a JSON object"},
        {"{\"a\": NaNa}", "\"config.json\" is not valid JSON"},
        {"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"},
        {"<!doctype html>", "web page"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        make_hf(cases[i].text, "{}", 0);
        open_fails("hf", MOE_ERR_FORMAT, cases[i].message, "");
    }
    char deep[20001];
    memset(deep, '[', sizeof(deep) - 1);
    deep[sizeof(deep) - 1] = '\0';
    make_hf(deep, "{}", 0);
    open_fails("hf", MOE_ERR_FORMAT, "not valid JSON", "");
    make_hf("{}", "{}", 0);
    assert_int_equal(truncate(at("hf/config.json"), (off_t)257 << 20), 0);
    open_fails("hf", MOE_ERR_FORMAT, "more than the 268435456 allowed", "");
}

static void write_shards(void)
{
    make_folder("hf");
    write_text("hf/config.json", "{}");
    write_safetensors("hf/model-1.safetensors",
                      "{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4);
    write_safetensors("hf/model-2.safetensors",
                      "{\"y\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", 8);
    write_text(
        "hf/model.safetensors.index.json",
        "{\"weight_map\": {\"y\": \"model-2.safetensors\", \"x\": \"model-1.safetensors\"}}");
}

static void sharded_folder_opens_as_one_model(void **state)
{
    (void)state;
    write_shards();
    moe_file *f = open_ok("hf");
    assert_int_equal(moe_file_n_tensors(f), 2);
    assert_int_equal(moe_file_tensor(f, "x")->part, 0);
    assert_int_equal(moe_file_tensor(f, "y")->part, 1);
    unsigned char bytes[8];
    assert_int_equal(moe_file_read(f, moe_file_tensor(f, "y"), 0, 8, bytes, NULL), MOE_OK);
    assert_int_equal(bytes[7], 7);
    moe_file_close(f);
}

static void broken_shards_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *index;
        moe_status status;
        const char *message;
    } cases[] = {
        {"{}", MOE_ERR_FORMAT, "has no weight_map"},
        {"{\"weight_map\": {}}", MOE_ERR_FORMAT, "has no weight_map"},
        {"{\"weight_map\": {\"x\": 1}}", MOE_ERR_FORMAT, "no proper file name"},
        {"{\"weight_map\": {\"x\": \"../model-1.safetensors\"}}", MOE_ERR_FORMAT, "no proper"},
        {"{\"weight_map\": {\"x\": \"/etc/x.safetensors\"}}", MOE_ERR_FORMAT, "no proper"},
        {"{\"weight_map\": {\"x\": \"config.json\"}}", MOE_ERR_FORMAT, "no proper"},
        {"{\"weight_map\": {\"x\": \"model-1.safetensors\", \"z\": \"model-1.safetensors\"}}",
         MOE_ERR_FORMAT, "tensor \"z\" is not in file \"model-1.safetensors\""},
        {"{\"weight_map\": {\"x\": \"model-2.safetensors\", \"y\": \"model-1.safetensors\"}}",
         MOE_ERR_FORMAT, "where the index puts it"},
        {"{\"weight_map\": {\"x\": \"model-3.safetensors\"}}", MOE_ERR_NOT_FOUND,
         "\"model-3.safetensors\" does not exist"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        write_shards();
        write_text("hf/model.safetensors.index.json", cases[i].index);
        open_fails("hf", cases[i].status, cases[i].message, "");
    }
    write_shards();
    write_safetensors("hf/model-2.safetensors",
                      "{\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4);
    open_fails("hf", MOE_ERR_FORMAT, "tensor \"x\" occurs twice", "");
}

/* --- digests and stamps --------------------------------------------------------------------- */

static void expect_digest(const char *name, const char *wanted)
{
    char hex[65];
    moe_error err = {0};
    if (moe_model_digest(at(name), NULL, hex, &err) != MOE_OK)
        fail_msg("%s: %s", name, err.message);
    assert_string_equal(hex, wanted);
}

static void digest_of_gguf_is_that_of_its_bytes(void **state)
{
    (void)state;
    write_text("d.gguf", "abc"); /* FIPS 180-2, appendix B.1 */
    expect_digest("d.gguf", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    write_text("d-00001-of-00002.gguf", "a");
    write_text("d-00002-of-00002.gguf", "bc");
    expect_digest("d-00001-of-00002.gguf",
                  "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    char hex[65];
    moe_error err;
    assert_int_equal(moe_model_digest(at("d-00002-of-00002.gguf"), NULL, hex, &err),
                     MOE_ERR_FORMAT);
    assert_non_null(strstr(err.hint, "\"d-00001-of-00002.gguf\""));
    assert_int_equal(unlink(at("d-00002-of-00002.gguf")), 0);
    assert_int_equal(moe_model_digest(at("d-00001-of-00002.gguf"), NULL, hex, &err),
                     MOE_ERR_NOT_FOUND);
    assert_int_equal(moe_model_digest(at("absent.gguf"), NULL, hex, NULL), MOE_ERR_NOT_FOUND);
}

static void digest_of_folder_covers_what_is_read(void **state)
{
    (void)state;
    make_folder("hf");
    write_text("hf/config.json", "abc");
    write_text("hf/model.safetensors", "");
    /* SHA-256 of the two lines
     * "config.json 3 ba7816bf…15ad" and "model.safetensors 0 e3b0c442…b855" */
    const char *wanted = "a135daa5763ca66ae8062c0ed17ed928c0bbe4131f649085fd0e7f0447fcfb82";
    expect_digest("hf", wanted);
    write_text("hf/README.md", "not read by the engine");
    write_text("hf/other.safetensors", "not read either");
    expect_digest("hf", wanted);
    char first[65], second[65];
    write_shards();
    assert_int_equal(moe_model_digest(at("hf"), NULL, first, NULL), MOE_OK);
    write_safetensors("hf/model-2.safetensors", "{}", 8);
    assert_int_equal(moe_model_digest(at("hf"), NULL, second, NULL), MOE_OK);
    assert_string_not_equal(first, second);
}

static bool count_down(void *ud)
{
    return --*(int *)ud < 0;
}

static void digest_can_be_cancelled(void **state)
{
    (void)state;
    write_text("big.gguf", "");
    assert_int_equal(truncate(at("big.gguf"), 20 << 20), 0);
    int left = 3;
    moe_cancel cancel = {count_down, &left};
    char hex[65];
    moe_error err;
    assert_int_equal(moe_model_digest(at("big.gguf"), &cancel, hex, &err), MOE_ERR_CANCELLED);
    assert_int_equal(left, -1);
    assert_string_equal(hex, "");
}

static void stamp_changes_with_size_and_time(void **state)
{
    (void)state;
    char first[64], second[64], tiny[8];
    moe_error err;
    write_text("s.gguf", "abc");
    assert_int_equal(moe_model_stamp(at("s.gguf"), first, sizeof(first), &err), MOE_OK);
    assert_int_equal(moe_model_stamp(at("s.gguf"), second, sizeof(second), &err), MOE_OK);
    assert_string_equal(first, second);
    struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000, .tv_nsec = 1}};
    assert_int_equal(utimensat(AT_FDCWD, at("s.gguf"), times, 0), 0);
    assert_int_equal(moe_model_stamp(at("s.gguf"), second, sizeof(second), &err), MOE_OK);
    assert_string_not_equal(first, second);
    assert_int_equal(moe_model_stamp(at("s.gguf"), tiny, sizeof(tiny), &err), MOE_ERR_INVALID);
    assert_int_equal(moe_model_stamp(at("absent"), first, sizeof(first), &err), MOE_ERR_NOT_FOUND);

    write_part("set-00001-of-00003.gguf", 0, 3);
    write_part("set-00002-of-00003.gguf", 1, 3);
    write_part("set-00003-of-00003.gguf", 2, 3);
    assert_int_equal(moe_model_stamp(at("set-00001-of-00003.gguf"), first, sizeof(first), &err),
                     MOE_OK);
    assert_int_equal(utimensat(AT_FDCWD, at("set-00003-of-00003.gguf"), times, 0), 0);
    assert_int_equal(moe_model_stamp(at("set-00001-of-00003.gguf"), second, sizeof(second), &err),
                     MOE_OK);
    assert_string_not_equal(first, second);

    write_shards();
    static const char *const members[] = {"hf/config.json", "hf/model-2.safetensors",
                                          "hf/model.safetensors.index.json"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(moe_model_stamp(at("hf"), first, sizeof(first), &err), MOE_OK);
        assert_int_equal(utimensat(AT_FDCWD, at(members[i]), times, 0), 0);
        assert_int_equal(moe_model_stamp(at("hf"), second, sizeof(second), &err), MOE_OK);
        assert_string_not_equal(first, second);
    }
    write_text("hf/tokenizer.json", "{}"); /* a file that appears counts too */
    assert_int_equal(moe_model_stamp(at("hf"), first, sizeof(first), &err), MOE_OK);
    assert_string_not_equal(first, second);
}

/* --- shared models -------------------------------------------------------------------------- */

/* Opens a model and reads every byte of every tensor. */
static void read_whole_model(const char *path)
{
    moe_file *f;
    moe_error err = {0};
    if (moe_file_open(path, &f, &err) != MOE_OK)
        fail_msg("%s: %s", path, err.message);
    for (size_t i = 0; i < moe_file_n_tensors(f); i++) {
        const moe_tensor *t = moe_file_tensor_at(f, i);
        assert_ptr_equal(moe_file_tensor(f, t->name), t);
        char *data = malloc(t->size + 1);
        assert_non_null(data);
        assert_int_equal(moe_file_read(f, t, 0, t->size, data, &err), MOE_OK);
        free(data);
    }
    moe_file_close(f);
}

/* Reads the models in a folder: GGUF files, and Hugging Face folders. */
static int read_models_below(const char *folder, int depth)
{
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return 0;
    int n = 0;
    bool is_hf = false;
    struct dirent *entry;
    char path[1024];
    while ((entry = readdir(dir)) != NULL) {
        size_t len = strlen(entry->d_name);
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (len > 5 && strcmp(entry->d_name + len - 5, ".gguf") == 0) {
            read_whole_model(path);
            n++;
        }
        is_hf = is_hf || strcmp(entry->d_name, "model.safetensors") == 0;
        if (depth > 0 && entry->d_name[0] != '.')
            n += read_models_below(path, depth - 1);
    }
    closedir(dir);
    snprintf(path, sizeof(path), "%s/config.json", folder);
    if (is_hf && access(path, R_OK) == 0) {
        read_whole_model(folder);
        n++;
    }
    return n;
}

static void shared_models_open_and_read(void **state)
{
    (void)state;
    const char *shared = getenv("MOE_SHARED");
    char path[512];
    static const char *const folders[] = {"fixtures", "vocab", "models"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", shared == NULL ? "../shared" : shared, folders[i]);
        if (access(path, R_OK) != 0) {
            printf("skipped: %s is absent\n", path);
            continue;
        }
        assert_true(read_models_below(path, 2) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_metadata_of_every_kind_is_read),
        cmocka_unit_test(gguf_long_arrays_cross_the_read_buffer),
        cmocka_unit_test(gguf_tensors_are_found_and_read),
        cmocka_unit_test(broken_gguf_files_are_refused),
        cmocka_unit_test(truncated_gguf_names_the_tensor),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(other_contents_are_told_apart),
        cmocka_unit_test(things_that_are_not_files_are_refused_at_once),
        cmocka_unit_test(pieces_and_parts_of_models_get_a_hint),
        cmocka_unit_test(split_set_opens_as_one_model),
        cmocka_unit_test(incomplete_split_sets_are_refused),
        cmocka_unit_test(folder_opens_with_json_and_tensors),
        cmocka_unit_test(json_as_python_writes_it_is_read),
        cmocka_unit_test(chat_template_is_found_in_its_places),
        cmocka_unit_test(broken_safetensors_headers_are_refused),
        cmocka_unit_test(broken_folders_are_refused),
        cmocka_unit_test(sharded_folder_opens_as_one_model),
        cmocka_unit_test(broken_shards_are_refused),
        cmocka_unit_test(digest_of_gguf_is_that_of_its_bytes),
        cmocka_unit_test(digest_of_folder_covers_what_is_read),
        cmocka_unit_test(digest_can_be_cancelled),
        cmocka_unit_test(stamp_changes_with_size_and_time),
        cmocka_unit_test(shared_models_open_and_read),
    };
    return cmocka_run_group_tests_name("file", tests, make_root, drop_root);
}
