/*
 * Whole models of the shared fixtures: both file formats describe and load the same model, and
 * other families are refused by name.  Needs the optional shared data.
 */
#include "model_draft.h"

/* Everything but the rope style and the way Llama's scaling is written down. */
static void check_same_spec(const moe_model_spec *a, const moe_model_spec *b)
{
    assert_string_equal(a->family, b->family);
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->n_embd, b->n_embd);
    assert_int_equal(a->n_vocab, b->n_vocab);
    assert_int_equal(a->n_ctx_train, b->n_ctx_train);
    assert_int_equal(a->causal, b->causal);
    assert_int_equal(a->post_norm, b->post_norm);
    assert_int_equal(a->norm, b->norm);
    assert_true(a->norm_eps == b->norm_eps);
    assert_int_equal(a->attention, b->attention);
    assert_int_equal(a->n_heads, b->n_heads);
    assert_int_equal(a->n_kv_heads, b->n_kv_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->head_dim_v, b->head_dim_v);
    assert_int_equal(a->q_lora_rank, b->q_lora_rank);
    assert_int_equal(a->kv_lora_rank, b->kv_lora_rank);
    assert_int_equal(a->head_dim_rope, b->head_dim_rope);
    assert_true(a->attention_scale == b->attention_scale);
    assert_true(a->qk_norm_eps == b->qk_norm_eps);
    assert_int_equal(a->rope.n_rot, b->rope.n_rot);
    assert_true(a->rope.base == b->rope.base);
    assert_true(a->rope.magnitude == b->rope.magnitude);
    if (a->rope.divisors == NULL && b->rope.divisors == NULL) {
        assert_int_equal(a->rope.scaling, b->rope.scaling);
        assert_true(a->rope.factor == b->rope.factor);
        assert_true(a->rope.orig_ctx == b->rope.orig_ctx);
        assert_true(a->rope.beta_fast == b->rope.beta_fast);
        assert_true(a->rope.beta_slow == b->rope.beta_slow);
        assert_int_equal(a->rope.truncate, b->rope.truncate);
    }
    assert_int_equal(a->activation, b->activation);
    assert_int_equal(a->gated_ffn, b->gated_ffn);
    assert_int_equal(a->moe.n_experts, b->moe.n_experts);
    assert_int_equal(a->moe.n_experts_used, b->moe.n_experts_used);
    assert_int_equal(a->moe.n_ff, b->moe.n_ff);
    assert_int_equal(a->moe.score, b->moe.score);
    assert_int_equal(a->moe.n_groups, b->moe.n_groups);
    assert_int_equal(a->moe.n_groups_used, b->moe.n_groups_used);
    assert_int_equal(a->moe.group_score, b->moe.group_score);
    assert_int_equal(a->moe.normalise, b->moe.normalise);
    assert_true(a->moe.normalise_floor == b->moe.normalise_floor);
    assert_true(a->moe.scale == b->moe.scale);
    assert_int_equal(a->moe.n_ff_shared, b->moe.n_ff_shared);
    assert_int_equal(a->moe.shared_gate, b->moe.shared_gate);
    for (int i = 0; i < a->n_layers; i++) {
        assert_int_equal(a->layers[i].is_moe, b->layers[i].is_moe);
        assert_int_equal(a->layers[i].n_ff, b->layers[i].n_ff);
    }
    assert_int_equal(a->n_positions, b->n_positions);
    assert_int_equal(a->n_token_types, b->n_token_types);
    assert_int_equal(a->pooling, b->pooling);
    assert_int_equal(a->embed_max_tokens, b->embed_max_tokens);
}

/* Matrices of two models, row for row.  Llama's q and k rows of `permuted` heads go (half, i) to
 * (i, half). */
