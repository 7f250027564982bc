/*
 * The expert cache.
 *
 * The arena: a header, a moe_cache_unit per unit, a moe_cache_layer per layer, the owner of each
 * frame, the places of the dense units, the frames.  Offsets in place of pointers.
 *
 * A unit's state is one atomic word: flags, and below them the number of pins.
 *
 *     0                   absent
 *     LOADING + 1         claimed: one process fills its place or frame
 *     RESIDENT + n        there, with n pins
 *
 * WAITERS beside LOADING tells that somebody sleeps on the word (a futex).  Pins come and go by
 * compare-and-swap and subtraction on that word alone.  Frames are given and taken under the lock,
 * a futex too, which is held for some microseconds and never while something is loaded; only who
 * holds it turns RESIDENT + 0 into absent.
 *
 * Which unit makes room: of WINDOW units without pins from the clock hand on, the one with the
 * least heat for the time that it would keep its frame.  Heat estimates how likely the next visit
 * to the unit's layer wants it: a sum over its uses in which each counts half as much after some
 * visits of the layer, once with a short and once with a long half-life, since routing depends on
 * the text at hand and on what the expert is for.  That visit is due when all layers have had one
 * since the last: what has just been computed comes last again.  test/bench/README.md compares this
 * with the optimum.  The heat of what was evicted is kept.
 *
 * An arena can become smaller and larger at its end while it is in use: frames that are beyond it
 * are handed out no more, and emptied as soon as they have no pins.
 */
#define _GNU_SOURCE
#include "expert_cache.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    PINS = 0xffffff,
    RESIDENT = 1 << 24,
    LOADING = 1 << 25,
    WAITERS = 1 << 26,
};

enum {
    PAGE = 4096,
    LINE = 64,
    WINDOW = 64,
    NO_FRAME = -1,
    SHORT_HALF = 2, /* visits */
    LONG_HALF = 128,
    SHORT_USE = 1 << 14, /* one use; a use in every visit adds up to 3.41 of them */
    LONG_USE = 1 << 8,   /* and here to 185 */
};

#define MAGIC UINT64_C(0x31636178655f656d)

struct moe_cache_header {
    uint64_t magic;
    uint64_t size; /* of all units */
    int32_t n_units, n_dense, n_layers, n_frames;
    int32_t n_expert_layers;
    uint64_t frame_bytes;
    uint64_t units_at, layers_at, owners_at, dense_at, frames_at; /* from the arena's start */

    _Alignas(LINE) atomic_uint lock; /* 0 free, 1 held, 2 held and somebody sleeps */
    int32_t hand;                    /* the rest of this line: under the lock */
    atomic_int free_frame;           /* first of the free ones, NO_FRAME if none; read without */
    atomic_ullong evictions, loads;

    _Alignas(LINE) atomic_uint visits; /* to all layers */

    _Alignas(LINE) atomic_uint room; /* raised when a pin goes while room_waiters is not 0 */
    atomic_uint room_waiters;
};

struct moe_cache_unit {
    _Alignas(LINE) atomic_uint state;
    atomic_int frame;   /* of an expert that is not absent */
    atomic_ullong heat; /* number of the layer's visit, long sum, short sum: 32, 16, 16 bits */
    atomic_ullong hits;
    atomic_ullong misses;
    uint64_t place; /* of a dense unit, from the arena's start */
    uint64_t bytes;
    int32_t layer, expert;
};

typedef struct moe_cache_layer {
    atomic_uint visits;
    atomic_uint last; /* value of the header's visits at the last one */
} moe_cache_layer;

_Static_assert(sizeof(moe_cache_unit) == LINE, "a unit is one cache line");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2,
               "atomics must work between processes");

/* --- layout ---------------------------------------------------------------------------------- */

static bool add_rounded(size_t *sum, size_t n, size_t size, size_t multiple)
{
    size_t bytes;

    if (!moe_mul(n, size, &bytes) || !moe_add(*sum, bytes, sum) ||
        !moe_add(*sum, multiple - 1, sum))
        return false;
    *sum &= ~(multiple - 1);
    return true;
}

