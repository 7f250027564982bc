/*
 * The expert cache by itself: claims, pins, eviction, heat, and many threads
 * and processes on one arena, some of whose loads fail.
 *
 * The weights are made up: units whose content is their number, written by
 * whoever claims them.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../src/engine/cache/expert_cache.h"

enum {
    N_LAYERS = 3,
    N_EXPERTS = 8,
    N_DENSE = 1 + N_LAYERS,
    N_UNITS = N_DENSE + N_LAYERS * N_EXPERTS
};
enum { UNIT_BYTES = 2048, DENSE_BYTES = 192 };

static moe_weight_unit unit_list[N_UNITS];

static moe_weights made_up_weights(void)
{
    moe_weights w = {
        .n_layers = N_LAYERS, .n_units = N_UNITS, .n_dense = N_DENSE, .units = unit_list};

    for (int u = 0; u < N_UNITS; u++) {
        const int expert = u - N_DENSE;

        unit_list[u] = u < N_DENSE
                           ? (moe_weight_unit){u - 1, -1, DENSE_BYTES}
                           : (moe_weight_unit){expert / N_EXPERTS, expert % N_EXPERTS, UNIT_BYTES};
        w.size += unit_list[u].bytes;
    }
    return w;
}

static int32_t unit_of(int layer, int expert)
{
    return N_DENSE + layer * N_EXPERTS + expert;
}

/* An arena with that many frames, in memory that children share. */
static moe_expert_cache make_cache(const moe_weights *w, int n_frames, void **arena, size_t *size)
{
    moe_expert_cache cache;

    *size = moe_cache_bytes(w, n_frames);
    *arena = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(*arena != MAP_FAILED);
    memset(*arena, 0xee, *size); /* it need not be zeroed */
    moe_cache_prepare(w, *arena, *size);
    assert_true(moe_cache_attach(&cache, w, *arena));
    assert_int_equal(moe_cache_frames(&cache), n_frames);
    return cache;
}

static void write_content(char *address, int32_t unit)
{
    memset(address, unit, unit_list[unit].bytes);
}

static bool has_content(const char *address, int32_t unit)
{
    for (size_t i = 0; i < unit_list[unit].bytes; i++)
        if (address[i] != (char)unit)
            return false;
    return true;
}

static void load(moe_expert_cache *cache, int32_t unit)
{
    char *address;

    assert_int_equal(moe_cache_pin(cache, unit, true, &address), MOE_PIN_CLAIMED);
    write_content(address, unit);
    moe_cache_settle(cache, unit, true);
}

static void use(moe_expert_cache *cache, int32_t unit)
{
    char *address;
    const moe_pin_result result = moe_cache_pin(cache, unit, false, &address);

    moe_cache_touch(cache, unit, result == MOE_PIN_READY);
    if (result == MOE_PIN_ABSENT)
        load(cache, unit);
    moe_cache_unpin(cache, unit);
}

static int total_pins(const void *arena)
{
    moe_arena_stats stats;

    moe_arena_stats_of(arena, &stats);
    return stats.pins;
}

/* --- one user
 * --------------------------------------------------------------------------------
 */

