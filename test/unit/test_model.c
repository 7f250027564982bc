/*
 * Model descriptions and weights: what the families read from keys and
 * config.json, which tensors they ask for, and what they say about broken
 * files.  The models are written by the test itself.
 */
#include "model_draft.h"

enum { EMBD = 64, HEADS = 2, FF = 96, VOCAB = 40, EXPERTS = 4, EXPERT_FF = 32 };

/* Keys that all GGUF drafts have. */
static draft *draft_start(const char *arch, int n_layers)
{
    draft *d = calloc(1, sizeof *d);

    assert_non_null(d);
    snprintf(d->arch, sizeof d->arch, "%s", arch);
    set_string(d, "!general.architecture", arch);
    set_string(d, "!general.name", "tiny");
    set_int(d, "block_count", n_layers);
    set_int(d, "context_length", 128);
    set_int(d, "embedding_length", EMBD);
    set_int(d, "feed_forward_length", FF);
    set_int(d, "attention.head_count", HEADS);
    set_float(d, "attention.layer_norm_rms_epsilon", 1e-6);
    add_blob(d, MOE_TYPE_F16, EMBD, VOCAB, 0, "token_embd.weight");
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "output_norm.weight");
    return d;
}

static void add_dense(draft *d, int layer)
{
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "blk.%d.ffn_norm.weight", layer);
    add_blob(d, MOE_TYPE_F16, EMBD, FF, 0, "blk.%d.ffn_gate.weight", layer);
    add_blob(d, MOE_TYPE_F16, EMBD, FF, 0, "blk.%d.ffn_up.weight", layer);
    add_blob(d, MOE_TYPE_F16, FF, EMBD, 0, "blk.%d.ffn_down.weight", layer);
}

static void add_gqa(draft *d, int layer)
{
    static const char *const names[] = {"attn_q", "attn_k", "attn_v", "attn_output"};

    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "blk.%d.attn_norm.weight", layer);
    for (int i = 0; i < 4; i++)
        add_blob(d, MOE_TYPE_Q8_0, EMBD, EMBD, 0, "blk.%d.%s.weight", layer, names[i]);
}

static draft *draft_llama(void)
{
    draft *d = draft_start("llama", 2);

    for (int i = 0; i < 2; i++) {
        add_gqa(d, i);
        add_dense(d, i);
    }
    return d;
}

/* One dense and one MoE layer; n_experts as DeepSeek's variants are told apart
 * by it. */
static draft *draft_deepseek(int n_experts, bool bias)
{
    enum { Q_RANK = 32, RANK = 64, NOPE = 32, ROPE = 16, V = 24 };
    draft *d = draft_start("deepseek2", 2);

    set_int(d, "attention.head_count_kv", HEADS); /* the older files */
    set_int(d, "attention.key_length", NOPE + ROPE);
    set_int(d, "attention.value_length", V);
    set_int(d, "attention.q_lora_rank", Q_RANK);
    set_int(d, "attention.kv_lora_rank", RANK);
    set_int(d, "rope.dimension_count", ROPE);
    set_int(d, "expert_count", n_experts);
    set_int(d, "expert_used_count", 2);
    set_int(d, "expert_feed_forward_length", EXPERT_FF);
    set_int(d, "expert_shared_count", 1);
    set_int(d, "leading_dense_block_count", 1);
    for (int i = 0; i < 2; i++) {
        add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "blk.%d.attn_norm.weight", i);
        add_blob(d, MOE_TYPE_F16, EMBD, Q_RANK, 0, "blk.%d.attn_q_a.weight", i);
        add_blob(d, MOE_TYPE_F32, Q_RANK, 0, 0, "blk.%d.attn_q_a_norm.weight", i);
        add_blob(d, MOE_TYPE_F16, Q_RANK, HEADS * (NOPE + ROPE), 0, "blk.%d.attn_q_b.weight", i);
        add_blob(d, MOE_TYPE_F16, EMBD, RANK + ROPE, 0, "blk.%d.attn_kv_a_mqa.weight", i);
        add_blob(d, MOE_TYPE_F32, RANK, 0, 0, "blk.%d.attn_kv_a_norm.weight", i);
        add_blob(d, i == 0 ? MOE_TYPE_Q8_0 : MOE_TYPE_BF16, RANK, HEADS * (NOPE + V), 0,
                 "blk.%d.attn_kv_b.weight", i);
        add_blob(d, MOE_TYPE_F16, HEADS * V, EMBD, 0, "blk.%d.attn_output.weight", i);
    }
    add_dense(d, 0);
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "blk.1.ffn_norm.weight");
    add_blob(d, MOE_TYPE_F32, EMBD, n_experts, 0, "blk.1.ffn_gate_inp.weight");
    if (bias)
        add_blob(d, MOE_TYPE_F32, n_experts, 0, 0, "blk.1.exp_probs_b.bias");
    add_blob(d, MOE_TYPE_Q8_0, EMBD, EXPERT_FF, n_experts, "blk.1.ffn_gate_exps.weight");
    add_blob(d, MOE_TYPE_Q8_0, EMBD, EXPERT_FF, n_experts, "blk.1.ffn_up_exps.weight");
    add_blob(d, MOE_TYPE_Q4_0, EXPERT_FF, EMBD, n_experts, "blk.1.ffn_down_exps.weight");
    add_blob(d, MOE_TYPE_F16, EMBD, EXPERT_FF, 0, "blk.1.ffn_gate_shexp.weight");
    add_blob(d, MOE_TYPE_F16, EMBD, EXPERT_FF, 0, "blk.1.ffn_up_shexp.weight");
    add_blob(d, MOE_TYPE_F16, EXPERT_FF, EMBD, 0, "blk.1.ffn_down_shexp.weight");
    return d;
}