static void check_same_slot(const opened *hf, const opened *gguf, const moe_slot *a,
                            const moe_slot *b, int permuted_head, double tolerance)
{
    assert_int_equal(a->present, b->present);
    if (!a->present)
        return;
    assert_int_equal(a->n_mats, b->n_mats);
    assert_int_equal(a->n_rows, b->n_rows);
    assert_int_equal(a->n_cols, b->n_cols);
    for (int64_t k = 0; k < a->n_mats * a->n_rows; k++) {
        int64_t mat = k / a->n_rows, row = k % a->n_rows, other = row;
        float *x, *y;

        if (permuted_head > 0) {
            int64_t in = row % permuted_head, half = permuted_head / 2;

            other = row - in + in % half * 2 + in / half;
        }
        if (a->is_vector) {
            const float *v = moe_slot_vector(&hf->weights, a),
                        *w = moe_slot_vector(&gguf->weights, b);

            assert_memory_equal(v, w, (size_t)a->n_cols * sizeof *v);
            continue;
        }
        x = packed_row(hf, a, mat, row);
        y = packed_row(gguf, b, mat, other);
        for (int64_t c = 0; c < a->n_cols; c++) {
            if (fabs((double)x[c] - (double)y[c]) > tolerance * fabs((double)x[c]))
                fail_msg("matrix %d row %d column %d: %g and %g", (int)mat, (int)row, (int)c,
                         (double)x[c], (double)y[c]);
        }
        free(x);
        free(y);
    }
}

static void check_same_weights(const opened *hf, const opened *gguf, int permuted_head,
                               double tolerance)
{
    for (int s = 0; s < MOE_N_GLOBAL_SLOTS; s++)
        check_same_slot(hf, gguf, &hf->weights.global[s], &gguf->weights.global[s], 0, tolerance);
    for (int l = 0; l < hf->weights.n_layers; l++) {
        for (int s = 0; s < MOE_N_LAYER_SLOTS; s++) {
            check_same_slot(hf, gguf, &hf->weights.layers[l][s], &gguf->weights.layers[l][s],
                            s == MOE_Q || s == MOE_K ? permuted_head : 0, tolerance);
        }
    }
    assert_int_equal(hf->weights.n_params, gguf->weights.n_params);
    assert_int_equal(hf->weights.n_params_active, gguf->weights.n_params_active);
}

/* --- fixtures -------------------------------------------------------------------------------- */

static const char *shared_path(char *path, size_t size, const char *name)
{
    const char *root = getenv("MOE_SHARED");

    snprintf(path, size, "%s/%s", root != NULL ? root : "../shared", name);
    return path;
}

static bool have_shared(void)
{
    char path[512];

    if (access(shared_path(path, sizeof path, "fixtures"), R_OK) == 0)
        return true;
    print_message("skipped: no shared fixtures\n");
    return false;
}

static opened *open_shared(const char *name)
{
    char path[512];

    return model_open(shared_path(path, sizeof path, name));
}

static void fixtures_give_the_same_model_in_both_formats(void **state)
{
    static const struct {
        const char *name;
        int permuted_head; /* GGUF permutes the rows of q and k */
        double tolerance;  /* formats store different types */
        const char *family;
    } cases[] = {
        {"bert", 0, 1e-3, "bert"},
        {"bert_cls", 0, 1e-3, "bert"},
        {"deepseek_v2_lite", 0, 0, "deepseek_v2"},
        {"deepseek_v3", 0, 0, "deepseek_v3"},
        {"llama", 16, 0, "llama"},
        {"llama_tied", 16, 0, "llama"},
        {"mixtral", 16, 0, "mixtral"},
        {"qwen2", 0, 0, "qwen2"},
        {"qwen2_moe", 0, 0, "qwen2_moe"},
        {"qwen3", 0, 0, "qwen3"},
        {"qwen3_moe", 0, 0, "qwen3_moe"},
    };

    (void)state;
    if (!have_shared())
        return;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[128];
        opened *hf, *gguf;

        snprintf(name, sizeof name, "fixtures/%s/hf", cases[i].name);
        hf = open_shared(name);
        snprintf(name, sizeof name, "fixtures/%s/model.gguf", cases[i].name);
        gguf = open_shared(name);
        assert_string_equal(hf->spec.family, cases[i].family);
        assert_string_equal(gguf->spec.name, "fixture");
        check_weights(hf);
        check_weights(gguf);
        check_same_spec(&hf->spec, &gguf->spec);
        if (cases[i].permuted_head > 0) {
            assert_int_equal(hf->spec.rope.style, MOE_ROPE_HALVES);
            assert_int_equal(gguf->spec.rope.style, MOE_ROPE_INTERLEAVED);
        } else {
            assert_int_equal(hf->spec.rope.style, gguf->spec.rope.style);
        }
        check_same_weights(hf, gguf, cases[i].permuted_head, cases[i].tolerance);
        model_close(hf);
        model_close(gguf);
    }
}