static void a_unit_is_loaded_once_and_found_again(void **state)
{
    const moe_weights w = made_up_weights();
    size_t size;
    void *arena;
    moe_expert_cache cache = make_cache(&w, 5, &arena, &size), other;
    moe_arena_stats stats;
    char *address, *again;

    (void)state;
    for (int32_t u = 0; u < N_DENSE + 5; u++) {
        assert_int_equal(moe_cache_pin(&cache, u, false, &address), MOE_PIN_ABSENT);
        assert_int_equal(moe_cache_pin(&cache, u, true, &address), MOE_PIN_CLAIMED);
        assert_int_equal((uintptr_t)address % 64, 0);
        assert_true(address + w.units[u].bytes <= (char *)arena + size);
        assert_int_equal(moe_cache_pin(&cache, u, true, &again), MOE_PIN_LOADING);
        write_content(address, u);
        moe_cache_settle(&cache, u, true);
        assert_int_equal(moe_cache_pin(&cache, u, true, &again), MOE_PIN_READY);
        assert_ptr_equal(again, address);
    }
    assert_true(moe_cache_attach(&other, &w, arena));
    for (int32_t u = 0; u < N_DENSE + 5; u++) {
        assert_int_equal(moe_cache_pin(&other, u, false, &address), MOE_PIN_READY);
        assert_true(has_content(address, u));
    }
    moe_arena_stats_of(arena, &stats);
    assert_int_equal(stats.n_units, N_UNITS);
    assert_int_equal(stats.n_resident, N_DENSE + 5);
    assert_int_equal(stats.resident_bytes, N_DENSE * DENSE_BYTES + 5 * UNIT_BYTES);
    assert_int_equal(stats.bytes, w.size);
    assert_int_equal(stats.loads, N_DENSE + 5);
    assert_int_equal(stats.pins, 3 * (N_DENSE + 5));
    munmap(arena, size);
}

static void what_is_pinned_is_never_evicted(void **state)
{
    const moe_weights w = made_up_weights();
    size_t size, bytes;
    void *arena;
    moe_expert_cache cache = make_cache(&w, 3, &arena, &size);
    char *held[3], *address;
    int n;

    (void)state;
    for (int e = 0; e < 3; e++) {
        load(&cache, unit_of(0, e));
        moe_cache_pin(&cache, unit_of(0, e), false, &held[e]);
        moe_cache_unpin(&cache, unit_of(0, e));
    }
    assert_false(moe_cache_has_room(&cache));
    assert_int_equal(moe_cache_pin(&cache, unit_of(1, 0), true, &address), MOE_PIN_FULL);
    assert_false(moe_cache_resident(&cache, unit_of(1, 0)));
    moe_cache_unpin(&cache, unit_of(0, 1));
    load(&cache, unit_of(1, 0)); /* takes the place of the only one without a pin */
    assert_false(moe_cache_resident(&cache, unit_of(0, 1)));
    assert_true(has_content(held[0], unit_of(0, 0)));
    assert_true(has_content(held[2], unit_of(0, 2)));
    moe_arena_evict(arena, &n, &bytes);
    assert_int_equal(n, 0);
    moe_cache_unpin(&cache, unit_of(0, 0));
    moe_arena_evict(arena, &n, &bytes);
    assert_int_equal(n, 1);
    assert_int_equal(bytes, UNIT_BYTES);
    assert_true(moe_cache_resident(&cache, unit_of(0, 2)));
    assert_true(moe_cache_has_room(&cache));
    munmap(arena, size);
}

static void a_failed_load_leaves_nothing_behind(void **state)
{
    const moe_weights w = made_up_weights();
    size_t size;
    void *arena;
    moe_expert_cache cache = make_cache(&w, 1, &arena, &size);
    char *address;

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(moe_cache_pin(&cache, unit_of(2, i), true, &address), MOE_PIN_CLAIMED);
        moe_cache_settle(&cache, unit_of(2, i), false);
        assert_int_equal(moe_cache_pin(&cache, 1, true, &address), MOE_PIN_CLAIMED);
        moe_cache_settle(&cache, 1, false);
        assert_int_equal(total_pins(arena), 0);
        assert_true(moe_cache_has_room(&cache));
        assert_false(moe_cache_resident(&cache, unit_of(2, i)));
    }
    load(&cache, unit_of(2, 0));
    munmap(arena, size);
}