static void older_deepseek_files_get_the_published_routing(void **state)
{
    static const struct {
        int n_experts;
        bool bias;
        moe_router_score score;
        int n_groups, n_groups_used;
    } cases[] = {
        {256, true, MOE_ROUTER_SIGMOID, 8, 4},  /* V3, R1 */
        {160, false, MOE_ROUTER_SOFTMAX, 8, 3}, /* V2 */
        {64, false, MOE_ROUTER_SOFTMAX, 1, 1},  /* V2-Lite */
        {384, true, MOE_ROUTER_SIGMOID, 1, 1},  /* Kimi-K2 */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        draft *d = draft_deepseek(cases[i].n_experts, cases[i].bias);
        opened *m = model_open(write_gguf(d));

        assert_int_equal(m->spec.moe.score, cases[i].score);
        assert_int_equal(m->spec.moe.n_groups, cases[i].n_groups);
        assert_int_equal(m->spec.moe.n_groups_used, cases[i].n_groups_used);
        assert_int_equal(m->spec.moe.group_score,
                         cases[i].bias ? MOE_GROUP_TOP2_SUM : MOE_GROUP_MAX);
        assert_true(m->spec.moe.scale == 1.0);
        model_close(m);
        free(d);
    }
}

static void unsplit_kv_b_becomes_k_b_and_v_b(void **state)
{
    draft *d = draft_deepseek(EXPERTS, false);
    opened *m = model_open(write_gguf(d));
    const moe_slot *layer0 = m->weights.layers[0], *layer1 = m->weights.layers[1];

    (void)state;
    assert_int_equal(layer0[MOE_K_B].type, MOE_TYPE_F16); /* was Q8_0, transposed */
    assert_int_equal(layer0[MOE_V_B].type, MOE_TYPE_Q8_0);
    assert_int_equal(layer1[MOE_K_B].type, MOE_TYPE_BF16);
    assert_int_equal(layer1[MOE_K_B].n_rows, 64);
    assert_int_equal(layer1[MOE_K_B].n_cols, 32);
    assert_int_equal(layer1[MOE_V_B].n_rows, 24);
    check_weights(m);
    model_close(m);
    free(d);
}

/* 1 = "blk.1." */
static void replace_experts_by_one_each(draft *d, const char *name, int64_t d0, int64_t d1)
{
    char full[64];

    snprintf(full, sizeof full, "blk.1.%s_exps.weight", name);
    remove_blob(d, full);
    for (int e = 0; e < EXPERTS; e++)
        add_blob(d, MOE_TYPE_Q8_0, d0, d1, 0, "blk.1.%s.%d.weight", name, e);
}

static void experts_are_found_in_every_arrangement(void **state)
{
    draft *d = draft_deepseek(EXPERTS, true);
    opened *m;

    (void)state;
    remove_blob(d, "blk.1.ffn_gate_exps.weight");
    remove_blob(d, "blk.1.ffn_up_exps.weight");
    add_blob(d, MOE_TYPE_Q8_0, EMBD, 2 * EXPERT_FF, EXPERTS, "blk.1.ffn_gate_up_exps.weight");
    m = model_open(write_gguf(d));
    assert_int_equal(m->weights.layers[1][MOE_EXPERT_UP].pieces[1].row, 3 * EXPERT_FF);
    check_weights(m);
    model_close(m);
    free(d);

    d = draft_deepseek(EXPERTS, true);
    replace_experts_by_one_each(d, "ffn_gate", EMBD, EXPERT_FF);
    replace_experts_by_one_each(d, "ffn_up", EMBD, EXPERT_FF);
    replace_experts_by_one_each(d, "ffn_down", EXPERT_FF, EMBD);
    m = model_open(write_gguf(d));
    check_weights(m);
    model_close(m);

    find_blob(d, "blk.1.ffn_up.2.weight")->type = MOE_TYPE_F16;
    expect_error(write_gguf(d), MOE_ERR_UNSUPPORTED, "\"blk.1.ffn_up.2.weight\" has type F16");
    free(d);
}

static void draft_layers_are_left_out(void **state)
{
    draft *d = draft_llama();
    opened *m;

    (void)state;
    set_int(d, "block_count", 3);
    set_int(d, "nextn_predict_layers", 1);
    m = model_open(write_gguf(d));
    assert_int_equal(m->spec.n_layers, 2);
    assert_string_equal(m->spec.name, "tiny");
    model_close(m);
    set_int(d, "nextn_predict_layers", 3);
    expect_error(write_gguf(d), MOE_ERR_FORMAT, "nextn_predict_layers");
    free(d);
}

