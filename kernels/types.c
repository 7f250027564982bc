/*
 * The table of element types: every number of the GGUF format, and after 256 the types that only
 * safetensors files use, and one that only packed weights have.
 *
 * Types outside the kernels' reach are listed too, because the size of a tensor must be known to
 * check it against the file, and because an error should name the type.  Numbers that the format
 * has withdrawn (4, 5, 31 to 33, 36 to 38) and numbers of private forks have no entry.  Sizes are
 * those of the block structs in ggml-common.h of llama.cpp and of the safetensors format
 * description.
 */
#include "types.h"

#define FIRST_SAFETENSORS_TYPE 256

static const moe_type_info gguf_types[] = {
    [MOE_TYPE_F32] = {"F32", 1, 4, true},
    [MOE_TYPE_F16] = {"F16", 1, 2, true},
    [MOE_TYPE_Q4_0] = {"Q4_0", 32, 18, true},
    [MOE_TYPE_Q4_1] = {"Q4_1", 32, 20, true},
    [MOE_TYPE_Q5_0] = {"Q5_0", 32, 22, true},
    [MOE_TYPE_Q5_1] = {"Q5_1", 32, 24, true},
    [MOE_TYPE_Q8_0] = {"Q8_0", 32, 34, true},
    [9] = {"Q8_1", 32, 36, false},
    [10] = {"Q2_K", 256, 84, false},
    [11] = {"Q3_K", 256, 110, false},
    [MOE_TYPE_Q4_K] = {"Q4_K", 256, 144, true},
    [MOE_TYPE_Q5_K] = {"Q5_K", 256, 176, true},
    [MOE_TYPE_Q6_K] = {"Q6_K", 256, 210, true},
    [15] = {"Q8_K", 256, 292, false},
    [16] = {"IQ2_XXS", 256, 66, false},
    [17] = {"IQ2_XS", 256, 74, false},
    [18] = {"IQ3_XXS", 256, 98, false},
    [19] = {"IQ1_S", 256, 50, false},
    [20] = {"IQ4_NL", 32, 18, false},
    [21] = {"IQ3_S", 256, 110, false},
    [22] = {"IQ2_S", 256, 82, false},
    [23] = {"IQ4_XS", 256, 136, false},
    [24] = {"I8", 1, 1, false},
    [25] = {"I16", 1, 2, false},
    [26] = {"I32", 1, 4, false},
    [27] = {"I64", 1, 8, false},
    [28] = {"F64", 1, 8, false},
    [29] = {"IQ1_M", 256, 56, false},
    [MOE_TYPE_BF16] = {"BF16", 1, 2, true},
    [34] = {"TQ1_0", 256, 54, false},
    [35] = {"TQ2_0", 256, 66, false},
    [39] = {"MXFP4", 32, 17, false},
    [40] = {"NVFP4", 64, 36, false},
    [41] = {"Q1_0", 128, 18, false},
    [42] = {"Q2_0", 64, 18, false},
};

/* Names as in the "dtype" field. */
static const moe_type_info safetensors_types[] = {
    {"F8_E4M3", 1, 1, false}, {"F8_E5M2", 1, 1, false}, {"F8_E8M0", 1, 1, false},
    {"BOOL", 1, 1, false},    {"U8", 1, 1, false},      {"U16", 1, 2, false},
    {"U32", 1, 4, false},     {"U64", 1, 8, false},     {"C64", 1, 8, false},
    {"F4", 2, 1, false},      {"F6_E2M3", 4, 3, false}, {"F6_E3M2", 4, 3, false},
};

static const moe_type_info bf16_pairs = {"BF16", 1, 2, true};

static const moe_type_info *entry(const moe_type_info *table, size_t n, int i)
{
    return i >= 0 && (size_t)i < n && table[i].name != NULL ? &table[i] : NULL;
}

const moe_type_info *moe_type_info_of(int type)
{
    if (type == MOE_TYPE_BF16_PAIRS)
        return &bf16_pairs;
    if (type >= FIRST_SAFETENSORS_TYPE)
        return entry(safetensors_types, sizeof(safetensors_types) / sizeof(safetensors_types[0]),
                     type - FIRST_SAFETENSORS_TYPE);
    return entry(gguf_types, sizeof(gguf_types) / sizeof(gguf_types[0]), type);
}
