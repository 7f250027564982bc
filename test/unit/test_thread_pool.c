/*
 * The thread pool: every item runs once, whatever the number of threads and the grain.
 */
#include "golden.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

enum { MOST = 1000 };

typedef struct counts {
    atomic_int hits[MOST];
    atomic_int bad_thread;
    int threads;
} counts;

static void count(void *arg, int64_t begin, int64_t end, int thread)
{
    counts *c = arg;

    if (thread < 0 || thread >= c->threads)
        atomic_fetch_add(&c->bad_thread, 1);
    for (int64_t i = begin; i < end; i++)
        atomic_fetch_add(&c->hits[i], 1);
}

static void test_every_item_runs_once(void **state)
{
    moe_error err = {0};

    (void)state;
    for (int threads = 1; threads <= 5; threads++) {
        moe_pool *pool;

        assert_ok(moe_pool_create(threads, &pool, &err), err);
        assert_int_equal(moe_pool_threads(pool), threads);
        for (int round = 0; round < 2000; round++) {
            const int n = round % MOST, grain = 1 + round % 7;
            static counts c;

            memset(&c, 0, sizeof(c));
            c.threads = threads;
            moe_pool_run(pool, count, &c, n, grain);
            for (int i = 0; i < MOST; i++)
                assert_int_equal(c.hits[i], i < n);
            assert_int_equal(c.bad_thread, 0);
            if (round % 500 == 499)
                usleep(20000); /* long enough for the workers to fall asleep */
        }
        moe_pool_free(pool);
    }
}

static volatile sig_atomic_t signal_thread_is_main;
static pthread_t main_thread;

static void on_signal(int signal)
{
    (void)signal;
    signal_thread_is_main = pthread_equal(pthread_self(), main_thread) ? 1 : -1;
}

static void test_signals_reach_only_the_calling_thread(void **state)
{
    moe_pool *pool;
    moe_error err = {0};

    (void)state;
    main_thread = pthread_self();
    signal(SIGUSR1, on_signal);
    assert_ok(moe_pool_create(4, &pool, &err), err);
    for (int i = 0; i < 20; i++) {
        signal_thread_is_main = 0;
        kill(getpid(), SIGUSR1);
        while (signal_thread_is_main == 0)
            usleep(100);
        assert_int_equal(signal_thread_is_main, 1);
    }
    moe_pool_free(pool);
}

static void test_there_is_at_least_one_thread(void **state)
{
    (void)state;
    assert_true(moe_available_threads() >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_runs_once),
        cmocka_unit_test(test_signals_reach_only_the_calling_thread),
        cmocka_unit_test(test_there_is_at_least_one_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
