/*
 * Slots: binding tensors to them, checking that they are whole, and laying them out in units.
 *
 * The pieces of a slot live in an array that doubles whenever its length is a power of two.  The
 * slots belong to the moe_weights, the tensors to the file.
 */
#include "weights.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOT_ALIGN = 64,
    MAX_UNITS = 1 << 22 /* DeepSeek-V3 has 14,910 */
};

moe_status moe_weights_init(moe_weights *w, int n_layers, moe_error *err)
{
    size_t size;

    memset(w, 0, sizeof *w);
    w->main_type = MOE_TYPE_NONE;
    if (n_layers < 1 || !moe_mul((size_t)n_layers, sizeof *w->layers, &size))
        return moe_fail(err, MOE_ERR_INVALID, "a model of %d layers can't be", n_layers);
    w->layers = calloc((size_t)n_layers, sizeof *w->layers);
    if (w->layers == NULL)
        return moe_fail_memory(err, size);
    w->n_layers = n_layers;
    return MOE_OK;
}

void moe_weights_free(moe_weights *w)
{
    for (int s = 0; s < MOE_N_GLOBAL_SLOTS; s++)
        free(w->global[s].pieces);
    for (int l = 0; l < w->n_layers; l++)
        for (int s = 0; s < MOE_N_LAYER_SLOTS; s++)
            free(w->layers[l][s].pieces);
    free(w->layers);
    free(w->units);
    free(w->at);
    memset(w, 0, sizeof *w);
}

/* --- binding --------------------------------------------------------------------------------- */

/* A shape as people write it, slowest index first. */
typedef struct shape_text {
    char text[96];
} shape_text;

static shape_text write_shape(const int64_t *dims, int n_dims)
{
    shape_text out;
    size_t len = 0;

    for (int i = n_dims - 1; i >= 0; i--)
        len += (size_t)snprintf(out.text + len, sizeof out.text - len, "%s%lld",
                                i < n_dims - 1 ? ", " : "(", (long long)dims[i]);
    snprintf(out.text + len, sizeof out.text - len, ")");
    return out;
}

static shape_text tensor_shape(const moe_tensor *tensor)
{
    return write_shape(tensor->dims, tensor->n_dims < 1 ? 1 : tensor->n_dims);
}

static moe_status fail_shape(const moe_tensor *tensor, const int64_t *wanted, int n_wanted,
                             moe_error *err)
{
    return moe_fail(err, MOE_ERR_FORMAT, "tensor \"%s\" has shape %s, expected %s", tensor->name,
                    tensor_shape(tensor).text, write_shape(wanted, n_wanted).text);
}

/* A tensor equals the wanted shape, up to dimensions of 1. */
static bool has_shape(const moe_tensor *tensor, int64_t d0, int64_t d1, int64_t d2)
{
    return tensor->dims[0] == d0 && tensor->dims[1] == d1 && tensor->dims[2] == d2 &&
           tensor->dims[3] == 1;
}

static const moe_tensor *find(const moe_file *file, bool optional, moe_status *status,
                              moe_error *err, const char *fmt, va_list args)
{
    char name[160];
    const moe_tensor *tensor;

    vsnprintf(name, sizeof name, fmt, args);
    tensor = moe_file_tensor(file, name);
    *status = MOE_OK;
    if (tensor == NULL && !optional)
        *status = moe_fail(err, MOE_ERR_FORMAT, "tensor \"%s\" is missing", name);
    return tensor;
}

static moe_status add_piece(moe_slot *slot, moe_piece piece, moe_error *err)
{
    const size_t n = (size_t)slot->n_pieces;

    if ((n & (n - 1)) == 0) {
        size_t size = (n == 0 ? 1 : 2 * n) * sizeof *slot->pieces;
        moe_piece *pieces = realloc(slot->pieces, size);

        if (pieces == NULL)
            return moe_fail_memory(err, size);
        slot->pieces = pieces;
    }
    slot->pieces[slot->n_pieces++] = piece;
    return MOE_OK;
}