static size_t frame_bytes_of(const moe_weights *w)
{
    size_t most = 0;

    for (int32_t u = w->n_dense; u < w->n_units; u++)
        most = w->units[u].bytes > most ? w->units[u].bytes : most;
    return (most + PAGE - 1) & ~(size_t)(PAGE - 1);
}

/* Where everything lies in an arena with room for the owners of all frames there may be; false if
 * it is beyond all bounds. */
static bool lay_out(const moe_weights *w, moe_cache_header *h)
{
    size_t at = sizeof(moe_cache_header);

    *h = (moe_cache_header){
        .magic = MAGIC,
        .size = w->size,
        .n_units = w->n_units,
        .n_dense = w->n_dense,
        .n_layers = w->n_layers,
        .frame_bytes = frame_bytes_of(w),
        .units_at = at,
    };
    if (!add_rounded(&at, (size_t)w->n_units, sizeof(moe_cache_unit), LINE))
        return false;
    h->layers_at = at;
    if (!add_rounded(&at, (size_t)w->n_layers, sizeof(moe_cache_layer), LINE))
        return false;
    h->owners_at = at;
    if (!add_rounded(&at, (size_t)(w->n_units - w->n_dense), sizeof(int32_t), PAGE))
        return false;
    h->dense_at = at;
    for (int32_t u = 0; u < w->n_dense; u++)
        if (!moe_add(at, w->units[u].bytes, &at))
            return false;
    if (!add_rounded(&at, 0, 0, PAGE))
        return false;
    h->frames_at = at;
    return true;
}

size_t moe_cache_bytes(const moe_weights *w, int32_t n_frames)
{
    moe_cache_header h;
    size_t bytes;

    if (!lay_out(w, &h))
        return SIZE_MAX;
    bytes = h.frames_at;
    return add_rounded(&bytes, (size_t)n_frames, h.frame_bytes, PAGE) ? bytes : SIZE_MAX;
}

static int32_t *owners_of(const moe_expert_cache *c)
{
    return (int32_t *)(void *)(c->base + c->header->owners_at);
}

static moe_cache_layer *layers_of(const moe_expert_cache *c)
{
    return (moe_cache_layer *)(void *)(c->base + c->header->layers_at);
}

static moe_expert_cache view_of(const void *arena)
{
    char *base = (char *)(uintptr_t)arena;
    moe_cache_header *header = (moe_cache_header *)(void *)base;

    return (moe_expert_cache){
        .base = base,
        .header = header,
        .units = (moe_cache_unit *)(void *)(base + header->units_at),
    };
}

/* A frame that is free has the next free one as its owner. */
static int32_t free_link(int32_t next)
{
    return -2 - next; /* next is NO_FRAME at the end, so this is negative */
}

/* The owner of a frame that is beyond the arena's end. */
#define BEYOND INT32_MIN

/* How many frames an arena of that size has. */
static int32_t frames_in(const moe_cache_header *h, size_t size)
{
    const int32_t n_experts = h->n_units - h->n_dense;
    const size_t n =
        n_experts > 0 && size > h->frames_at ? (size - h->frames_at) / h->frame_bytes : 0;

    return n < (size_t)n_experts ? (int32_t)n : n_experts;
}

void moe_cache_prepare(const moe_weights *w, void *arena, size_t size)
{
    moe_cache_header *h = arena;
    const int32_t n_experts = w->n_units - w->n_dense;
    moe_expert_cache c;
    size_t place;

    lay_out(w, h);
    memset((char *)arena + sizeof *h, 0, h->dense_at - sizeof *h);
    c = view_of(arena);
    h->n_frames = frames_in(h, size);
    place = h->dense_at;
    for (int32_t u = 0; u < w->n_units; u++) {
        moe_cache_unit *unit = &c.units[u];

        unit->layer = w->units[u].layer;
        unit->expert = w->units[u].expert;
        unit->bytes = w->units[u].bytes;
        atomic_init(&unit->frame, NO_FRAME);
        if (u < w->n_dense) {
            unit->place = place;
            place += unit->bytes;
        } else {
            h->n_expert_layers += u == w->n_dense || unit->layer != c.units[u - 1].layer;
        }
    }
    for (int32_t f = 0; f < h->n_frames; f++)
        owners_of(&c)[f] = free_link(f + 1 < h->n_frames ? f + 1 : NO_FRAME);
    for (int32_t f = h->n_frames; f < n_experts; f++)
        owners_of(&c)[f] = BEYOND;
    atomic_init(&h->free_frame, h->n_frames > 0 ? 0 : NO_FRAME);
}

