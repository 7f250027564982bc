/*
 * The thread pool.
 *
 * A loop is published by filling the job fields, opening the gate and raising the epoch.  The gate
 * counts the workers inside and carries a CLOSED bit: a worker enters by adding one, and leaves at
 * once if it finds the gate closed.  The caller closes the gate when the chunks have run out and
 * waits only for workers that are inside, so a worker that wakes late costs nothing.  Job
 * fields change only while the gate is closed and empty.
 */
#define _GNU_SOURCE
#include "thread_pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <xmmintrin.h>

enum {
    GATE_CLOSED = 1u << 30,
    SPIN_WORKER = 4000,  /* pauses before a worker sleeps: a few 100 µs */
    SPIN_CALLER = 20000, /* pauses before the caller yields its core */
};

struct moe_pool {
    int n_threads; /* the caller included */
    pthread_t *threads;

    moe_pool_fn fn;
    void *arg;
    int64_t n, grain;

    _Alignas(64) atomic_llong next;
    _Alignas(64) atomic_uint gate;
    _Alignas(64) atomic_uint epoch;
    atomic_uint sleepers;
    atomic_bool stop;
};

typedef struct worker_start {
    moe_pool *pool;
    int index;
} worker_start;

static void futex_wait(atomic_uint *word, unsigned value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_all(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void run_chunks(moe_pool *pool, int thread)
{
    const int64_t n = pool->n, grain = pool->grain;

    for (;;) {
        int64_t begin = atomic_fetch_add_explicit(&pool->next, grain, memory_order_relaxed);

        if (begin >= n)
            return;
        pool->fn(pool->arg, begin, begin + grain < n ? begin + grain : n, thread);
    }
}

/* Waits until the epoch is no longer `seen`; returns the new one. */
static unsigned wait_for_epoch(moe_pool *pool, unsigned seen)
{
    unsigned epoch;

    for (int i = 0; i < SPIN_WORKER; i++) {
        epoch = atomic_load_explicit(&pool->epoch, memory_order_acquire);
        if (epoch != seen)
            return epoch;
        _mm_pause();
    }
    for (;;) {
        atomic_fetch_add(&pool->sleepers, 1);
        if (atomic_load(&pool->epoch) == seen)
            futex_wait(&pool->epoch, seen);
        atomic_fetch_sub(&pool->sleepers, 1);
        epoch = atomic_load_explicit(&pool->epoch, memory_order_acquire);
        if (epoch != seen)
            return epoch;
    }
}

static void *worker_main(void *arg)
{
    worker_start start = *(worker_start *)arg;
    moe_pool *pool = start.pool;
    unsigned seen = 0;

    free(arg);
    _mm_setcsr(0x1f80); /* the default: round to nearest, no flush to zero, exceptions masked */
    for (;;) {
        seen = wait_for_epoch(pool, seen);
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed))
            return NULL;
        if (!(atomic_fetch_add_explicit(&pool->gate, 1, memory_order_acquire) & GATE_CLOSED))
            run_chunks(pool, start.index);
        atomic_fetch_sub_explicit(&pool->gate, 1, memory_order_release);
    }
}

void moe_pool_run(moe_pool *pool, moe_pool_fn fn, void *arg, int64_t n, int64_t grain)
{
    if (n <= 0)
        return;
    if (pool->n_threads == 1 || n <= grain) {
        fn(arg, 0, n, 0);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    pool->n = n;
    pool->grain = grain;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_fetch_and_explicit(&pool->gate, ~(unsigned)GATE_CLOSED, memory_order_release);
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->sleepers) > 0)
        futex_wake_all(&pool->epoch);

    run_chunks(pool, 0);

    atomic_fetch_or_explicit(&pool->gate, GATE_CLOSED, memory_order_relaxed);
    for (int i = 0; atomic_load_explicit(&pool->gate, memory_order_acquire) != GATE_CLOSED; i++) {
        if (i < SPIN_CALLER)
            _mm_pause();
        else
            sched_yield();
    }
}

moe_status moe_pool_create(int n_threads, moe_pool **out, moe_error *err)
{
    moe_pool *pool = aligned_alloc(64, (sizeof(moe_pool) + 63) / 64 * 64);
    sigset_t all, old;
    int failed = 0;

    *out = NULL;
    if (pool == NULL)
        return moe_fail_memory(err, sizeof(moe_pool));
    memset(pool, 0, sizeof(*pool));
    atomic_init(&pool->gate, GATE_CLOSED);
    pool->n_threads = 1;
    pool->threads = calloc((size_t)n_threads, sizeof(pthread_t));
    if (pool->threads == NULL) {
        free(pool);
        return moe_fail_memory(err, (size_t)n_threads * sizeof(pthread_t));
    }

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 1; i < n_threads && !failed; i++) {
        worker_start *start = malloc(sizeof(*start));

        if (start == NULL) {
            failed = ENOMEM;
            break;
        }
        *start = (worker_start){.pool = pool, .index = i};
        failed = pthread_create(&pool->threads[i], NULL, worker_main, start);
        if (failed)
            free(start);
        else
            pool->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failed) {
        moe_pool_free(pool);
        moe_fail(err, MOE_ERR_MEMORY, "could not start %d threads: %s", n_threads,
                 strerror(failed));
        return moe_hint(err, "Lower moe.threads, or raise the limit on processes.");
    }
    *out = pool;
    return MOE_OK;
}

void moe_pool_free(moe_pool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->stop, true);
    atomic_fetch_add(&pool->epoch, 1);
    futex_wake_all(&pool->epoch);
    for (int i = 1; i < pool->n_threads; i++)
        pthread_join(pool->threads[i], NULL);
    free(pool->threads);
    free(pool);
}

int moe_pool_threads(const moe_pool *pool)
{
    return pool->n_threads;
}

/* CPUs that a quota file allows, rounded up; 0: no limit or no such file. v2 files hold "quota
 * period". */
static int quota_of(const char *path, const char *period_path)
{
    FILE *f = fopen(path, "re");
    long long quota = -1, period = 0;
    int n;

    if (f == NULL)
        return 0;
    n = fscanf(f, "%lld %lld", &quota, &period);
    fclose(f);
    if (n == 1 && period_path != NULL && (f = fopen(period_path, "re")) != NULL) {
        if (fscanf(f, "%lld", &period) != 1)
            period = 0;
        fclose(f);
    }
    if (n < 1 || quota <= 0 || period <= 0)
        return 0;
    return (int)((quota + period - 1) / period);
}

/* The smallest quota of this process's cgroup and its ancestors; 0: none. */
static int cgroup_limit(void)
{
    char line[512], group[480] = "", path[600];
    FILE *f = fopen("/proc/self/cgroup", "re");
    int limit =
        quota_of("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us");

    if (f == NULL)
        return limit;
    while (fgets(line, sizeof(line), f) != NULL)
        if (sscanf(line, "0::%479s", group) == 1)
            break;
    fclose(f);
    for (;;) {
        char *slash = strrchr(group, '/');
        int quota;

        snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cpu.max", group);
        quota = quota_of(path, NULL);
        if (quota > 0 && (limit == 0 || quota < limit))
            limit = quota;
        if (slash == NULL)
            return limit;
        *slash = '\0';
    }
}

int moe_available_threads(void)
{
    cpu_set_t set;
    int n = 1, limit = cgroup_limit();

    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        n = CPU_COUNT(&set);
    else if (sysconf(_SC_NPROCESSORS_ONLN) > 0)
        n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (limit > 0 && limit < n)
        n = limit;
    return n < 1 ? 1 : n;
}