static void the_coldest_makes_room(void **state)
{
    const moe_weights w = made_up_weights();
    size_t size;
    void *arena;
    moe_expert_cache cache = make_cache(&w, 4, &arena, &size);

    (void)state;
    /* experts 0 to 2 are wanted often, 3 and more now and then */
    for (int i = 0; i < 40; i++) {
        moe_cache_visit(&cache, 0);
        use(&cache, unit_of(0, i % 3));
        use(&cache, unit_of(0, 3 + i % 5));
    }
    for (int e = 0; e < 3; e++)
        assert_true(moe_cache_resident(&cache, unit_of(0, e)));
    assert_true(moe_cache_heat(&cache, unit_of(0, 0)) > moe_cache_heat(&cache, unit_of(0, 4)));

    /* when the text changes, so does what is kept; layers of their own age on
     * their own */
    for (int i = 0; i < 600; i++) {
        moe_cache_visit(&cache, 0);
        use(&cache, unit_of(0, 4 + i % 4));
    }
    for (int e = 4; e < 8; e++)
        assert_true(moe_cache_resident(&cache, unit_of(0, e)));
    assert_true(moe_cache_heat(&cache, unit_of(0, 0)) < moe_cache_heat(&cache, unit_of(0, 4)));
    munmap(arena, size);
}

static void what_was_just_computed_makes_room_before_what_comes_next(void **state)
{
    const moe_weights w = made_up_weights();
    size_t size;
    void *arena;
    moe_expert_cache cache = make_cache(&w, 3, &arena, &size);

    (void)state;
    for (int i = 0; i < 43; i++) {
        for (int l = 0; l < N_LAYERS; l++) {
            moe_cache_visit(&cache, l);
            if (l != 1 || i % 4 != 0)
                use(&cache, unit_of(l, 0));
        }
    }
    assert_true(moe_cache_heat(&cache, unit_of(0, 0)) > moe_cache_heat(&cache, unit_of(1, 0)));
    moe_cache_visit(&cache, 0);
    use(&cache, unit_of(0, 1));
    assert_false(moe_cache_resident(&cache, unit_of(0, 0)));
    assert_true(moe_cache_resident(&cache, unit_of(1, 0)));
    munmap(arena, size);
}

static void an_arena_becomes_smaller_and_larger(void **state)
{
    const moe_weights w = made_up_weights();
    const size_t smaller = moe_cache_bytes(&w, 2);
    size_t size;
    void *arena;
    moe_expert_cache cache = make_cache(&w, 5, &arena, &size);
    char *held[4], *address;
    int n_left = 0;

    (void)state;
    load(&cache, 0);
    for (int e = 0; e < 4; e++) {
        assert_int_equal(moe_cache_pin(&cache, unit_of(0, e), true, &held[e]), MOE_PIN_CLAIMED);
        write_content(held[e], unit_of(0, e));
        moe_cache_settle(&cache, unit_of(0, e), true);
    }
    assert_false(moe_arena_resize(arena, smaller)); /* what is pinned stays as it is */
    assert_int_equal(moe_cache_pin(&cache, unit_of(0, 4), true, &address), MOE_PIN_FULL);
    for (int e = 0; e < 4; e++) {
        assert_true(has_content(held[e], unit_of(0, e)));
        moe_cache_unpin(&cache, unit_of(0, e));
    }
    assert_true(moe_arena_resize(arena, smaller));
    memset((char *)arena + smaller, 0xee, size - smaller);
    for (int e = 0; e < 4; e++)
        n_left += moe_cache_resident(&cache, unit_of(0, e));
    assert_int_equal(n_left, 2);
    for (int e = 0; e < N_EXPERTS; e++) {
        if (moe_cache_pin(&cache, unit_of(0, e), false, &address) == MOE_PIN_ABSENT) {
            load(&cache, unit_of(0, e));
            assert_int_equal(moe_cache_pin(&cache, unit_of(0, e), false, &address), MOE_PIN_READY);
            moe_cache_unpin(&cache, unit_of(0, e));
        }
        assert_true(address + UNIT_BYTES <= (char *)arena + smaller);
        assert_true(has_content(address, unit_of(0, e)));
        moe_cache_unpin(&cache, unit_of(0, e));
    }
    assert_true(moe_arena_resize(arena, size));
    assert_true(moe_cache_has_room(&cache));
    for (int e = 0; e < 3; e++)
        load(&cache, unit_of(1, e));
    assert_false(moe_cache_has_room(&cache));
    assert_int_equal(total_pins(arena), 1 + 3);

    /* a claim that fails there leaves nothing behind */
    for (int e = 0; e < 3; e++)
        moe_cache_unpin(&cache, unit_of(1, e));
    moe_arena_evict(arena, &n_left, &(size_t){0});
    for (int e = 0; e < 2; e++)
        assert_int_equal(moe_cache_pin(&cache, unit_of(2, e), true, &held[e]), MOE_PIN_CLAIMED);
    assert_false(moe_arena_resize(arena, moe_cache_bytes(&w, 1)));
    for (int e = 0; e < 2; e++)
        moe_cache_settle(&cache, unit_of(2, e), false);
    assert_true(moe_arena_resize(arena, moe_cache_bytes(&w, 1)));
    munmap(arena, size);
}

