/*
 * A pool of threads that run one loop at a time.
 *
 * The calling thread works too. Work is handed out in chunks by an atomic counter, so a slow core
 * does not hold the others up; a thread that the operating system has not woken by the time the
 * loop is done is not waited for.  Threads spin briefly between loops, then sleep on a futex.  All
 * signals are blocked in them.
 */
#ifndef MOE_THREAD_POOL_H
#define MOE_THREAD_POOL_H

#include "../support.h"

typedef struct moe_pool moe_pool;

/* Runs items [begin, end) on thread `thread` (0 <= thread < threads of the pool). */
typedef void (*moe_pool_fn)(void *arg, int64_t begin, int64_t end, int thread);

/* Threads the process may use: its affinity mask, cut to the cgroup's CPU quota; at least 1. */
int moe_available_threads(void);

moe_status moe_pool_create(int n_threads, moe_pool **out, moe_error *err);
void moe_pool_free(moe_pool *pool);
int moe_pool_threads(const moe_pool *pool);

/* Runs fn over items [0, n) in chunks of `grain` (>= 1) and returns when all are done. */
void moe_pool_run(moe_pool *pool, moe_pool_fn fn, void *arg, int64_t n, int64_t grain);

#endif