/* The type that a piece has once it is packed. */
static moe_type packed_type(const moe_tensor *tensor, bool transposed)
{
    const moe_type_info *info = moe_type_info_of(tensor->type);

    /* blocks run along rows, so a transposed quantised piece has to be widened */
    if (transposed && info != NULL && info->computable && info->block_columns > 1)
        return MOE_TYPE_F16;
    return (moe_type)tensor->type;
}

moe_status moe_bind_piece(moe_slot *slot, const moe_tensor *tensor, int64_t row, int64_t n_rows,
                          bool transposed, int64_t n_mats, int64_t mat_rows, int64_t mat_cols,
                          moe_error *err)
{
    const moe_piece piece = {tensor, row, n_rows, transposed};
    const moe_type type = packed_type(tensor, transposed);
    const int64_t wanted_cols = transposed ? mat_rows : mat_cols;
    int64_t total;

    if (__builtin_mul_overflow(tensor->dims[1], tensor->dims[2], &total) ||
        __builtin_mul_overflow(total, tensor->dims[3], &total) || row < 0 || n_rows < 1 ||
        row > total - n_rows || tensor->dims[0] != wanted_cols ||
        (transposed && n_rows != mat_cols)) {
        return moe_fail(err, MOE_ERR_FORMAT,
                        "tensor \"%s\" has shape %s, expected %lld rows of %lld from row %lld on",
                        tensor->name, tensor_shape(tensor).text, (long long)n_rows,
                        (long long)wanted_cols, (long long)row);
    }
    if (slot->n_pieces == 0) {
        slot->present = true;
        slot->type = type;
        slot->n_mats = n_mats;
        slot->n_rows = mat_rows;
        slot->n_cols = mat_cols;
    } else if (slot->type != type) {
        const moe_tensor *first = slot->pieces[0].tensor;

        moe_fail(err, MOE_ERR_UNSUPPORTED,
                 "tensor \"%s\" has type %s, but \"%s\", which is used together with it, has %s",
                 tensor->name, tensor->type_name, first->name, first->type_name);
        moe_hint(err, "All experts of a layer must be stored in one type.");
        return MOE_ERR_UNSUPPORTED;
    }
    return add_piece(slot, piece, err);
}

moe_status moe_bind_matrix(moe_slot *slot, const moe_file *file, int64_t n_mats, int64_t n_rows,
                           int64_t n_cols, bool optional, moe_error *err, const char *name, ...)
{
    const moe_tensor *tensor;
    moe_status status;
    va_list args;

    va_start(args, name);
    tensor = find(file, optional, &status, err, name, args);
    va_end(args);
    if (tensor == NULL)
        return status;
    /* several matrices may also be stored as one of all their rows */
    if (!has_shape(tensor, n_cols, n_rows, n_mats) &&
        !has_shape(tensor, n_cols, n_rows * n_mats, 1)) {
        const int64_t wanted[3] = {n_cols, n_rows, n_mats};

        return fail_shape(tensor, wanted, n_mats == 1 ? 2 : 3, err);
    }
    return moe_bind_piece(slot, tensor, 0, n_mats * n_rows, false, n_mats, n_rows, n_cols, err);
}

moe_status moe_bind_vector_piece(moe_slot *slot, const moe_tensor *tensor, int64_t first, int64_t n,
                                 moe_error *err)
{
    const moe_piece piece = {tensor, first, n, false};

    if (first < 0 || n < 1 || !has_shape(tensor, tensor->dims[0], 1, 1) ||
        first > tensor->dims[0] - n) {
        return moe_fail(err, MOE_ERR_FORMAT,
                        "tensor \"%s\" has shape %s, expected %lld elements from element %lld on",
                        tensor->name, tensor_shape(tensor).text, (long long)n, (long long)first);
    }
    if (tensor->type != MOE_TYPE_F32 && tensor->type != MOE_TYPE_F16 &&
        tensor->type != MOE_TYPE_BF16) {
        moe_fail(err, MOE_ERR_UNSUPPORTED,
                 "tensor \"%s\" has type %s, which is not supported for vectors", tensor->name,
                 tensor->type_name);
        moe_hint(err, "Norms and biases must be F32, F16 or BF16.");
        return MOE_ERR_UNSUPPORTED;
    }
    slot->present = slot->is_vector = true;
    slot->type = MOE_TYPE_F32;
    slot->n_mats = slot->n_rows = 1;
    slot->n_cols = n;
    return add_piece(slot, piece, err);
}

