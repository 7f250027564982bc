/*
 * Writes a GGUF file with the shapes of a mixture-of-experts model and random weights, to measure
 * speed with: a program does the work and reads the bytes that a real model of this shape asks for,
 * and the text it generates means nothing.
 *
 *   random_gguf qwen3moe|deepseek2 FILE [layers [embedding [experts [vocabulary]]]]
 *
 * qwen3moe   grouped-query attention with q and k norms; every layer has experts, 8 are used
 * deepseek2  the latent attention, sigmoid router with selection bias and groups, shared expert and
 *            dense first layer of DeepSeek-V3
 *
 * Types are those of usual Q4_K files: norms, biases and routers f32, the output head Q6_K, rows
 * that no K-quant can hold Q8_0.  The scales keep the weights near 0.02, so that a forward pass
 * stays finite.  The vocabulary is byte-level: 256 bytes, one merge, an end token, unused entries.
 *
 * Keys, tensor infos and data are three passes over one list; the first two go to memory, because
 * the header counts them.
 */
#include "types.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 32, MAX_TENSORS = 4096, HEAD = 128, POOL_BLOCKS = 4096 };
enum { KIND_U32 = 4, KIND_I32 = 5, KIND_F32 = 6, KIND_BOOL = 7, KIND_STRING = 8, KIND_ARRAY = 9 };

typedef struct shape {
    const char *arch;
    int layers, embd, experts, vocab; /* from the command line */
    int heads, used, expert_ff;
    int kv_heads;                                             /* qwen3moe */
    int q_lora, kv_lora, rope, dense_ff, groups, groups_used; /* deepseek2 */
} shape;

typedef struct tensor {
    char name[64];
    moe_type type;
    uint32_t n_dims;
    int64_t dims[3]; /* row length first */
    bool ones;       /* a norm */
} tensor;

static tensor tensors[MAX_TENSORS];
static int n_tensors;

static void *fail(const char *what)
{
    fprintf(stderr, "random_gguf: %s\n", what);
    exit(1);
}