bool moe_cache_attach(moe_expert_cache *cache, const moe_weights *w, void *arena)
{
    moe_cache_header wanted;

    *cache = view_of(arena);
    return lay_out(w, &wanted) && cache->header->magic == MAGIC &&
           cache->header->size == wanted.size && cache->header->n_units == wanted.n_units &&
           cache->header->n_dense == wanted.n_dense && cache->header->n_layers == wanted.n_layers &&
           cache->header->frame_bytes == wanted.frame_bytes;
}

int32_t moe_cache_frames(const moe_expert_cache *cache)
{
    return cache->header->n_frames;
}

/* --- sleeping -------------------------------------------------------------------------------- */

/* Sleeps while *word is `value`, at most ms milliseconds (-1: any time); may wake for no reason. */
static void futex_wait(atomic_uint *word, unsigned value, int ms)
{
    const struct timespec limit = {ms / 1000, ms % 1000 * 1000000L};

    syscall(SYS_futex, word, FUTEX_WAIT, value, ms < 0 ? NULL : &limit, NULL, 0);
}

static void futex_wake(atomic_uint *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE, n, NULL, NULL, 0);
}

static void lock(moe_cache_header *h)
{
    unsigned found = 0;

    if (atomic_compare_exchange_strong_explicit(&h->lock, &found, 1, memory_order_acquire,
                                                memory_order_relaxed))
        return;
    while (atomic_exchange_explicit(&h->lock, 2, memory_order_acquire) != 0)
        futex_wait(&h->lock, 2, -1);
}

static void unlock(moe_cache_header *h)
{
    if (atomic_exchange_explicit(&h->lock, 0, memory_order_release) == 2)
        futex_wake(&h->lock, 1);
}

/* --- heat ------------------------------------------------------------------------------------ */

/* sum * 2^(-age / half), between whole half-lives along a line. */
static uint32_t decayed(uint32_t sum, uint32_t age, uint32_t half)
{
    if (age / half > 15)
        return 0;
    sum >>= age / half;
    return sum - sum * (age % half) / (2 * half);
}

/* The two sums of a unit at visit `now` of its layer. */
static void sums_at(uint64_t heat, uint32_t now, uint32_t *of_short, uint32_t *of_long)
{
    const uint32_t age = now - (uint32_t)(heat >> 32);

    *of_short = decayed((uint32_t)heat & 0xffff, age, SHORT_HALF);
    *of_long = decayed((uint32_t)heat >> 16 & 0xffff, age, LONG_HALF);
}

static uint32_t visits_to(const moe_expert_cache *c, const moe_cache_unit *unit)
{
    return unit->expert < 0
               ? 0
               : atomic_load_explicit(&layers_of(c)[unit->layer].visits, memory_order_relaxed);
}

uint32_t moe_cache_heat(const moe_expert_cache *cache, int32_t u)
{
    const moe_cache_unit *unit = &cache->units[u];
    uint32_t of_short, of_long;

    sums_at(atomic_load_explicit(&unit->heat, memory_order_relaxed), visits_to(cache, unit),
            &of_short, &of_long);
    return (of_short * 15 + of_long * 71) >> 6; /* a fifth and four fifths of 65535 at most */
}

void moe_cache_visit(moe_expert_cache *cache, int layer)
{
    moe_cache_layer *l = &layers_of(cache)[layer];

    atomic_fetch_add_explicit(&l->visits, 1, memory_order_relaxed);
    atomic_store_explicit(
        &l->last, atomic_fetch_add_explicit(&cache->header->visits, 1, memory_order_relaxed) + 1,
        memory_order_relaxed);
}