moe_status moe_bind_vector(moe_slot *slot, const moe_file *file, int64_t n, bool optional,
                           moe_error *err, const char *name, ...)
{
    const moe_tensor *tensor;
    moe_status status;
    va_list args;

    va_start(args, name);
    tensor = find(file, optional, &status, err, name, args);
    va_end(args);
    if (tensor == NULL)
        return status;
    if (!has_shape(tensor, n, 1, 1))
        return fail_shape(tensor, &n, 1, err);
    return moe_bind_vector_piece(slot, tensor, 0, n, err);
}

/* --- quantising ------------------------------------------------------------------------------ */

/* True for a global slot that is only looked up in: positions, types, and the token embeddings
 * unless they are the output head too. */
static bool is_table(const moe_weights *w, const moe_model_spec *spec, int slot)
{
    const bool tied = spec->causal && !w->global[MOE_OUTPUT].present;

    return slot == MOE_POSITION_EMBD || slot == MOE_TYPE_EMBD || (slot == MOE_TOKEN_EMBD && !tied);
}

static void quantize_slot(moe_slot *slot, moe_type type)
{
    const bool is_float =
        slot->type == MOE_TYPE_F32 || slot->type == MOE_TYPE_F16 || slot->type == MOE_TYPE_BF16;

    if (slot->present && !slot->is_vector && is_float &&
        slot->n_cols % moe_type_info_of(type)->block_columns == 0)
        slot->type = type;
}

void moe_weights_quantize(moe_weights *w, const moe_model_spec *spec, moe_type type)
{
    for (int s = 0; s < MOE_N_GLOBAL_SLOTS; s++)
        if (!is_table(w, spec, s))
            quantize_slot(&w->global[s], type);
    for (int l = 0; l < w->n_layers; l++)
        for (int s = 0; s < MOE_N_LAYER_SLOTS; s++)
            if (s != MOE_ROUTER && s != MOE_SHARED_ROUTER)
                quantize_slot(&w->layers[l][s], type);
}

/* --- layout ---------------------------------------------------------------------------------- */

/* What layout adds up while it walks over the slots. */
typedef struct tally {
    struct {
        moe_type type;
        size_t bytes;
    } types[32]; /* more than there are computable types */
    int n_types;
} tally;

static moe_status fail_type(const moe_slot *slot, moe_error *err)
{
    const moe_tensor *tensor = slot->pieces[0].tensor;
    char list[200] = "";
    size_t len = 0;

    moe_fail(err, MOE_ERR_UNSUPPORTED, "tensor \"%s\" has type %s, which is not supported",
             tensor->name, tensor->type_name);
    for (int type = 0; type < 512 && len < sizeof list; type++) {
        const moe_type_info *info = moe_type_info_of(type);

        if (info != NULL && info->computable)
            len += (size_t)snprintf(list + len, sizeof list - len, "%s%s", len > 0 ? ", " : "",
                                    info->name);
    }
    moe_hint(err, "Supported types are %s.", list);
    return MOE_ERR_UNSUPPORTED;
}