static uint64_t random_bits(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15u; /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

/* --- keys ------------------------------------------------------------------------------------- */

static FILE *keys;
static uint64_t n_keys;
static const char *arch;

static void put_u32(FILE *to, uint32_t value)
{
    fwrite(&value, sizeof value, 1, to);
}

static void put_u64(FILE *to, uint64_t value)
{
    fwrite(&value, sizeof value, 1, to);
}

static void put_string(FILE *to, const char *text)
{
    put_u64(to, strlen(text));
    fputs(text, to);
}

/* name without a known prefix belongs to the architecture */
static void put_key(const char *name, uint32_t kind)
{
    char key[96];
    bool global = strncmp(name, "general.", 8) == 0 || strncmp(name, "tokenizer.", 10) == 0;

    snprintf(key, sizeof key, "%s%s%s", global ? "" : arch, global ? "" : ".", name);
    put_string(keys, key);
    put_u32(keys, kind);
    n_keys++;
}

static void key_int(const char *name, int value)
{
    put_key(name, KIND_U32);
    put_u32(keys, (uint32_t)value);
}

static void key_float(const char *name, float value)
{
    put_key(name, KIND_F32);
    fwrite(&value, sizeof value, 1, keys);
}

static void key_bool(const char *name, bool value)
{
    put_key(name, KIND_BOOL);
    putc(value, keys);
}

static void key_string(const char *name, const char *value)
{
    put_key(name, KIND_STRING);
    put_string(keys, value);
}

static void key_array(const char *name, uint32_t kind, int n)
{
    put_key(name, KIND_ARRAY);
    put_u32(keys, kind);
    put_u64(keys, (uint64_t)n);
}

/* GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others for U+0100 and up. */
static void describe_vocabulary(int n)
{
    enum { BYTES = 256, MERGED = BYTES, END, FIRST_UNUSED, NORMAL = 1, CONTROL = 3, UNUSED = 5 };
    int next = 0x100;

    key_string("tokenizer.ggml.model", "gpt2");
    key_string("tokenizer.ggml.pre", "gpt-2");
    key_array("tokenizer.ggml.tokens", KIND_STRING, n);
    for (int b = 0; b < BYTES; b++) {
        bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
        int c = printable ? b : next++;
        char text[3] = {(char)c};

        if (c >= 0x80) {
            text[0] = (char)(0xc0 | c >> 6);
            text[1] = (char)(0x80 | (c & 0x3f));
        }
        put_string(keys, text);
    }
    put_string(keys, "\u0120t");
    put_string(keys, "<|endoftext|>");
    for (int i = FIRST_UNUSED; i < n; i++) {
        char text[32];

        snprintf(text, sizeof text, "<unused%d>", i);
        put_string(keys, text);
    }
    key_array("tokenizer.ggml.token_type", KIND_I32, n);
    for (int i = 0; i < n; i++)
        put_u32(keys, i == END ? CONTROL : i > END ? UNUSED : NORMAL);
    key_array("tokenizer.ggml.merges", KIND_STRING, 1);
    put_string(keys, "\u0120 t");
    key_int("tokenizer.ggml.eos_token_id", END);
    key_bool("tokenizer.ggml.add_bos_token", false);
}

static void describe(const shape *s)
{
    enum { MOSTLY_Q4_K = 15, SIGMOID = 2 };

    key_string("general.architecture", s->arch);
    key_string("general.name", "random weights");
    key_int("general.file_type", MOSTLY_Q4_K);
    key_int("block_count", s->layers);
    key_int("context_length", 32768);
    key_int("embedding_length", s->embd);
    key_int("vocab_size", s->vocab);
    key_int("attention.head_count", s->heads);
    key_float("attention.layer_norm_rms_epsilon", 1e-6f);
    key_float("rope.freq_base", 10000);
    key_int("expert_count", s->experts);
    key_int("expert_used_count", s->used);
    key_int("expert_feed_forward_length", s->expert_ff);
    if (s->kv_lora == 0) {
        key_int("feed_forward_length", s->expert_ff);
        key_int("attention.head_count_kv", s->kv_heads);
        key_int("attention.key_length", HEAD);
        key_int("attention.value_length", HEAD);
    } else {
        key_int("feed_forward_length", s->dense_ff);
        key_int("leading_dense_block_count", 1);
        key_int("attention.head_count_kv", 1);
        key_int("attention.q_lora_rank", s->q_lora);
        key_int("attention.kv_lora_rank", s->kv_lora);
        key_int("attention.key_length", s->kv_lora + s->rope);
        key_int("attention.value_length", s->kv_lora);
        key_int("attention.key_length_mla", HEAD + s->rope);
        key_int("attention.value_length_mla", HEAD);
        key_int("rope.dimension_count", s->rope);
        key_int("expert_shared_count", 1);
        key_int("expert_gating_func", SIGMOID);
        key_int("expert_group_count", s->groups);
        key_int("expert_group_used_count", s->groups_used);
        key_bool("expert_weights_norm", true);
        key_float("expert_weights_scale", 2.5f);
    }
    describe_vocabulary(s->vocab);
}

/* --- tensors ---------------------------------------------------------------------------------- */

/* layer < 0: a tensor of the whole model.  Zeros end the dimensions. */
static tensor *add(int layer, const char *name, moe_type type, int64_t columns, int64_t rows,
                   int64_t mats)
{
    tensor *t = n_tensors < MAX_TENSORS ? &tensors[n_tensors++] : fail("too many layers");

    if (layer < 0)
        snprintf(t->name, sizeof t->name, "%s", name);
    else
        snprintf(t->name, sizeof t->name, "blk.%d.%s", layer, name);
    if (columns % moe_type_info_of(type)->block_columns != 0)
        type = MOE_TYPE_Q8_0;
    t->type = type;
    t->n_dims = mats > 0 ? 3 : rows > 0 ? 2 : 1;
    t->dims[0] = columns;
    t->dims[1] = rows > 0 ? rows : 1;
    t->dims[2] = mats > 0 ? mats : 1;
    return t;
}

static void matrix(int layer, const char *name, int64_t columns, int64_t rows, int64_t mats)
{
    add(layer, name, MOE_TYPE_Q4_K, columns, rows, mats);
}

static void norm(int layer, const char *name, int64_t n)
{
    add(layer, name, MOE_TYPE_F32, n, 0, 0)->ones = true;
}

static void list_tensors(const shape *s)
{
    matrix(-1, "token_embd.weight", s->embd, s->vocab, 0);
    norm(-1, "output_norm.weight", s->embd);
    add(-1, "output.weight", MOE_TYPE_Q6_K, s->embd, s->vocab, 0);
    for (int l = 0; l < s->layers; l++) {
        norm(l, "attn_norm.weight", s->embd);
        norm(l, "ffn_norm.weight", s->embd);
        matrix(l, "attn_output.weight", s->heads * HEAD, s->embd, 0);
        if (s->kv_lora == 0) {
            matrix(l, "attn_q.weight", s->embd, s->heads * HEAD, 0);
            matrix(l, "attn_k.weight", s->embd, s->kv_heads * HEAD, 0);
            matrix(l, "attn_v.weight", s->embd, s->kv_heads * HEAD, 0);
            norm(l, "attn_q_norm.weight", HEAD);
            norm(l, "attn_k_norm.weight", HEAD);
        } else {
            matrix(l, "attn_q_a.weight", s->embd, s->q_lora, 0);
            norm(l, "attn_q_a_norm.weight", s->q_lora);
            matrix(l, "attn_q_b.weight", s->q_lora, s->heads * (HEAD + s->rope), 0);
            matrix(l, "attn_kv_a_mqa.weight", s->embd, s->kv_lora + s->rope, 0);
            norm(l, "attn_kv_a_norm.weight", s->kv_lora);
            matrix(l, "attn_k_b.weight", HEAD, s->kv_lora, s->heads);
            matrix(l, "attn_v_b.weight", s->kv_lora, HEAD, s->heads);
        }
        if (s->kv_lora != 0 && l == 0) {
            matrix(l, "ffn_gate.weight", s->embd, s->dense_ff, 0);
            matrix(l, "ffn_up.weight", s->embd, s->dense_ff, 0);
            matrix(l, "ffn_down.weight", s->dense_ff, s->embd, 0);
            continue;
        }
        add(l, "ffn_gate_inp.weight", MOE_TYPE_F32, s->embd, s->experts, 0);
        matrix(l, "ffn_gate_exps.weight", s->embd, s->expert_ff, s->experts);
        matrix(l, "ffn_up_exps.weight", s->embd, s->expert_ff, s->experts);
        matrix(l, "ffn_down_exps.weight", s->expert_ff, s->embd, s->experts);
        if (s->kv_lora != 0) {
            add(l, "exp_probs_b.bias", MOE_TYPE_F32, s->experts, 0, 0);
            matrix(l, "ffn_gate_shexp.weight", s->embd, s->expert_ff, 0);
            matrix(l, "ffn_up_shexp.weight", s->embd, s->expert_ff, 0);
            matrix(l, "ffn_down_shexp.weight", s->expert_ff, s->embd, 0);
        }
    }
}

static size_t tensor_bytes(const tensor *t)
{
    return moe_type_row_bytes(moe_type_info_of(t->type), t->dims[0]) *
           (size_t)(t->dims[1] * t->dims[2]);
}

static size_t padding(size_t size)
{
    return (ALIGNMENT - size % ALIGNMENT) % ALIGNMENT;
}

/* Random bytes are valid quants of every type; only scales need a value that makes sense, here
 * powers of two in half precision. */
static void fill_block(unsigned char *block, const tensor *t, size_t size)
{
    static const float one = 1;

    for (size_t i = 0; i < size; i++)
        block[i] = (unsigned char)(random_bits() >> 32);
    switch (t->type) {
    case MOE_TYPE_Q4_K: /* 2^-13 for the scales, 2^-10 for the minima */
        memcpy(block, (const uint16_t[]){0x0800, 0x1400}, 4);
        break;
    case MOE_TYPE_Q6_K: /* positive 8-bit scales of 32 to 63, times 2^-15 */
        for (int i = 192; i < 208; i++)
            block[i] = 32 | (block[i] & 31);
        memcpy(block + 208, (const uint16_t[]){0x0200}, 2);
        break;
    case MOE_TYPE_Q8_0: /* 2^-12 */
        memcpy(block, (const uint16_t[]){0x0c00}, 2);
        break;
    default: { /* f32 */
        float value = (float)(int32_t)random_bits() * (0.035f / 2147483648.0f);

        memcpy(block, t->ones ? &one : &value, sizeof value);
    }
    }
}

/* A few thousand blocks over and over, which no kernel can tell from new ones; but every number of
 * a float32 tensor is new, lest rows of a router be equal and experts tie. */
static void write_data(FILE *out, const tensor *t)
{
    static const char zeros[ALIGNMENT];
    const size_t block = (size_t)moe_type_info_of(t->type)->block_bytes;
    const size_t all = tensor_bytes(t), most = POOL_BLOCKS * block;
    const size_t pool_size = t->type == MOE_TYPE_F32 || all < most ? all : most;
    unsigned char *pool = malloc(pool_size);

    if (!pool)
        fail("out of memory");
    for (size_t at = 0; at < pool_size; at += block)
        fill_block(pool + at, t, block);
    for (size_t left = all; left > 0; left -= left < pool_size ? left : pool_size)
        fwrite(pool, 1, left < pool_size ? left : pool_size, out);
    fwrite(zeros, 1, padding(all), out);
    free(pool);
}

static void set(int *value, const char *text, int multiple)
{
    *value = atoi(text);
    if (*value <= 0 || *value > 1 << 20 || *value % multiple != 0) {
        fprintf(stderr, "random_gguf: %s is not a positive multiple of %d\n", text, multiple);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    static const shape shapes[] = {
        {.arch = "qwen3moe",
         .layers = 3,
         .embd = 1024,
         .experts = 96,
         .vocab = 32768,
         .heads = 16,
         .used = 8,
         .expert_ff = 512,
         .kv_heads = 4},
        {.arch = "deepseek2",
         .layers = 3,
         .embd = 1024,
         .experts = 96,
         .vocab = 32768,
         .heads = 8,
         .used = 8,
         .expert_ff = 512,
         .q_lora = 512,
         .kv_lora = 512,
         .rope = 64,
         .dense_ff = 2048,
         .groups = 8,
         .groups_used = 4},
    };
    shape s = {0};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (argc > 2 && strcmp(argv[1], shapes[i].arch) == 0)
            s = shapes[i];
    }
    if (!s.arch || argc > 7) {
        fprintf(stderr, "usage: random_gguf qwen3moe|deepseek2 FILE [layers [embedding [experts "
                        "[vocabulary]]]]\n");
        return 2;
    }
    if (argc > 3)
        set(&s.layers, argv[3], 1);
    if (argc > 4)
        set(&s.embd, argv[4], 256);
    if (argc > 5)
        set(&s.experts, argv[5], 16);
    if (argc > 6)
        set(&s.vocab, argv[6], 512);

    char *key_bytes, *info_bytes;
    size_t key_size, info_size;
    uint64_t offset = 0;
    arch = s.arch;
    keys = open_memstream(&key_bytes, &key_size);
    FILE *infos = open_memstream(&info_bytes, &info_size);
    if (!keys || !infos)
        fail("out of memory");
    describe(&s);
    list_tensors(&s);
    for (int i = 0; i < n_tensors; i++) {
        const tensor *t = &tensors[i];

        put_string(infos, t->name);
        put_u32(infos, t->n_dims);
        for (uint32_t d = 0; d < t->n_dims; d++)
            put_u64(infos, (uint64_t)t->dims[d]);
        put_u32(infos, (uint32_t)t->type);
        put_u64(infos, offset);
        offset += tensor_bytes(t) + padding(tensor_bytes(t));
    }
    if (fclose(keys) || fclose(infos))
        fail("out of memory");

    FILE *out = fopen(argv[2], "wb");
    if (!out)
        fail("the file cannot be opened");
    fputs("GGUF", out);
    put_u32(out, 3);
    put_u64(out, (uint64_t)n_tensors);
    put_u64(out, n_keys);
    fwrite(key_bytes, 1, key_size, out);
    fwrite(info_bytes, 1, info_size, out);
    for (size_t pad = padding(4 + 4 + 8 + 8 + key_size + info_size); pad > 0; pad--)
        putc(0, out);
    for (int i = 0; i < n_tensors; i++)
        write_data(out, &tensors[i]);
    if (ferror(out) | fclose(out)) {
        remove(argv[2]);
        fail("the file cannot be written");
    }
    free(key_bytes);
    free(info_bytes);
    return 0;
}