static void bad_metadata_is_named(void **state)
{
    static const struct {
        const char *key;
        int value;
        const char *message;
    } cases[] = {
        {"block_count", 0, "\"llama.block_count\" is 0, but must be from 1 to 1024"},
        {"block_count", 100000, "\"llama.block_count\" is 100000"},
        {"block_count", -1, "\"llama.block_count\" is 4294967295"},
        {"embedding_length", 0, "\"llama.embedding_length\" is 0"},
        {"embedding_length", 1 << 30, "\"llama.embedding_length\" is 1073741824"},
        {"context_length", 0, "\"llama.context_length\" is 0"},
        {"feed_forward_length", 0, "\"llama.feed_forward_length\" is 0"},
        {"attention.head_count", 0, "\"llama.attention.head_count\" is 0"},
        {"attention.head_count", 3, "embedding width 64 is no multiple of 3 heads"},
        {"attention.head_count_kv", 3, "can't share 3 key and value heads"},
        {"attention.key_length", 100000, "\"llama.attention.key_length\" is 100000"},
        {"rope.dimension_count", 33, "33 of 32 dimensions"},
        {"rope.dimension_count", 7, "7 of 32 dimensions"},
        {"expert_count", 5000, "\"llama.expert_count\" is 5000"},
        {"rope.freq_base", 0, "\"llama.rope.freq_base\" is 0"},
    };
    static const char *const required[] = {
        "block_count",         "context_length",       "embedding_length",
        "feed_forward_length", "attention.head_count", "attention.layer_norm_rms_epsilon",
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        draft *d = draft_llama();

        set_int(d, cases[i].key, cases[i].value);
        expect_error(write_gguf(d), MOE_ERR_FORMAT, cases[i].message);
        free(d);
    }
    for (size_t i = 0; i < sizeof required / sizeof required[0]; i++) {
        draft *d = draft_llama();
        char message[96];

        snprintf(message, sizeof message, "metadata key \"llama.%s\" is missing", required[i]);
        remove_key(d, required[i]);
        expect_error(write_gguf(d), MOE_ERR_FORMAT, message);
        free(d);
    }
}

static void odd_metadata_kinds_are_handled(void **state)
{
    draft *d = draft_llama();
    opened *m;
    key *k;

    (void)state;
    k = draft_key(d, "attention.head_count_kv"); /* one value per layer */
    k->kind = KEY_ARRAY;
    k->n_list = 2;
    k->list[0] = k->list[1] = HEADS;
    m = model_open(write_gguf(d));
    assert_int_equal(m->spec.n_kv_heads, HEADS);
    model_close(m);
    k->list[1] = 1;
    expect_error(write_gguf(d), MOE_ERR_UNSUPPORTED, "head_count_kv\" differs between layers");
    k->n_list = 0;
    expect_error(write_gguf(d), MOE_ERR_FORMAT, "head_count_kv\" is not an integer");
    set_string(d, "attention.head_count_kv", "two");
    expect_error(write_gguf(d), MOE_ERR_FORMAT, "head_count_kv\" is not an integer");
    remove_key(d, "attention.head_count_kv");
    set_float(d, "attention.layer_norm_rms_epsilon", (double)NAN);
    expect_error(write_gguf(d), MOE_ERR_FORMAT, "layer_norm_rms_epsilon\" is ");
    set_float(d, "attention.layer_norm_rms_epsilon", 1e-5);
    set_string(d, "rope.scaling.type", "longrope");
    expect_error(write_gguf(d), MOE_ERR_UNSUPPORTED, "rope scaling \"longrope\"");
    set_string(d, "rope.scaling.type", "linear");
    set_float(d, "rope.scaling.factor", 4.0);
    m = model_open(write_gguf(d));
    assert_int_equal(m->spec.rope.scaling, MOE_ROPE_SCALING_LINEAR);
    model_close(m);
    set_int(d, "attention.sliding_window", 32);
    expect_error(write_gguf(d), MOE_ERR_UNSUPPORTED, "sliding window");
    set_string(d, "!general.architecture", "gpt-oss");
    expect_error(write_gguf(d), MOE_ERR_UNSUPPORTED, "model family \"gpt-oss\" is not supported");
    remove_key(d, "!general.architecture");
    expect_error(write_gguf(d), MOE_ERR_FORMAT, "general.architecture");
    free(d);
}

static void routing_numbers_must_fit_together(void **state)
{
    static const struct {
        const char *key;
        int value;
    } cases[] = {{"expert_used_count", EXPERTS + 1}, {"expert_used_count", 0},
                 {"expert_group_count", 3},          {"expert_group_used_count", 3},
                 {"expert_group_count", EXPERTS},    {"expert_gating_func", 3},
                 {"expert_shared_count", 4096}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        draft *d = draft_deepseek(EXPERTS, true);
        moe_status status;
        opened *m;

        set_int(d, "expert_feed_forward_length", i == 6 ? 1 << 19 : EXPERT_FF);
        set_int(d, "expert_group_count", 2);
        set_int(d, "expert_group_used_count", 1);
        set_int(d, cases[i].key, cases[i].value);
        m = model_try(write_gguf(d), NULL, &status);
        assert_true(status == MOE_ERR_FORMAT || status == MOE_ERR_UNSUPPORTED);
        assert_null(m->spec.layers);
        model_close(m);
        free(d);
    }
}