/* Checks one slot and gives the bytes of one of its matrices, a multiple of 64. */
static moe_status slot_bytes(const moe_slot *slot, size_t *bytes, moe_error *err)
{
    const moe_type_info *info = moe_type_info_of(slot->type);
    int64_t rows = 0;
    size_t n_groups;

    if (slot->is_vector) {
        *bytes =
            ((size_t)slot->n_cols * sizeof(float) + SLOT_ALIGN - 1) & ~(size_t)(SLOT_ALIGN - 1);
        return MOE_OK;
    }
    if (info == NULL || !info->computable)
        return fail_type(slot, err);
    for (int i = 0; i < slot->n_pieces; i++)
        rows += slot->pieces[i].transposed ? slot->n_rows : slot->pieces[i].n_rows;
    if (rows != slot->n_mats * slot->n_rows)
        return moe_fail(err, MOE_ERR_FORMAT, "tensor \"%s\": %lld of %lld rows found",
                        slot->pieces[0].tensor->name, (long long)rows,
                        (long long)(slot->n_mats * slot->n_rows));
    if (slot->n_cols % info->block_columns != 0)
        return moe_fail(err, MOE_ERR_FORMAT,
                        "tensor \"%s\": rows of %lld columns can't be of type %s",
                        slot->pieces[0].tensor->name, (long long)slot->n_cols, info->name);
    n_groups = (size_t)((slot->n_rows + MOE_GROUP_ROWS - 1) / MOE_GROUP_ROWS);
    if (!moe_mul(n_groups, moe_packed_group_bytes(slot->type, slot->n_cols), bytes))
        return moe_fail(err, MOE_ERR_FORMAT, "tensor \"%s\" is too large",
                        slot->pieces[0].tensor->name);
    return MOE_OK;
}

static void count_type(tally *t, const moe_slot *slot)
{
    const moe_type_info *info = moe_type_info_of(slot->type);
    const size_t n_elements = (size_t)(slot->n_mats * slot->n_rows * slot->n_cols);
    int i = 0;

    if (!slot->present || slot->is_vector)
        return;
    while (i < t->n_types && t->types[i].type != slot->type)
        i++;
    if (i == (int)(sizeof t->types / sizeof t->types[0]))
        return;
    if (i == t->n_types) {
        t->types[t->n_types++].type = slot->type;
        t->types[i].bytes = 0;
    }
    t->types[i].bytes += n_elements / (size_t)info->block_columns * (size_t)info->block_bytes;
}

/* Puts the slot, or one matrix of it if each has a unit of its own, at the unit's end. */
static moe_status place(moe_slot *slot, int32_t unit, bool own_units, size_t *end, moe_error *err)
{
    size_t bytes, all;
    moe_status status;

    if (!slot->present)
        return MOE_OK;
    status = slot_bytes(slot, &bytes, err);
    if (status != MOE_OK)
        return status;
    slot->unit = unit;
    slot->offset = *end;
    slot->mat_stride = own_units ? 0 : bytes;
    if (!moe_mul(bytes, own_units ? 1 : (size_t)slot->n_mats, &all) || !moe_add(*end, all, end))
        return moe_fail(err, MOE_ERR_FORMAT, "the weights are too large for memory addresses");
    return MOE_OK;
}

static bool is_expert_slot(int slot)
{
    return slot == MOE_EXPERT_GATE || slot == MOE_EXPERT_UP || slot == MOE_EXPERT_DOWN;
}

static int64_t slot_params(const moe_slot *slot)
{
    return slot->present ? slot->n_mats * slot->n_rows * slot->n_cols : 0;
}

/* Active: what a token reads.  Of the experts the used share; tables don't count. */
static void count_params(moe_weights *w, const moe_model_spec *spec)
{
    int64_t all = 0, active = 0;

    for (int s = 0; s < MOE_N_GLOBAL_SLOTS; s++) {
        int64_t n = slot_params(&w->global[s]);

        all += n;
        active += is_table(w, spec, s) ? 0 : n;
    }
    for (int l = 0; l < w->n_layers; l++) {
        for (int s = 0; s < MOE_N_LAYER_SLOTS; s++) {
            int64_t n = slot_params(&w->layers[l][s]);

            all += n;
            active +=
                is_expert_slot(s) && n > 0 ? n / spec->moe.n_experts * spec->moe.n_experts_used : n;
        }
    }
    w->n_params = all;
    w->n_params_active = active;
}