static void usage_is_remembered(void **state)
{
    const moe_weights w = made_up_weights();
    size_t size;
    void *arena;
    moe_expert_cache cache = make_cache(&w, 4, &arena, &size);
    uint16_t heat[N_UNITS];
    moe_arena_unit unit;

    (void)state;
    for (int i = 0; i < 50; i++) {
        moe_cache_visit(&cache, 1);
        use(&cache, unit_of(1, 5));
        if (i % 4 == 0)
            use(&cache, unit_of(1, 2));
    }
    for (int u = 0; u < N_UNITS; u++) {
        assert_true(moe_arena_unit_of(arena, u, &unit));
        assert_int_equal(unit.layer, w.units[u].layer);
        assert_int_equal(unit.expert, w.units[u].expert);
        heat[u] = unit.heat;
    }
    assert_false(moe_arena_unit_of(arena, N_UNITS, &unit));
    assert_false(moe_arena_unit_of(arena, -1, &unit));
    moe_cache_prepare(&w, arena, size);
    assert_int_equal(moe_cache_heat(&cache, unit_of(1, 5)), 0);
    assert_false(moe_arena_remember(arena, heat, N_UNITS - 1));
    assert_true(moe_arena_remember(arena, heat, N_UNITS));
    for (int u = 0; u < N_UNITS; u++) {
        assert_true(moe_cache_heat(&cache, u) <= heat[u]);
        assert_true(moe_cache_heat(&cache, u) + 2 >= heat[u]);
    }
    munmap(arena, size);
}

static void an_arena_of_other_weights_is_told_apart(void **state)
{
    moe_weights w = made_up_weights();
    size_t size;
    void *arena;
    moe_expert_cache cache = make_cache(&w, 4, &arena, &size);

    (void)state;
    w.size += 64;
    assert_false(moe_cache_attach(&cache, &w, arena));
    w.size -= 64;
    w.n_units--;
    assert_false(moe_cache_attach(&cache, &w, arena));
    w.n_units = w.n_dense; /* a model without experts */
    assert_true(moe_cache_bytes(&w, 0) < size);
    moe_cache_prepare(&w, arena, size);
    assert_true(moe_cache_attach(&cache, &w, arena));
    assert_int_equal(moe_cache_frames(&cache), 0);
    load(&cache, 0);
    munmap(arena, size);
}

enum { USERS = 4, ROUNDS = 3000 };

/* --- many users
 * ------------------------------------------------------------------------------
 */

/* Which units are being loaded, to see that no two do that at once; shared by
 * all users. */
typedef struct watch {
    atomic_int loading[N_UNITS];
    atomic_int wrong, failed, loaded;
} watch;

static uint32_t random_below(uint32_t *seed, uint32_t n)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % n;
}

/* Pins a unit, loading it or waiting for others, with every fourth load
 * failing; false if all frames are pinned. */