static void broken_tensors_are_named(void **state)
{
    static const char *const needed[] = {
        "token_embd.weight",          "output_norm.weight",          "blk.0.attn_norm.weight",
        "blk.1.attn_q_a.weight",      "blk.1.attn_q_a_norm.weight",  "blk.1.attn_q_b.weight",
        "blk.1.attn_kv_a_mqa.weight", "blk.1.attn_kv_a_norm.weight", "blk.1.attn_kv_b.weight",
        "blk.1.attn_output.weight",   "blk.0.ffn_gate.weight",       "blk.0.ffn_down.weight",
        "blk.1.ffn_gate_inp.weight",  "blk.1.ffn_gate_exps.weight",  "blk.1.ffn_up_exps.weight",
        "blk.1.ffn_down_exps.weight", "blk.1.ffn_down_shexp.weight",
    };
    draft *d;

    (void)state;
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        char message[96];

        snprintf(message, sizeof message, "tensor \"%s\" is missing", needed[i]);
        d = draft_deepseek(EXPERTS, true);
        remove_blob(d, needed[i]);
        expect_error(write_gguf(d), MOE_ERR_FORMAT, message);
        free(d);
        if (i == 0)
            continue; /* its rows define the vocabulary */
        snprintf(message, sizeof message, "tensor \"%s\" has shape", needed[i]);
        d = draft_deepseek(EXPERTS, true);
        find_blob(d, needed[i])->dims[0] += 32;
        expect_error(write_gguf(d), MOE_ERR_FORMAT, message);
        free(d);
    }
    d = draft_deepseek(EXPERTS, true);
    find_blob(d, "blk.1.ffn_gate_exps.weight")->dims[2] = EXPERTS - 1;
    expect_error(write_gguf(d), MOE_ERR_FORMAT,
                 "\"blk.1.ffn_gate_exps.weight\" has shape (3, 32, 64), expected "
                 "(4, 32, 64)");
    find_blob(d, "blk.1.ffn_gate_exps.weight")->dims[2] = EXPERTS;
    find_blob(d, "blk.1.ffn_gate_exps.weight")->type = 28; /* F64 */
    expect_error(write_gguf(d), MOE_ERR_UNSUPPORTED,
                 "\"blk.1.ffn_gate_exps.weight\" has type F64, which is not supported");
    find_blob(d, "blk.1.ffn_gate_exps.weight")->type = MOE_TYPE_Q8_0;
    find_blob(d, "blk.1.ffn_norm.weight")->type = MOE_TYPE_Q8_0;
    expect_error(write_gguf(d), MOE_ERR_UNSUPPORTED, "not supported for vectors");
    find_blob(d, "blk.1.ffn_norm.weight")->type = MOE_TYPE_F32;
    find_blob(d, "blk.1.attn_kv_b.weight")->dims[1] -= 1;
    expect_error(write_gguf(d), MOE_ERR_FORMAT, "\"blk.1.attn_kv_b.weight\" has shape");
    find_blob(d, "blk.1.attn_kv_b.weight")->dims[1] += 1;
    remove_blob(d, "blk.1.exp_probs_b.bias");
    set_int(d, "expert_gating_func", 2);
    expect_error(write_gguf(d), MOE_ERR_FORMAT, "\"blk.1.exp_probs_b.bias\" is missing");
    free(d);

    d = draft_llama();
    add_blob(d, MOE_TYPE_F32, 3, 0, 0, "rope_freqs.weight");
    expect_error(write_gguf(d), MOE_ERR_FORMAT, "\"rope_freqs.weight\" must hold 16 F32 values");
    find_blob(d, "rope_freqs.weight")->dims[0] = 16;
    model_close(model_open(write_gguf(d)));
    add_blob(d, MOE_TYPE_F32, FF, 0, 0, "blk.1.ffn_gate.bias");
    expect_error(write_gguf(d), MOE_ERR_UNSUPPORTED, "\"blk.1.ffn_gate.bias\"");
    free(d);
}

static bool cancel_now(void *ud)
{
    int *calls = ud;

    return ++*calls > 3;
}

static void loading_can_be_cancelled(void **state)
{
    int calls = 0;
    const moe_cancel cancel = {cancel_now, &calls};
    draft *d = draft_llama();
    moe_status status;
    opened *m = model_try(write_gguf(d), &cancel, &status);

    (void)state;
    assert_int_equal(status, MOE_ERR_CANCELLED);
    assert_int_equal(calls, 4);
    model_close(m);
    free(d);
}

/* --- folders
 * ---------------------------------------------------------------------------------
 */

static const char qwen3_moe_config[] =
    "\"architectures\": [\"Qwen3MoeForCausalLM\"], \"hidden_size\": 64, "
    "\"num_hidden_layers\": 2, "
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 2, \"head_dim\": 32, "
    "\"intermediate_size\": 96, \"moe_intermediate_size\": 32, "
    "\"num_experts\": 4, "
    "\"num_experts_per_tok\": 2, \"norm_topk_prob\": true, \"vocab_size\": 40, "
    "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-06, "
    "\"mlp_only_layers\": [0], "
    "\"tie_word_embeddings\": true";

/* Layer 0 dense, layer 1 with experts.  root: "model." or nothing. */
static draft *draft_qwen3_moe(const char *root)
{
    static const char *const parts[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
    static const char *const mlp[] = {"gate_proj", "up_proj", "down_proj"};
    draft *d = calloc(1, sizeof *d);

    assert_non_null(d);
    snprintf(d->config, sizeof d->config, "%s", qwen3_moe_config);
    add_blob(d, MOE_TYPE_BF16, EMBD, VOCAB, 0, "%sembed_tokens.weight", root);
    add_blob(d, MOE_TYPE_BF16, EMBD, 0, 0, "%snorm.weight", root);
    for (int l = 0; l < 2; l++) {
        add_blob(d, MOE_TYPE_BF16, EMBD, 0, 0, "%slayers.%d.input_layernorm.weight", root, l);
        add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "%slayers.%d.post_attention_layernorm.weight", root,
                 l);
        add_blob(d, MOE_TYPE_F16, 32, 0, 0, "%slayers.%d.self_attn.q_norm.weight", root, l);
        add_blob(d, MOE_TYPE_F16, 32, 0, 0, "%slayers.%d.self_attn.k_norm.weight", root, l);
        for (int i = 0; i < 4; i++)
            add_blob(d, MOE_TYPE_BF16, EMBD, EMBD, 0, "%slayers.%d.self_attn.%s.weight", root, l,
                     parts[i]);
    }
    for (int i = 0; i < 3; i++)
        add_blob(d, MOE_TYPE_BF16, i < 2 ? EMBD : FF, i < 2 ? FF : EMBD, 0,
                 "%slayers.0.mlp.%s.weight", root, mlp[i]);
    add_blob(d, MOE_TYPE_BF16, EMBD, EXPERTS, 0, "%slayers.1.mlp.gate.weight", root);
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < 3; i++)
            add_blob(d, MOE_TYPE_BF16, i < 2 ? EMBD : EXPERT_FF, i < 2 ? EXPERT_FF : EMBD, 0,
                     "%slayers.1.mlp.experts.%d.%s.weight", root, e, mlp[i]);
    return d;
}