void moe_cache_touch(moe_expert_cache *cache, int32_t u, bool hit)
{
    moe_cache_unit *unit = &cache->units[u];
    const uint32_t now = visits_to(cache, unit);
    uint32_t of_short, of_long;

    atomic_fetch_add_explicit(hit ? &unit->hits : &unit->misses, 1, memory_order_relaxed);
    *(hit ? &cache->hits : &cache->misses) += 1;
    sums_at(atomic_load_explicit(&unit->heat, memory_order_relaxed), now, &of_short, &of_long);
    of_short = of_short + SHORT_USE < 0xffff ? of_short + SHORT_USE : 0xffff;
    of_long = of_long + LONG_USE < 0xffff ? of_long + LONG_USE : 0xffff;
    atomic_store_explicit(&unit->heat, (uint64_t)now << 32 | of_long << 16 | of_short,
                          memory_order_relaxed);
    if (cache->trace != NULL)
        cache->trace(cache->trace_ud, u, hit);
}

/* --- frames ---------------------------------------------------------------------------------- */

/* What an expert's frame is worth: its heat over the visits until the next one to its layer.  Half
 * a round is added, since heat lasts for longer than one visit. */
static uint64_t worth(const moe_expert_cache *c, int32_t u)
{
    const uint32_t round = (uint32_t)c->header->n_expert_layers;
    const uint32_t since =
        atomic_load_explicit(&c->header->visits, memory_order_relaxed) -
        atomic_load_explicit(&layers_of(c)[c->units[u].layer].last, memory_order_relaxed);
    const uint32_t due = since < round ? round - since : 1;

    return ((uint64_t)moe_cache_heat(c, u) << 32) / (round + 2 * due);
}

/* Makes the least worth of some units without pins absent and returns its frame, NO_FRAME if all
 * are pinned.  Under the lock. */
static int32_t evict_one(moe_expert_cache *c)
{
    moe_cache_header *h = c->header;
    const int32_t *owners = owners_of(c);

    for (;;) {
        int32_t chosen = NO_FRAME, seen = 0, i = 0;
        uint64_t least = UINT64_MAX;
        unsigned resident = RESIDENT;
        moe_cache_unit *victim;

        for (; i < h->n_frames && seen < WINDOW; i++) {
            const int32_t f = h->hand + i < h->n_frames ? h->hand + i : h->hand + i - h->n_frames;
            uint64_t value;

            if (owners[f] < 0 ||
                atomic_load_explicit(&c->units[owners[f]].state, memory_order_relaxed) != RESIDENT)
                continue;
            seen++;
            value = worth(c, owners[f]);
            if (value < least) {
                least = value;
                chosen = f;
            }
        }
        h->hand = (int32_t)(((int64_t)h->hand + i) % h->n_frames);
        if (chosen == NO_FRAME)
            return NO_FRAME;
        victim = &c->units[owners[chosen]];
        if (atomic_compare_exchange_strong_explicit(&victim->state, &resident, 0,
                                                    memory_order_acquire, memory_order_relaxed)) {
            atomic_fetch_add_explicit(&h->evictions, 1, memory_order_relaxed);
            return chosen;
        }
    }
}

/* Finds a frame for a unit that the caller has claimed. */
static bool take_frame(moe_expert_cache *c, int32_t u)
{
    moe_cache_header *h = c->header;
    int32_t f;

    lock(h);
    f = atomic_load_explicit(&h->free_frame, memory_order_relaxed);
    if (f != NO_FRAME)
        atomic_store_explicit(&h->free_frame, -2 - owners_of(c)[f], memory_order_relaxed);
    else if (h->n_frames > 0)
        f = evict_one(c);
    if (f != NO_FRAME)
        owners_of(c)[f] = u;
    unlock(h);
    atomic_store_explicit(&c->units[u].frame, f, memory_order_relaxed);
    return f != NO_FRAME;
}

/* Under the lock. */
static void free_frame(moe_expert_cache *c, int32_t f)
{
    moe_cache_header *h = c->header;

    if (f >= h->n_frames) {
        owners_of(c)[f] = BEYOND;
        return;
    }
    owners_of(c)[f] = free_link(atomic_load_explicit(&h->free_frame, memory_order_relaxed));
    atomic_store_explicit(&h->free_frame, f, memory_order_relaxed);
}