/* Makes room for the units: one per dense part and expert. */
static moe_status allocate_units(moe_weights *w, moe_error *err)
{
    int64_t n = 1 + (int64_t)w->n_layers;

    w->n_dense = (int32_t)n;
    for (int l = 0; l < w->n_layers; l++)
        n += w->layers[l][MOE_EXPERT_UP].present ? w->layers[l][MOE_EXPERT_UP].n_mats : 0;
    if (n > MAX_UNITS)
        return moe_fail(err, MOE_ERR_UNSUPPORTED, "the model has more than %d experts in all",
                        MAX_UNITS);
    free(w->units);
    free(w->at);
    w->n_units = 0;
    w->units = calloc((size_t)n, sizeof *w->units);
    w->at = calloc((size_t)n, sizeof *w->at);
    if (w->units == NULL || w->at == NULL)
        return moe_fail_memory(err, (size_t)n * sizeof *w->units);
    return MOE_OK;
}

static moe_status add_unit(moe_weights *w, int layer, int expert, size_t bytes, moe_error *err)
{
    w->units[w->n_units++] = (moe_weight_unit){layer, expert, bytes};
    if (!moe_add(w->size, bytes, &w->size))
        return moe_fail(err, MOE_ERR_FORMAT, "the weights are too large for memory addresses");
    return MOE_OK;
}

/* The dense part of a layer, or what belongs to the whole model. */
static moe_status place_dense(moe_weights *w, int layer, moe_error *err)
{
    moe_slot *slots = layer < 0 ? w->global : w->layers[layer];
    const int n = layer < 0 ? MOE_N_GLOBAL_SLOTS : MOE_N_LAYER_SLOTS;
    moe_status status = MOE_OK;
    size_t bytes = 0;

    for (int s = 0; s < n && status == MOE_OK; s++)
        if (layer < 0 || !is_expert_slot(s))
            status = place(&slots[s], w->n_units, false, &bytes, err);
    return status == MOE_OK ? add_unit(w, layer, -1, bytes, err) : status;
}

static moe_status place_experts(moe_weights *w, int layer, moe_error *err)
{
    moe_slot *slots = w->layers[layer];
    moe_status status = MOE_OK;
    size_t bytes = 0;

    for (int s = 0; s < MOE_N_LAYER_SLOTS && status == MOE_OK; s++)
        if (is_expert_slot(s))
            status = place(&slots[s], w->n_units, true, &bytes, err);
    if (slots[MOE_EXPERT_UP].present)
        for (int e = 0; e < slots[MOE_EXPERT_UP].n_mats && status == MOE_OK; e++)
            status = add_unit(w, layer, e, bytes, err);
    return status;
}

moe_status moe_weights_layout(moe_weights *w, const moe_model_spec *spec, moe_error *err)
{
    tally t = {.n_types = 0};
    moe_status status = allocate_units(w, err);
    size_t most = 0;

    w->size = 0;
    for (int l = -1; l < w->n_layers && status == MOE_OK; l++)
        status = place_dense(w, l, err);
    for (int l = 0; l < w->n_layers && status == MOE_OK; l++)
        status = place_experts(w, l, err);
    if (status != MOE_OK)
        return status;
    for (int s = 0; s < MOE_N_GLOBAL_SLOTS; s++)
        if (!is_table(w, spec, s))
            count_type(&t, &w->global[s]);
    for (int l = 0; l < w->n_layers; l++)
        for (int s = 0; s < MOE_N_LAYER_SLOTS; s++)
            count_type(&t, &w->layers[l][s]);
    count_params(w, spec);
    for (int i = 0; i < t.n_types; i++) {
        if (t.types[i].bytes > most) {
            most = t.types[i].bytes;
            w->main_type = t.types[i].type;
        }
    }
    return MOE_OK;
}

/* --- access ---------------------------------------------------------------------------------- */

moe_matrix moe_slot_matrix(const moe_weights *w, const moe_slot *slot, int64_t i)
{
    const char *unit = w->at[slot->unit + (slot->mat_stride == 0 ? i : 0)];

    return (moe_matrix){slot->type, slot->n_rows, slot->n_cols,
                        unit + slot->offset + (size_t)i * slot->mat_stride};
}

const float *moe_slot_vector(const moe_weights *w, const moe_slot *slot)
{
    return slot->present ? (const float *)(const void *)(w->at[slot->unit] + slot->offset) : NULL;
}
