/*
 * Packing groups of rows: every instruction set of this machine writes the
 * bytes of the scalar code, and all of the group's bytes, and reads nothing
 * beyond the rows.
 */
#include "kernel_testing.h"

static const moe_type types[] = {
    MOE_TYPE_F32,  MOE_TYPE_F16,  MOE_TYPE_BF16, MOE_TYPE_Q8_0, MOE_TYPE_Q4_0, MOE_TYPE_Q4_1,
    MOE_TYPE_Q5_0, MOE_TYPE_Q5_1, MOE_TYPE_Q4_K, MOE_TYPE_Q5_K, MOE_TYPE_Q6_K,
};

/* One group of random rows, each in an allocation of its own that begins at an
 * odd address. */
static void check_group(uint64_t *state, moe_type type, int n_rows, int64_t n_cols)
{
    const moe_type_info *info = moe_type_info_of(type);
    const size_t row_bytes = moe_type_row_bytes(info, n_cols);
    const size_t group_bytes = moe_packed_group_bytes(type, n_cols);
    uint8_t *expected = aligned_alloc(64, group_bytes), *got = aligned_alloc(64, group_bytes);
    uint8_t *rows[MOE_GROUP_ROWS];
    const void *pointers[MOE_GROUP_ROWS];
    const moe_kernels *tables[N_TABLES];
    const int n_tables = tables_present(tables);

    assert_non_null(expected);
    assert_non_null(got);
    for (int i = 0; i < n_rows; i++) {
        rows[i] = new_array(1 + row_bytes, 1);
        for (size_t k = 0; k < row_bytes; k++)
            rows[i][1 + k] = (uint8_t)random_bits(state);
        pointers[i] = rows[i] + 1;
    }
    memset(expected, 0x5a, group_bytes);
    tables[0]->pack_group(type, pointers, n_rows, n_cols, expected);
    for (int t = 1; t < n_tables; t++) {
        memset(got, 0xa5, group_bytes);
        tables[t]->pack_group(type, pointers, n_rows, n_cols, got);
        for (size_t k = 0; k < group_bytes; k++)
            if (got[k] != expected[k])
                fail_msg("%s, %s, %d rows of %lld columns: byte %zu of %zu is %d, "
                         "expected %d",
                         tables[t]->name, info->name, n_rows, (long long)n_cols, k, group_bytes,
                         got[k], expected[k]);
    }
    for (int i = 0; i < n_rows; i++)
        free(rows[i]);
    free(expected);
    free(got);
}

static void every_instruction_set_packs_alike(void **unused)
{
    uint64_t state = 1;

    (void)unused;
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        const int block = moe_type_info_of(types[t])->block_columns;

        for (int n_blocks = 1; n_blocks <= (block == 1 ? 40 : 9); n_blocks++)
            for (int round = 0; round < 4; round++)
                check_group(&state, types[t], MOE_GROUP_ROWS, (int64_t)n_blocks * block);
        for (int n_rows = 1; n_rows < MOE_GROUP_ROWS; n_rows++)
            check_group(&state, types[t], n_rows, 3 * block);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_instruction_set_packs_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