static bool get(moe_expert_cache *cache, watch *watch, int32_t unit, uint32_t *seed, char **address)
{
    for (;;) {
        switch (moe_cache_pin(cache, unit, true, address)) {
        case MOE_PIN_READY:
            return true;
        case MOE_PIN_CLAIMED: {
            const bool fails = random_below(seed, 4) == 0;

            if (atomic_fetch_add(&watch->loading[unit], 1) != 0)
                atomic_fetch_add(&watch->wrong, 1);
            memset(*address, 0x77, unit_list[unit].bytes);
            if (!fails)
                write_content(*address, unit);
            atomic_fetch_sub(&watch->loading[unit], 1);
            atomic_fetch_add(fails ? &watch->failed : &watch->loaded, 1);
            moe_cache_settle(cache, unit, !fails);
            if (!fails)
                return true;
            break;
        }
        case MOE_PIN_LOADING:
            moe_cache_wait(cache, unit, 1000);
            break;
        default:
            return false;
        }
    }
}

/* Again and again: pins up to four units, looks at their content, lets them go.
 */
static void work(const moe_weights *w, void *arena, watch *watch, uint32_t seed)
{
    moe_expert_cache cache;

    if (!moe_cache_attach(&cache, w, arena))
        atomic_fetch_add(&watch->wrong, 1);
    for (int r = 0; r < ROUNDS; r++) {
        int32_t units[4];
        char *addresses[4];
        int n = 0;
        const int layer = (int)random_below(&seed, N_LAYERS);

        moe_cache_visit(&cache, layer);
        for (int i = 0; i < 4; i++) {
            const int32_t unit = i == 0 ? (int32_t)random_below(&seed, N_DENSE)
                                        : unit_of(layer, (int)random_below(&seed, N_EXPERTS));

            if (get(&cache, watch, unit, &seed, &addresses[n])) {
                units[n++] = unit;
                moe_cache_touch(&cache, unit, true);
            } else if (n == 0) {
                moe_cache_wait_room(&cache, 10);
            }
        }
        for (int i = 0; i < n; i++)
            if (!has_content(addresses[i], units[i]))
                atomic_fetch_add(&watch->wrong, 1);
        for (int i = 0; i < n; i++)
            moe_cache_unpin(&cache, units[i]);
        if (r % 64 == 0) {
            size_t bytes;

            moe_arena_evict(arena, &n, &bytes);
        }
    }
}

static void check_after_race(void *arena, watch *watch)
{
    moe_arena_stats stats;

    moe_arena_stats_of(arena, &stats);
    assert_int_equal(atomic_load(&watch->wrong), 0);
    assert_true(atomic_load(&watch->failed) > 0);
    assert_true(stats.evictions > 0);
    assert_int_equal(stats.loads, atomic_load(&watch->loaded));
    assert_int_equal(stats.pins, 0);
}

typedef struct start {
    const moe_weights *weights;
    void *arena;
    watch *watch;
    uint32_t seed;
} start;

static void *thread_main(void *arg)
{
    const start *s = arg;

    work(s->weights, s->arena, s->watch, s->seed);
    return NULL;
}

typedef struct resizer {
    const moe_weights *weights;
    char *arena;
    size_t size;
    atomic_bool stop;
    int n_smaller;
} resizer;

/* Again and again: makes the arena smaller, spoils what is beyond it, makes it
 * larger. */
static void *resize(void *arg)
{
    resizer *r = arg;

    while (!atomic_load(&r->stop)) {
        const size_t smaller = moe_cache_bytes(r->weights, 1 + r->n_smaller % 6);

        while (!moe_arena_resize(r->arena, smaller) && !atomic_load(&r->stop))
            sched_yield();
        if (moe_arena_resize(r->arena, smaller))
            memset(r->arena + smaller, 0x55, r->size - smaller);
        moe_arena_resize(r->arena, r->size);
        r->n_smaller++;
    }
    return NULL;
}