/* Appends to the config; later keys win over earlier ones. */
static void add_config(draft *d, const char *text)
{
    snprintf(d->config, sizeof d->config, "%s, %s", qwen3_moe_config, text);
}

static void folders_are_read_by_config_json(void **state)
{
    draft *d = draft_qwen3_moe("model.");
    opened *m = model_open(write_folder(d));

    (void)state;
    assert_false(m->spec.layers[0].is_moe);
    assert_int_equal(m->spec.layers[0].n_ff, FF);
    assert_true(m->spec.layers[1].is_moe);
    assert_true(m->spec.moe.normalise);
    check_weights(m);
    model_close(m);

    add_config(d, "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, "
                  "\"original_max_position_embeddings\": 32}");
    m = model_open(write_folder(d));
    assert_int_equal(m->spec.rope.scaling, MOE_ROPE_SCALING_YARN);
    assert_true(fabs(m->spec.rope.magnitude - (0.1 * log(4.0) + 1.0)) < 1e-12);
    assert_true(m->spec.rope.orig_ctx == 32.0);
    assert_true(m->spec.rope.beta_fast == 32.0 && m->spec.rope.beta_slow == 1.0);
    model_close(m);

    add_config(d, "\"rope_parameters\": {\"rope_type\": \"default\", "
                  "\"rope_theta\": 5000.0}");
    m = model_open(write_folder(d));
    assert_true(m->spec.rope.base == 5000.0);
    model_close(m);
    free(d);

    d = draft_qwen3_moe(""); /* published without the head */
    m = model_open(write_folder(d));
    check_weights(m);
    model_close(m);
    free(d);
}

static void experts_merged_in_folders_are_found(void **state)
{
    static const char *const mlp[] = {"gate_proj", "up_proj", "down_proj"};
    draft *d = draft_qwen3_moe("model.");
    opened *m;

    (void)state;
    for (int e = 0; e < EXPERTS; e++) {
        for (int i = 0; i < 3; i++) {
            char name[80];

            snprintf(name, sizeof name, "model.layers.1.mlp.experts.%d.%s.weight", e, mlp[i]);
            remove_blob(d, name);
        }
    }
    add_blob(d, MOE_TYPE_BF16, EMBD, 2 * EXPERT_FF, EXPERTS,
             "model.layers.1.mlp.experts.gate_up_proj");
    add_blob(d, MOE_TYPE_BF16, EXPERT_FF, EMBD, EXPERTS, "model.layers.1.mlp.experts.down_proj");
    m = model_open(write_folder(d));
    check_weights(m);
    model_close(m);
    free(d);
}