static void quantised_fixtures_load_or_name_the_type(void **state)
{
    static const struct {
        const char *name;
        const char *type; /* main type */
    } cases[] = {
        {"deepseek_v3_quant/model-q8_0", "Q8_0"},   {"deepseek_v3_quant/model-q4_0", "Q4_0"},
        {"deepseek_v3_quant/model-q4_k_m", "Q4_K"}, {"qwen3_moe_quant/model-q4_0", "Q4_0"},
        {"qwen3_moe_quant/model-q4_k_m", "Q4_K"},   {"qwen3_moe_quant/model-q5_k_m", "Q5_K"},
        {"qwen3_moe_quant/model-q6_k", "Q6_K"},     {"qwen3_moe_quant/model-iq4_xs", NULL},
        {"qwen3_moe_quant/model-mxfp4_moe", NULL},  {"deepseek_v3_quant/model-mxfp4_moe", NULL},
    };

    (void)state;
    if (!have_shared())
        return;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[128], path[512];
        moe_status status;
        opened *m;

        snprintf(name, sizeof name, "fixtures/%s.gguf", cases[i].name);
        m = model_try(shared_path(path, sizeof path, name), NULL, &status);
        /* types that the kernels learn later load as well */
        if (cases[i].type == NULL && status == MOE_ERR_UNSUPPORTED) {
            assert_non_null(strstr(m->err.message, "tensor \""));
            assert_non_null(strstr(m->err.hint, "Q4_K"));
        } else {
            if (status != MOE_OK)
                fail_msg("%s: %s", name, m->err.message);
            check_weights(m);
        }
        if (cases[i].type != NULL)
            assert_string_equal(moe_type_info_of(m->weights.main_type)->name, cases[i].type);
        model_close(m);
    }
}

static void pocket_is_one_model_in_three_forms(void **state)
{
    static const char *const names[] = {"models/pocket", "models/pocket/pocket-q8_0.gguf",
                                        "models/pocket/pocket-q4_k_m.gguf"};
    opened *forms[3];

    (void)state;
    if (!have_shared())
        return;
    for (int i = 0; i < 3; i++) {
        forms[i] = open_shared(names[i]);
        check_weights(forms[i]);
        check_same_spec(&forms[0]->spec, &forms[i]->spec);
        assert_int_equal(forms[i]->weights.n_params, forms[0]->weights.n_params);
        assert_false(forms[i]->weights.global[MOE_OUTPUT].present);
    }
    /* the card: 11.8 million parameters, about 5 million of them used per token */
    assert_in_range(forms[0]->weights.n_params, 11750000, 11850000);
    assert_in_range(forms[0]->weights.n_params_active, 4500000, 5999999);
    for (int i = 0; i < 3; i++)
        model_close(forms[i]);
}

