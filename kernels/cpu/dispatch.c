/*
 * Which kernels run: what the CPU and the operating system offer, and one constant table of
 * functions per instruction set.  The tables differ in speed only (NUMERICS.md).  AVX512_BF16 and
 * AMX are AVX-512 with other products of BF16_PAIRS weights, AMX also of quantised ones.
 */
#include "kernels.h"

#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attention.h"
#include "bf16_matmul.h"
#include "float_matmul.h"
#include "pack.h"
#include "quant.h"
#include "vector.h"

/* State components of XCR0 that the system saves: SSE and AVX; AVX-512 masks and registers. */
#define XCR0_AVX 0x06u
#define XCR0_AVX512 0xe0u
#define XCR0_AMX 0x60000u /* tile configuration and data */

static uint32_t saved_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static bool all_bits(uint32_t value, uint32_t bits)
{
    return (value & bits) == bits;
}

/* Linux gives a process the tile registers when it asks for them; threads share the permission. */
static bool may_use_tiles(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* On a CPU with AVX-512. */
static bool has_bf16_pairs(void)
{
    uint32_t eax, ebx, ecx, edx;

    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && all_bits(eax, bit_AVX512BF16) &&
           moe_bf16_pairs_are_chains();
}

moe_isa moe_cpu_best_isa(void)
{
    uint32_t eax, ebx, ecx, edx;

    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) ||
        !all_bits(ecx, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C))
        return MOE_ISA_SCALAR;
    uint32_t state = saved_state();
    if (!all_bits(state, XCR0_AVX) || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) ||
        !all_bits(ebx, bit_AVX2))
        return MOE_ISA_SCALAR;
    if (!all_bits(state, XCR0_AVX512) || !all_bits(ecx, bit_AVX512VNNI) ||
        !all_bits(ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL))
        return MOE_ISA_AVX2;
    if (!all_bits(state, XCR0_AMX) || !all_bits(edx, bit_AMX_TILE | bit_AMX_INT8 | bit_AMX_BF16) ||
        !may_use_tiles())
        return has_bf16_pairs() ? MOE_ISA_AVX512_BF16 : MOE_ISA_AVX512;
    return MOE_ISA_AMX;
}

/* The matrix product of an instruction set, by the form of activations that the type takes. */
#define DEFINE_MATMUL(isa, float_isa, quant_isa)                                                   \
    static void matmul_##isa(const moe_matrix *w, int64_t group_begin, int64_t group_end,          \
                             const moe_activations *x, const int32_t *rows, int64_t n_tokens,      \
                             float *y, int64_t ldy)                                                \
    {                                                                                              \
        if (moe_act_form_of(w->type) == MOE_ACT_F32)                                               \
            moe_matmul_float_##float_isa(w, group_begin, group_end, x, rows, n_tokens, y, ldy);    \
        else if (w->type == MOE_TYPE_BF16_PAIRS)                                                   \
            moe_matmul_bf16_##isa(w, group_begin, group_end, x, rows, n_tokens, y, ldy);           \
        else                                                                                       \
            moe_matmul_quant_##quant_isa(w, group_begin, group_end, x, rows, n_tokens, y, ldy);    \
    }

DEFINE_MATMUL(scalar, scalar, scalar)
DEFINE_MATMUL(avx2, avx2, avx2)
DEFINE_MATMUL(avx512, avx512, avx512)
DEFINE_MATMUL(avx512_bf16, avx512, avx512)
DEFINE_MATMUL(amx, avx512, amx)

/* A table whose product is that of one instruction set and whose other functions of another. */
#define TABLE(number, product, isa_)                                                               \
    {                                                                                              \
        .isa = number, .name = #product, .matmul = matmul_##product,                               \
        .pack_group = moe_pack_group_##isa_, .quantize_32 = moe_quantize_32_##isa_,                \
        .quantize_256 = moe_quantize_256_##isa_, .round_bf16 = moe_round_bf16_##product,           \
        .bf16_bytes = number >= MOE_ISA_AVX512_BF16 ? 2 : 4, .dot = moe_dot_##isa_,                \
        .sum = moe_sum_##isa_, .max = moe_max_##isa_, .rms_norm = moe_rms_norm_##isa_,             \
        .layer_norm = moe_layer_norm_##isa_, .add = moe_add_##isa_,                                \
        .add_scaled = moe_add_scaled_##isa_, .scale = moe_scale_##isa_,                            \
        .silu_mul = moe_silu_mul_##isa_, .gelu_mul = moe_gelu_mul_##isa_,                          \
        .gelu_erf = moe_gelu_erf_##isa_, .gelu_tanh = moe_gelu_tanh_##isa_, .exp = moe_exp_##isa_, \
        .sigmoid = moe_sigmoid_##isa_, .softmax = moe_softmax_##isa_,                              \
        .exp_sum = moe_exp_sum_##isa_, .rope = moe_rope_##isa_, .kv_store = moe_kv_store_##isa_,   \
        .attn_block = moe_attn_block_##isa_, .attn_combine = moe_attn_combine_##isa_,              \
        .attn_text = moe_attn_text_##isa_,                                                         \
    }

static const moe_kernels tables[] = {
    [MOE_ISA_SCALAR] = TABLE(MOE_ISA_SCALAR, scalar, scalar),
    [MOE_ISA_AVX2] = TABLE(MOE_ISA_AVX2, avx2, avx2),
    [MOE_ISA_AVX512] = TABLE(MOE_ISA_AVX512, avx512, avx512),
    [MOE_ISA_AVX512_BF16] = TABLE(MOE_ISA_AVX512_BF16, avx512_bf16, avx512),
    [MOE_ISA_AMX] = TABLE(MOE_ISA_AMX, amx, avx512),
};

const moe_kernels *moe_cpu_kernels(moe_isa isa)
{
    moe_isa best = moe_cpu_best_isa();

    if (isa == MOE_ISA_AUTO)
        isa = best;
    if (isa < MOE_ISA_SCALAR || isa > best || (isa == MOE_ISA_AVX512_BF16 && !has_bf16_pairs()))
        return NULL;
    return &tables[isa];
}

bool moe_isa_by_name(const char *name, moe_isa *isa)
{
    static const struct {
        const char *name;
        moe_isa isa;
    } names[] = {
        {"auto", MOE_ISA_AUTO},     {"scalar", MOE_ISA_SCALAR},           {"avx2", MOE_ISA_AVX2},
        {"avx512", MOE_ISA_AVX512}, {"avx512_bf16", MOE_ISA_AVX512_BF16}, {"amx", MOE_ISA_AMX},
    };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i].name) == 0) {
            *isa = names[i].isa;
            return true;
        }
    }
    return false;
}