static void what_a_config_asks_for_is_refused_by_name(void **state)
{
    static const struct {
        const char *text;
        moe_status status;
        const char *message;
    } cases[] = {
        {"\"use_sliding_window\": true", MOE_ERR_UNSUPPORTED, "use_sliding_window"},
        {"\"hidden_act\": \"relu\"", MOE_ERR_UNSUPPORTED, "activation \"relu\""},
        {"\"quantization_config\": {\"quant_method\": \"gptq\"}", MOE_ERR_UNSUPPORTED,
         "quantization method \"gptq\""},
        {"\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}", MOE_ERR_UNSUPPORTED,
         "rope scaling \"dynamic\""},
        {"\"rope_scaling\": {\"type\": \"yarn\"}", MOE_ERR_FORMAT,
         "\"rope_scaling.factor\" of config.json is missing"},
        {"\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, "
         "\"low_freq_factor\": 4, "
         "\"high_freq_factor\": 1, \"original_max_position_embeddings\": 64}",
         MOE_ERR_FORMAT, "high_freq_factor"},
        {"\"num_hidden_layers\": 0", MOE_ERR_FORMAT,
         "\"num_hidden_layers\" of config.json is 0, but must be from 1 to 1024"},
        {"\"num_hidden_layers\": null", MOE_ERR_FORMAT,
         "\"num_hidden_layers\" of config.json is missing"},
        {"\"num_hidden_layers\": 2.5", MOE_ERR_FORMAT, "is not an integer"},
        {"\"vocab_size\": 1e300", MOE_ERR_FORMAT, "is not an integer"},
        {"\"vocab_size\": 41", MOE_ERR_FORMAT,
         "\"model.embed_tokens.weight\" has shape (40, 64), expected (41, 64)"},
        {"\"norm_topk_prob\": \"yes\"", MOE_ERR_FORMAT, "is not true or false"},
        {"\"tie_word_embeddings\": false", MOE_ERR_FORMAT, "\"lm_head.weight\" is missing"},
        {"\"num_experts\": 5", MOE_ERR_FORMAT, "\"model.layers.1.mlp.gate.weight\" has shape"},
        {"\"architectures\": [\"GptOssForCausalLM\"]", MOE_ERR_UNSUPPORTED,
         "model family \"GptOssForCausalLM\""},
        {"\"architectures\": []", MOE_ERR_FORMAT, "does not name an architecture"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        draft *d = draft_qwen3_moe("model.");

        add_config(d, cases[i].text);
        expect_error(write_folder(d), cases[i].status, cases[i].message);
        free(d);
    }
}

/* BERT as its first checkpoints were written: "bert." in front, gamma and beta.
 */
static draft *draft_bert_folder(const char *root, const char *weight, const char *bias)
{
    static const char *const square[] = {"attention.self.query", "attention.self.key",
                                         "attention.self.value", "attention.output.dense"};
    static const char *const norms[] = {"attention.output.LayerNorm", "output.LayerNorm"};
    draft *d = calloc(1, sizeof *d);

    assert_non_null(d);
    snprintf(d->config, sizeof d->config,
             "\"architectures\": [\"BertForMaskedLM\"], \"hidden_size\": 64, "
             "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
             "\"intermediate_size\": 96, "
             "\"layer_norm_eps\": 1e-12, \"max_position_embeddings\": 64, "
             "\"vocab_size\": 40, "
             "\"type_vocab_size\": 2, \"hidden_act\": \"gelu_new\"");
    add_blob(d, MOE_TYPE_F32, EMBD, VOCAB, 0, "%sembeddings.word_embeddings.weight", root);
    add_blob(d, MOE_TYPE_F32, EMBD, 64, 0, "%sembeddings.position_embeddings.weight", root);
    add_blob(d, MOE_TYPE_F32, EMBD, 2, 0, "%sembeddings.token_type_embeddings.weight", root);
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "%sembeddings.LayerNorm.%s", root, weight);
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "%sembeddings.LayerNorm.%s", root, bias);
    for (int i = 0; i < 4; i++) {
        add_blob(d, MOE_TYPE_F32, EMBD, EMBD, 0, "%sencoder.layer.0.%s.weight", root, square[i]);
        add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "%sencoder.layer.0.%s.bias", root, square[i]);
    }
    for (int i = 0; i < 2; i++) {
        add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "%sencoder.layer.0.%s.%s", root, norms[i], weight);
        add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "%sencoder.layer.0.%s.%s", root, norms[i], bias);
    }
    add_blob(d, MOE_TYPE_F32, EMBD, FF, 0, "%sencoder.layer.0.intermediate.dense.weight", root);
    add_blob(d, MOE_TYPE_F32, FF, 0, 0, "%sencoder.layer.0.intermediate.dense.bias", root);
    add_blob(d, MOE_TYPE_F32, FF, EMBD, 0, "%sencoder.layer.0.output.dense.weight", root);
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "%sencoder.layer.0.output.dense.bias", root);
    return d;
}

static void bert_folders_old_and_new_are_read(void **state)
{
    draft *d = draft_bert_folder("bert.", "gamma", "beta");
    opened *m = model_open(write_folder(d));
    char path[96];

    (void)state;
    check_weights(m);
    assert_int_equal(m->spec.activation, MOE_ACTIVATION_GELU_TANH);
    assert_int_equal(m->spec.pooling, MOE_POOLING_MEAN);
    assert_int_equal(m->spec.embed_max_tokens, 64);
    model_close(m);
    remove_blob(d, "bert.encoder.layer.0.output.LayerNorm.beta");
    expect_error(write_folder(d), MOE_ERR_FORMAT,
                 "\"bert.encoder.layer.0.output.LayerNorm.beta\" is missing");
    free(d);

    d = draft_bert_folder("", "weight", "bias");
    write_text("sentence_bert_config.json", "{\"max_seq_length\": 48}");
    snprintf(path, sizeof path, "%s/1_Pooling", work_dir);
    assert_int_equal(mkdir(path, 0777), 0);
    write_text("1_Pooling/config.json", "{\"pooling_mode_mean_tokens\": false, "
                                        "\"pooling_mode_lasttoken\": true}");
    m = model_open(write_folder(d));
    assert_int_equal(m->spec.embed_max_tokens, 48);
    assert_int_equal(m->spec.pooling, MOE_POOLING_LAST);
    model_close(m);
    write_text("1_Pooling/config.json", "{\"pooling_mode_max_tokens\": true}");
    expect_error(write_folder(d), MOE_ERR_UNSUPPORTED, "pooling_mode_max_tokens");
    write_text("1_Pooling/config.json", "{}");
    write_text("modules.json", "[{\"type\": \"sentence_transformers.models.Dense\"}]");
    expect_error(write_folder(d), MOE_ERR_UNSUPPORTED, "modules.json");
    remove_text("modules.json");
    remove_text("sentence_bert_config.json");
    remove_text("1_Pooling/config.json");
    free(d);
}

