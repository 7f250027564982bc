/*
 * The expert cache: which units of a model's weights are in memory, and where.
 *
 * It lives in an arena, a range of memory that the host supplies and that several processes may
 * map, each at an address of its own.  Dense units have fixed places in it; experts share
 * frames, all of one size, large enough for any expert.  A unit that is wanted is pinned; if it is
 * not there, one of those who want it claims it, reads it into a frame, and tells the others, who
 * wait.  When no frame is free, one of the units without pins makes room.
 *
 * Nothing here reads files: who claims a unit fills it.  All functions may be called by any number
 * of processes and threads at the same time; a handle itself belongs to one thread.  A process that
 * dies while it has pins or a claim leaves the arena unusable: its host must make a new one.
 */
#ifndef MOE_EXPERT_CACHE_H
#define MOE_EXPERT_CACHE_H

#include "../model/weights.h"

typedef struct moe_cache_header moe_cache_header;
typedef struct moe_cache_unit moe_cache_unit;

/* A process's view of an arena.  It owns nothing. */
typedef struct moe_expert_cache {
    char *base;
    moe_cache_header *header;
    moe_cache_unit *units;
    int64_t hits, misses; /* told to moe_cache_touch through this handle */
    /* Told of each unit that moe_cache_pin is asked for by a step, with true if it was there; NULL
     * outside of tests and measurements. */
    void (*trace)(void *ud, int32_t unit, bool hit);
    void *trace_ud;
} moe_expert_cache;

/* Bytes of an arena for these weights with that many frames; SIZE_MAX if beyond all bounds. */
size_t moe_cache_bytes(const moe_weights *w, int32_t n_frames);

/* Makes a cache in an arena of `size` bytes (4096-byte aligned), which must be at least
 * moe_cache_bytes(w, 1), or (w, 0) for a model without experts.  As many frames as fit, at most one
 * per expert. */
void moe_cache_prepare(const moe_weights *w, void *arena, size_t size);

/* Looks at an arena that somebody has prepared; false if it was not for such weights. */
bool moe_cache_attach(moe_expert_cache *cache, const moe_weights *w, void *arena);

int32_t moe_cache_frames(const moe_expert_cache *cache);

typedef enum moe_pin_result {
    MOE_PIN_READY,   /* pinned: its content is there until moe_cache_unpin */
    MOE_PIN_CLAIMED, /* pinned: the caller must fill it and call moe_cache_settle */
    MOE_PIN_LOADING, /* somebody else fills it: see moe_cache_wait */
    MOE_PIN_ABSENT,  /* not there, and may_claim was false */
    MOE_PIN_FULL,    /* every frame is pinned: see moe_cache_wait_room */
} moe_pin_result;

/* Pins a unit or claims it; *address is set for the first two results. */
moe_pin_result moe_cache_pin(moe_expert_cache *cache, int32_t unit, bool may_claim, char **address);

/* Ends a claim: the content is there and stays pinned, or it could not be had and nothing is. */
void moe_cache_settle(moe_expert_cache *cache, int32_t unit, bool filled);
void moe_cache_unpin(moe_expert_cache *cache, int32_t unit);

/* Sleeps until the unit is no longer being filled, or a frame without pins may be had, but for at
 * most `ms` milliseconds; may also return earlier. */
void moe_cache_wait(moe_expert_cache *cache, int32_t unit, int ms);
void moe_cache_wait_room(moe_expert_cache *cache, int ms);

/* A step has come to this layer: its routing, and with it the age of what the layer's experts have
 * been used for.  moe_cache_touch: the step wants this expert, which was there (hit) or not. */
void moe_cache_visit(moe_expert_cache *cache, int layer);
void moe_cache_touch(moe_expert_cache *cache, int32_t unit, bool hit);

/* How much a unit has been used of late, about 0 to 65535: see moe_cache_touch. */
uint32_t moe_cache_heat(const moe_expert_cache *cache, int32_t unit);
bool moe_cache_resident(const moe_expert_cache *cache, int32_t unit);

/* True if a frame can be had without evicting anything. */
bool moe_cache_has_room(const moe_expert_cache *cache);

/* --- what the host may ask an arena, also without weights: moe.h ----------------------------- */

#endif