bool moe_cache_has_room(const moe_expert_cache *cache)
{
    return atomic_load_explicit(&cache->header->free_frame, memory_order_relaxed) != NO_FRAME;
}

/* --- pins ------------------------------------------------------------------------------------ */

static char *address_of(const moe_expert_cache *c, int32_t u)
{
    const moe_cache_header *h = c->header;

    if (u < h->n_dense)
        return c->base + c->units[u].place;
    return c->base + h->frames_at +
           (size_t)atomic_load_explicit(&c->units[u].frame, memory_order_relaxed) * h->frame_bytes;
}

/* Gives a state that is not RESIDENT up for `state`, and wakes those who waited for that. */
static void leave_loading(moe_cache_unit *unit, unsigned state)
{
    if (atomic_exchange_explicit(&unit->state, state, memory_order_release) & WAITERS)
        futex_wake(&unit->state, INT_MAX);
}

/* A pin has gone: somebody may wait for one. */
static void tell_of_room(moe_cache_header *h)
{
    if (atomic_load(&h->room_waiters) == 0)
        return;
    atomic_fetch_add(&h->room, 1);
    futex_wake(&h->room, INT_MAX);
}

moe_pin_result moe_cache_pin(moe_expert_cache *cache, int32_t u, bool may_claim, char **address)
{
    moe_cache_unit *unit = &cache->units[u];
    unsigned state = atomic_load_explicit(&unit->state, memory_order_relaxed);

    for (;;) {
        unsigned next;

        if (state & LOADING)
            return MOE_PIN_LOADING;
        if (!(state & RESIDENT) && !may_claim)
            return MOE_PIN_ABSENT;
        next = state & RESIDENT ? state + 1 : LOADING + 1;
        if (atomic_compare_exchange_weak_explicit(&unit->state, &state, next, memory_order_acquire,
                                                  memory_order_relaxed))
            break;
    }
    if (!(state & RESIDENT) && u >= cache->header->n_dense && !take_frame(cache, u)) {
        leave_loading(unit, 0);
        return MOE_PIN_FULL;
    }
    *address = address_of(cache, u);
    return state & RESIDENT ? MOE_PIN_READY : MOE_PIN_CLAIMED;
}

void moe_cache_settle(moe_expert_cache *cache, int32_t u, bool filled)
{
    moe_cache_header *h = cache->header;
    moe_cache_unit *unit = &cache->units[u];

    if (filled) {
        atomic_fetch_add_explicit(&h->loads, 1, memory_order_relaxed);
        leave_loading(unit, RESIDENT + 1);
        return;
    }
    if (u >= h->n_dense) {
        lock(h);
        free_frame(cache, atomic_load_explicit(&unit->frame, memory_order_relaxed));
        unlock(h);
    }
    leave_loading(unit, 0);
    tell_of_room(h);
}

void moe_cache_unpin(moe_expert_cache *cache, int32_t u)
{
    const unsigned before =
        atomic_fetch_sub_explicit(&cache->units[u].state, 1, memory_order_release);

    if ((before & PINS) == 1)
        tell_of_room(cache->header);
}

void moe_cache_wait(moe_expert_cache *cache, int32_t u, int ms)
{
    atomic_uint *word = &cache->units[u].state;
    unsigned state = atomic_load(word);

    if ((state & LOADING) &&
        ((state & WAITERS) || atomic_compare_exchange_strong(word, &state, state | WAITERS)))
        futex_wait(word, state | WAITERS, ms);
}

void moe_cache_wait_room(moe_expert_cache *cache, int ms)
{
    moe_cache_header *h = cache->header;

    atomic_fetch_add(&h->room_waiters, 1);
    futex_wait(&h->room, atomic_load(&h->room), ms);
    atomic_fetch_sub(&h->room_waiters, 1);
}

bool moe_cache_resident(const moe_expert_cache *cache, int32_t u)
{
    return atomic_load_explicit(&cache->units[u].state, memory_order_relaxed) & RESIDENT;
}

/* --- what the host may ask -------------------------------------------------------------------- */