static void fused_qkv_of_bert_is_taken_apart(void **state)
{
    draft *d = draft_start("bert", 1);
    const moe_slot *slots;
    opened *m;

    (void)state;
    set_float(d, "attention.layer_norm_epsilon", 1e-12);
    remove_blob(d, "output_norm.weight");
    add_blob(d, MOE_TYPE_F32, EMBD, 128, 0, "position_embd.weight");
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "token_embd_norm.weight");
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "token_embd_norm.bias");
    add_blob(d, MOE_TYPE_F16, EMBD, 3 * EMBD, 0, "blk.0.attn_qkv.weight");
    add_blob(d, MOE_TYPE_F32, 3 * EMBD, 0, 0, "blk.0.attn_qkv.bias");
    add_blob(d, MOE_TYPE_F16, EMBD, EMBD, 0, "blk.0.attn_output.weight");
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "blk.0.attn_output.bias");
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "blk.0.attn_output_norm.weight");
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "blk.0.attn_output_norm.bias");
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "blk.0.layer_output_norm.weight");
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "blk.0.layer_output_norm.bias");
    add_blob(d, MOE_TYPE_F16, EMBD, FF, 0, "blk.0.ffn_up.weight");
    add_blob(d, MOE_TYPE_F32, FF, 0, 0, "blk.0.ffn_up.bias");
    add_blob(d, MOE_TYPE_F16, FF, EMBD, 0, "blk.0.ffn_down.weight");
    add_blob(d, MOE_TYPE_F32, EMBD, 0, 0, "blk.0.ffn_down.bias");
    m = model_open(write_gguf(d));
    slots = m->weights.layers[0];
    assert_int_equal(slots[MOE_V].pieces[0].row, 2 * EMBD);
    assert_int_equal(slots[MOE_K_BIAS].pieces[0].row, EMBD);
    assert_int_equal(m->spec.n_token_types, 0);
    check_weights(m);
    model_close(m);
    set_int(d, "pooling_type", 4);
    expect_error(write_gguf(d), MOE_ERR_UNSUPPORTED, "pooling type 4");
    find_blob(d, "blk.0.attn_qkv.weight")->dims[1] = 2 * EMBD;
    set_int(d, "pooling_type", 2);
    expect_error(write_gguf(d), MOE_ERR_FORMAT, "\"blk.0.attn_qkv.weight\" has shape");
    free(d);
}

/* --- slots
 * -----------------------------------------------------------------------------------
 */

/* Rows of one matrix may come from several tensors, with a group of 16 across
 * two of them. */
static void matrices_are_joined_from_pieces(void **state)
{
    draft *d = draft_llama();
    moe_error err = {0};
    moe_weights w;
    moe_model_spec spec = {.n_layers = 1};
    moe_file *file;
    moe_slot *slot;
    opened view;
    void *block;

    (void)state;
    add_blob(d, MOE_TYPE_F16, 32, 21, 0, "a");
    add_blob(d, MOE_TYPE_F16, 32, 30, 0, "b");
    assert_int_equal(moe_file_open(write_gguf(d), &file, &err), MOE_OK);
    assert_int_equal(moe_weights_init(&w, 1, &err), MOE_OK);
    slot = &w.layers[0][MOE_Q];
    assert_int_equal(
        moe_bind_piece(slot, moe_file_tensor(file, "a"), 2, 19, false, 1, 45, 32, &err), MOE_OK);
    assert_int_equal(moe_weights_layout(&w, &spec, &err), MOE_ERR_FORMAT); /* 19 of 45 rows */
    assert_int_equal(
        moe_bind_piece(slot, moe_file_tensor(file, "b"), 5, 26, false, 1, 45, 32, &err),
        MOE_ERR_FORMAT); /* one row too many */
    assert_int_equal(
        moe_bind_piece(slot, moe_file_tensor(file, "b"), -1, 2, false, 1, 45, 32, &err),
        MOE_ERR_FORMAT);
    assert_int_equal(
        moe_bind_piece(slot, moe_file_tensor(file, "b"), INT64_MAX, 2, false, 1, 45, 32, &err),
        MOE_ERR_FORMAT);
    assert_int_equal(
        moe_bind_piece(slot, moe_file_tensor(file, "b"), 4, 26, false, 1, 45, 32, &err), MOE_OK);
    assert_int_equal(moe_weights_layout(&w, &spec, &err), MOE_OK);
    assert_int_equal(w.n_params, 45 * 32);
    block = aligned_alloc(64, w.size);
    assert_int_equal(load_on_threads(&w, file, block, 2, NULL, &err), MOE_OK);
    view = (opened){.file = file, .weights = w, .block = block};
    check_matrices(&view, slot);
    free(block);
    moe_weights_free(&w);
    moe_file_close(file);
    free(d);
}

static void unquantised_matrices_become_8_bits(void **state)
{
    draft *d = draft_deepseek(EXPERTS, false);
    opened *m;
    const moe_slot *layer0, *layer1;

    (void)state;
    find_blob(d, "blk.1.attn_output.weight")->type = MOE_TYPE_F32;
    m = model_open(write_gguf(d));
    layer0 = m->weights.layers[0], layer1 = m->weights.layers[1];
    assert_int_equal(layer1[MOE_O].type, MOE_TYPE_F32);
    quantise(m, MOE_TYPE_Q8_0);
    assert_int_equal(layer0[MOE_K_B].type, MOE_TYPE_Q8_0); /* was Q8_0, transposed */
    assert_int_equal(layer1[MOE_K_B].type, MOE_TYPE_Q8_0); /* was BF16, transposed */
    assert_int_equal(layer1[MOE_V_B].type, MOE_TYPE_Q8_0);
    assert_int_equal(layer1[MOE_O].type,
                     layer1[MOE_O].n_cols % 32 == 0 ? MOE_TYPE_Q8_0 : MOE_TYPE_F32);
    assert_int_equal(layer1[MOE_ROUTER].type, MOE_TYPE_F32);
    check_weights(m);
    model_close(m);
    free(d);
}