static void threads_share_an_arena(void **state)
{
    const moe_weights w = made_up_weights();
    resizer resizer = {.weights = &w};
    pthread_t threads[USERS], resizing;
    start starts[USERS];
    watch *watch = calloc(1, sizeof *watch);
    size_t size;
    void *arena;

    (void)state;
    make_cache(&w, 7, &arena, &size); /* fewer than all want at a time */
    resizer.arena = arena;
    resizer.size = size;
    assert_int_equal(pthread_create(&resizing, NULL, resize, &resizer), 0);
    for (int i = 0; i < USERS; i++) {
        starts[i] = (start){&w, arena, watch, (uint32_t)i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, thread_main, &starts[i]), 0);
    }
    for (int i = 0; i < USERS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&resizer.stop, true);
    pthread_join(resizing, NULL);
    check_after_race(arena, watch);
    assert_true(resizer.n_smaller > 0);
    free(watch);
    munmap(arena, size);
}

/* Each process maps the arena at an address of its own. */
static void processes_share_an_arena(void **state)
{
    const moe_weights w = made_up_weights();
    const size_t size = moe_cache_bytes(&w, 7);
    const int fd = memfd_create("arena", MFD_CLOEXEC);
    watch *watch =
        mmap(NULL, sizeof *watch, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t children[USERS];
    void *arena;

    (void)state;
    assert_true(fd >= 0 && watch != MAP_FAILED);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(arena != MAP_FAILED);
    moe_cache_prepare(&w, arena, size);
    for (int i = 0; i < USERS; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            void *mine = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

            if (mine == MAP_FAILED || mine == arena)
                _exit(1);
            work(&w, mine, watch, (uint32_t)i + 11);
            _exit(0);
        }
    }
    for (int i = 0; i < USERS; i++) {
        int status;

        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    check_after_race(arena, watch);
    munmap(arena, size);
    munmap(watch, sizeof *watch);
    close(fd);
}

/* --- waiting
 * ---------------------------------------------------------------------------------
 */

typedef struct waiter {
    moe_expert_cache cache;
    atomic_bool waits; /* it has found the unit being loaded */
    bool claimed;
} waiter;

static void *wait_and_try(void *arg)
{
    waiter *waiter = arg;
    char *address;

    while (moe_cache_pin(&waiter->cache, unit_of(0, 0), true, &address) == MOE_PIN_LOADING) {
        atomic_store(&waiter->waits, true);
        moe_cache_wait(&waiter->cache, unit_of(0, 0), 60000);
    }
    waiter->claimed = true;
    moe_cache_settle(&waiter->cache, unit_of(0, 0), true);
    return NULL;
}

static void those_who_wait_for_a_load_that_fails_try_themselves(void **state)
{
    const moe_weights w = made_up_weights();
    pthread_t thread;
    size_t size;
    void *arena;
    moe_expert_cache cache = make_cache(&w, 2, &arena, &size);
    waiter waiter = {.cache = cache};
    char *address;

    (void)state;
    assert_int_equal(moe_cache_pin(&cache, unit_of(0, 0), true, &address), MOE_PIN_CLAIMED);
    assert_int_equal(pthread_create(&thread, NULL, wait_and_try, &waiter), 0);
    while (!atomic_load(&waiter.waits))
        sched_yield();
    moe_cache_settle(&cache, unit_of(0, 0), false);
    pthread_join(thread, NULL);
    assert_true(waiter.claimed);
    assert_int_equal(total_pins(arena), 1);
    munmap(arena, size);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_unit_is_loaded_once_and_found_again),
        cmocka_unit_test(what_is_pinned_is_never_evicted),
        cmocka_unit_test(a_failed_load_leaves_nothing_behind),
        cmocka_unit_test(the_coldest_makes_room),
        cmocka_unit_test(what_was_just_computed_makes_room_before_what_comes_next),
        cmocka_unit_test(an_arena_becomes_smaller_and_larger),
        cmocka_unit_test(usage_is_remembered),
        cmocka_unit_test(an_arena_of_other_weights_is_told_apart),
        cmocka_unit_test(threads_share_an_arena),
        cmocka_unit_test(processes_share_an_arena),
        cmocka_unit_test(those_who_wait_for_a_load_that_fails_try_themselves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