static void specs_hold_the_published_formulas(void **state)
{
    const double mscale = 0.1 * log(40.0) + 1.0, lite = 0.1 * 0.707 * log(40.0) + 1.0;
    opened *m;

    (void)state;
    if (!have_shared())
        return;
    m = open_shared("fixtures/deepseek_v3/model.gguf");
    assert_true(m->spec.attention_scale == (float)(mscale * mscale / sqrt(48.0)));
    assert_int_equal(m->spec.rope.scaling, MOE_ROPE_SCALING_YARN);
    assert_true(m->spec.rope.magnitude == 1.0);
    assert_int_equal(m->spec.moe.score, MOE_ROUTER_SIGMOID);
    assert_int_equal(m->spec.moe.group_score, MOE_GROUP_TOP2_SUM);
    assert_int_equal(m->spec.moe.n_groups, 4);
    assert_int_equal(m->spec.moe.n_groups_used, 2);
    assert_true(m->spec.moe.normalise && m->spec.moe.normalise_floor == 1e-20);
    assert_true(m->spec.moe.scale == 2.5);
    assert_false(m->spec.layers[0].is_moe);
    assert_true(m->spec.layers[1].is_moe);
    assert_int_equal(m->spec.n_kv_heads, 1);
    assert_true(m->weights.layers[1][MOE_ROUTER_SELECT_BIAS].present);
    model_close(m);

    m = open_shared("fixtures/deepseek_v2_lite/model.gguf");
    assert_true(m->spec.attention_scale == (float)(lite * lite / sqrt(48.0)));
    assert_int_equal(m->spec.moe.score, MOE_ROUTER_SOFTMAX);
    assert_int_equal(m->spec.moe.n_groups, 1);
    assert_false(m->spec.moe.normalise);
    assert_int_equal(m->spec.moe.n_ff_shared, 64);
    assert_true(m->weights.layers[1][MOE_Q].present);
    assert_false(m->weights.layers[1][MOE_Q_A].present);
    model_close(m);

    m = open_shared("fixtures/llama/model.gguf");
    assert_non_null(m->spec.rope.divisors);
    assert_true(m->spec.attention_scale == 0.25f);
    model_close(m);

    m = open_shared("fixtures/bert_cls/hf");
    assert_int_equal(m->spec.pooling, MOE_POOLING_CLS);
    assert_int_equal(m->spec.embed_max_tokens, 512);
    assert_int_equal(m->spec.n_token_types, 2);
    assert_int_equal(m->spec.activation, MOE_ACTIVATION_GELU_ERF);
    assert_true(m->spec.post_norm && !m->spec.causal);
    model_close(m);

    m = open_shared("fixtures/deepseek_v3_mtp/hf"); /* the draft layer is left out */
    assert_int_equal(m->spec.n_layers, 2);
    model_close(m);
}

static void other_families_are_refused_by_name(void **state)
{
    char path[512];
    moe_status status;
    opened *m;

    (void)state;
    if (!have_shared())
        return;
    m = model_try(shared_path(path, sizeof path, "fixtures/grok_1/model.gguf"), NULL, &status);
    assert_int_equal(status, MOE_ERR_UNSUPPORTED);
    assert_string_equal(m->err.message, "model family \"grok\" is not supported");
    assert_non_null(strstr(m->err.hint, "deepseek2"));
    model_close(m);
    m = model_try(shared_path(path, sizeof path, "fixtures/phimoe/hf"), NULL, &status);
    assert_int_equal(status, MOE_ERR_UNSUPPORTED);
    assert_string_equal(m->err.message, "model family \"PhiMoEForCausalLM\" is not supported");
    assert_non_null(strstr(m->err.hint, "DeepseekV3ForCausalLM"));
    model_close(m);
    expect_error(shared_path(path, sizeof path, "fixtures/deepseek_v3_fp8/hf"), MOE_ERR_UNSUPPORTED,
                 "has type F8_E4M3, which is not supported");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fixtures_give_the_same_model_in_both_formats),
        cmocka_unit_test(quantised_fixtures_load_or_name_the_type),
        cmocka_unit_test(pocket_is_one_model_in_three_forms),
        cmocka_unit_test(specs_hold_the_published_formulas),
        cmocka_unit_test(other_families_are_refused_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
