/*
 * The shapes of AMX's tile registers, in the form that LDTILECFG reads (Intel SDM, palette 1: eight
 * registers of at most 16 rows of 64 bytes).
 */
#ifndef MOE_CPU_AMX_TILES_H
#define MOE_CPU_AMX_TILES_H

#include <stdint.h>

typedef struct moe_tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} moe_tile_shapes;

#endif