static void unquantised_matrices_become_bf16(void **state)
{
    draft *d = draft_deepseek(EXPERTS, false);
    opened *m;
    const moe_slot *layer0, *layer1;

    (void)state;
    find_blob(d, "blk.1.attn_output.weight")->type = MOE_TYPE_F32;
    m = model_open(write_gguf(d));
    layer0 = m->weights.layers[0], layer1 = m->weights.layers[1];
    quantise(m, MOE_TYPE_BF16_PAIRS);
    assert_int_equal(layer0[MOE_K_B].type, MOE_TYPE_BF16_PAIRS); /* F16: was Q8_0, transposed */
    assert_int_equal(layer1[MOE_K_B].type, MOE_TYPE_BF16_PAIRS); /* was BF16, transposed */
    assert_int_equal(layer1[MOE_O].type, MOE_TYPE_BF16_PAIRS);
    assert_int_equal(layer1[MOE_ROUTER].type, MOE_TYPE_F32);
    check_weights(m);
    model_close(m);
    free(d);
}

/* Blocks without a scale: zeros stay zeros, and what is not finite does not
 * become finite. */
static void quantising_keeps_zeros_and_infinities(void **state)
{
    draft *d = draft_llama();
    moe_error err = {0};
    moe_weights w;
    moe_model_spec spec = {.n_layers = 1};
    moe_file *file;
    moe_slot *slot;
    void *block;
    float row[64];

    (void)state;
    add_blob(d, MOE_TYPE_F32, 64, 3, 0, "a");
    const char *path = write_gguf(d);
    assert_int_equal(moe_file_open(path, &file, &err), MOE_OK);
    {
        const float zeros[32] = {0.0f}, odd[2] = {NAN, INFINITY};
        FILE *f = fopen(path, "r+b");
        long at = (long)moe_file_tensor(file, "a")->offset;

        assert_non_null(f);
        fseek(f, at, SEEK_SET);
        fwrite(zeros, sizeof zeros, 1, f);
        fseek(f, at + 64 * 4 + 5 * 4, SEEK_SET);
        fwrite(&odd[0], 4, 1, f);
        fseek(f, at + 128 * 4 + 40 * 4, SEEK_SET);
        fwrite(&odd[1], 4, 1, f);
        assert_int_equal(fclose(f), 0);
    }
    assert_int_equal(moe_weights_init(&w, 1, &err), MOE_OK);
    slot = &w.layers[0][MOE_Q];
    assert_int_equal(moe_bind_piece(slot, moe_file_tensor(file, "a"), 0, 3, false, 1, 3, 64, &err),
                     MOE_OK);
    moe_weights_quantize(&w, &spec, MOE_TYPE_Q8_0);
    assert_int_equal(moe_weights_layout(&w, &spec, &err), MOE_OK);
    assert_int_equal(w.main_type, MOE_TYPE_Q8_0);
    block = aligned_alloc(64, w.size);
    assert_int_equal(load_on_threads(&w, file, block, 1, NULL, &err), MOE_OK);
    for (int r = 0; r < 3; r++) {
        const moe_matrix matrix = moe_slot_matrix(&w, slot, 0);

        moe_unpack_row(&matrix, r, row);
        for (int c = 0; c < 64; c++) {
            assert_int_equal(isfinite(row[c]), r == 0 || (c < 32) == (r == 2));
            if (r == 0 && c < 32)
                assert_true(row[c] == 0.0f);
        }
    }
    free(block);
    moe_weights_free(&w);
    moe_file_close(file);
    free(d);
}

/* Somebody truncates the file under the threads that read it. */
static void a_file_cut_short_while_it_loads_is_an_error(void **state)
{
    draft *d = draft_llama();
    const char *path = write_gguf(d);
    moe_status status;
    opened *m = model_try(path, NULL, &status);

    (void)state;
    assert_int_equal(status, MOE_OK);
    assert_int_equal(truncate(path, (off_t)m->weights.layers[0][MOE_Q].pieces[0].tensor->offset),
                     0);
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        m->err = (moe_error){0};
        assert_int_equal(load_on_threads(&m->weights, m->file, m->block, n_threads, NULL, &m->err),
                         MOE_ERR_IO);
        assert_non_null(strstr(m->err.message, "ends at byte"));
        assert_non_null(strstr(m->err.hint, "truncated"));
    }
    model_close(m);
    free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(older_deepseek_files_get_the_published_routing),
        cmocka_unit_test(unsplit_kv_b_becomes_k_b_and_v_b),
        cmocka_unit_test(experts_are_found_in_every_arrangement),
        cmocka_unit_test(draft_layers_are_left_out),
        cmocka_unit_test(bad_metadata_is_named),
        cmocka_unit_test(odd_metadata_kinds_are_handled),
        cmocka_unit_test(routing_numbers_must_fit_together),
        cmocka_unit_test(broken_tensors_are_named),
        cmocka_unit_test(loading_can_be_cancelled),
        cmocka_unit_test(folders_are_read_by_config_json),
        cmocka_unit_test(experts_merged_in_folders_are_found),
        cmocka_unit_test(what_a_config_asks_for_is_refused_by_name),
        cmocka_unit_test(bert_folders_old_and_new_are_read),
        cmocka_unit_test(fused_qkv_of_bert_is_taken_apart),
        cmocka_unit_test(matrices_are_joined_from_pieces),
        cmocka_unit_test(unquantised_matrices_become_8_bits),
        cmocka_unit_test(unquantised_matrices_become_bf16),
        cmocka_unit_test(quantising_keeps_zeros_and_infinities),
        cmocka_unit_test(a_file_cut_short_while_it_loads_is_an_error),
    };

    return cmocka_run_group_tests(tests, make_work_dir, remove_work_dir);
}