void moe_arena_stats_of(const void *arena, moe_arena_stats *out)
{
    const moe_expert_cache c = view_of(arena);

    *out = (moe_arena_stats){
        .n_units = c.header->n_units,
        .bytes = c.header->size,
        .loads = (int64_t)atomic_load(&c.header->loads),
        .evictions = (int64_t)atomic_load(&c.header->evictions),
    };
    for (int32_t u = 0; u < c.header->n_units; u++) {
        const unsigned state = atomic_load_explicit(&c.units[u].state, memory_order_relaxed);

        out->hits += (int64_t)atomic_load_explicit(&c.units[u].hits, memory_order_relaxed);
        out->misses += (int64_t)atomic_load_explicit(&c.units[u].misses, memory_order_relaxed);
        out->pins += (int)(state & PINS);
        out->expert_pins += u >= c.header->n_dense ? (int)(state & PINS) : 0;
        if (state & RESIDENT) {
            out->n_resident++;
            out->resident_bytes += c.units[u].bytes;
        }
    }
}

bool moe_arena_unit_of(const void *arena, int i, moe_arena_unit *out)
{
    const moe_expert_cache c = view_of(arena);
    uint32_t heat;

    if (i < 0 || i >= c.header->n_units)
        return false;
    heat = moe_cache_heat(&c, i);
    *out = (moe_arena_unit){
        .layer = c.units[i].layer,
        .expert = c.units[i].expert,
        .bytes = c.units[i].bytes,
        .hits = (int64_t)atomic_load_explicit(&c.units[i].hits, memory_order_relaxed),
        .misses = (int64_t)atomic_load_explicit(&c.units[i].misses, memory_order_relaxed),
        .heat = (uint16_t)(heat < UINT16_MAX ? heat : UINT16_MAX),
        .resident = moe_cache_resident(&c, i),
    };
    return true;
}

void moe_arena_evict(void *arena, int *n_units, size_t *n_bytes)
{
    moe_expert_cache c = view_of(arena);

    *n_units = 0;
    *n_bytes = 0;
    lock(c.header);
    for (int32_t u = 0; u < c.header->n_units; u++) {
        unsigned resident = RESIDENT;

        if (!atomic_compare_exchange_strong_explicit(&c.units[u].state, &resident, 0,
                                                     memory_order_acquire, memory_order_relaxed))
            continue;
        if (u >= c.header->n_dense) {
            free_frame(&c, atomic_load_explicit(&c.units[u].frame, memory_order_relaxed));
            atomic_fetch_add_explicit(&c.header->evictions, 1, memory_order_relaxed);
        }
        ++*n_units;
        *n_bytes += c.units[u].bytes;
    }
    unlock(c.header);
}

bool moe_arena_resize(void *arena, size_t size)
{
    moe_expert_cache c = view_of(arena);
    moe_cache_header *h = c.header;
    int32_t *owners = owners_of(&c);
    bool empty = true;

    lock(h);
    h->n_frames = frames_in(h, size);
    h->hand = 0;
    atomic_store_explicit(&h->free_frame, NO_FRAME, memory_order_relaxed);
    for (int32_t f = h->n_units - h->n_dense - 1; f >= 0; f--) {
        unsigned resident = RESIDENT;
        bool used = owners[f] >= 0;

        if (used && f >= h->n_frames &&
            atomic_compare_exchange_strong_explicit(&c.units[owners[f]].state, &resident, 0,
                                                    memory_order_acquire, memory_order_relaxed)) {
            atomic_fetch_add_explicit(&h->evictions, 1, memory_order_relaxed);
            used = false;
        }
        if (!used)
            free_frame(&c, f);
        else if (f >= h->n_frames)
            empty = false;
    }
    unlock(h);
    tell_of_room(h);
    return empty;
}

bool moe_arena_remember(void *arena, const uint16_t *heat, int n_units)
{
    moe_expert_cache c = view_of(arena);

    if (n_units != c.header->n_units)
        return false;
    for (int32_t u = 0; u < n_units; u++) {
        const uint64_t of_long = (uint64_t)heat[u] * 64 / 71;

        atomic_store_explicit(&c.units[u].heat,
                              (uint64_t)visits_to(&c, &c.units[u]) << 32 |
                                  (of_long < 0xffff ? of_long : 0xffff) << 16,
                              memory_order_relaxed);
    }
    return true;
}
