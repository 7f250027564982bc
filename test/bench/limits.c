/*
 * Measures what bounds inference on this machine and writes one line of JSON.
 *
 *   limits [threads [MiB]]
 *
 * read_gbs     10^9 bytes per second that the threads together read from memory: each its own part
 *              of a buffer far larger than the caches, front to back, in every pass
 * float_gops   10^9 multiplications and additions of float32 per second, on registers alone
 * vector_gops  the same of 8-bit integers, by AVX-512 (VNNI) or AVX2
 * amx_gops     the same by AMX tiles; 0 without them
 *
 * The best of several passes counts: disturbances only ever take away.
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 1024, PASSES = 7, CALCULATIONS = 2000000 };

typedef struct part {
    unsigned char *begin;
    size_t size;
    pthread_barrier_t *gate;
    double (*work)(struct part *); /* returns bytes or operations done */
    double done;
    uint64_t sink; /* keeps the results alive */
} part;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* --- memory ----------------------------------------------------------------------------------- */

typedef uint64_t lanes __attribute__((vector_size(64)));

/* Eight sums in flight; the compiler makes of a lane vector what the CPU has. */
__attribute__((target_clones("avx512f", "avx2", "default"))) static uint64_t
sum(const unsigned char *p, size_t size)
{
    lanes s[8] = {0};
    uint64_t total = 0;

    for (const lanes *v = (const lanes *)p; size >= sizeof s; size -= sizeof s, v += 8) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            s[i] += v[i];
    }
    for (int i = 1; i < 8; i++)
        s[0] += s[i];
    for (int i = 0; i < 8; i++)
        total += s[0][i];
    return total;
}

static double read_memory(part *p)
{
    p->sink += sum(p->begin, p->size);
    return (double)p->size;
}

/* --- products --------------------------------------------------------------------------------- */

/* Twelve accumulators hide the latency of two multiplications per cycle. */
enum { SUMS = 12 };

__attribute__((target("avx512f"))) static double avx512_floats(part *p)
{
    __m512 sums[SUMS], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1);

    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (int n = 0; n < CALCULATIONS; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm512_fmadd_ps(sums[i], a, b);
    }
    for (int i = 1; i < SUMS; i++)
        sums[0] = _mm512_add_ps(sums[0], sums[i]);
    p->sink += (uint64_t)_mm512_reduce_add_ps(sums[0]);
    return (double)CALCULATIONS * SUMS * 16 * 2;
}

__attribute__((target("avx2,fma"))) static double avx2_floats(part *p)
{
    __m256 sums[SUMS], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1);

    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm256_set1_ps((float)i);
    for (int n = 0; n < CALCULATIONS; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm256_fmadd_ps(sums[i], a, b);
    }
    for (int i = 1; i < SUMS; i++)
        sums[0] = _mm256_add_ps(sums[0], sums[i]);
    p->sink += (uint64_t)sums[0][0];
    return (double)CALCULATIONS * SUMS * 8 * 2;
}

__attribute__((target("avx512f,avx512vnni"))) static double avx512_bytes(part *p)
{
    __m512i sums[SUMS], a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);

    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm512_set1_epi32(i);
    for (int n = 0; n < CALCULATIONS; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
    }
    for (int i = 1; i < SUMS; i++)
        sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    p->sink += (uint64_t)_mm512_cvtsi512_si32(sums[0]);
    return (double)CALCULATIONS * SUMS * 64 * 2;
}

/* Without VNNI a dot product of bytes takes three instructions; none may move out of the loop. */
__attribute__((target("avx2"))) static double avx2_bytes(part *p)
{
    __m256i sums[SUMS], a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(2),
                        ones = _mm256_set1_epi16(1);

    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm256_set1_epi32(i);
    for (int n = 0; n < CALCULATIONS; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) {
            __asm__ volatile("" : "+x"(a));
            sums[i] =
                _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
        }
    }
    for (int i = 1; i < SUMS; i++)
        sums[0] = _mm256_add_epi32(sums[0], sums[i]);
    p->sink += (uint64_t)_mm256_extract_epi32(sums[0], 0);
    return (double)CALCULATIONS * SUMS * 32 * 2;
}

/* Four tiles of sums, 2 x 2 tiles of factors, as a matrix product would use them. */
__attribute__((target("amx-tile,amx-int8"))) static double amx_bytes(part *p)
{
    struct {
        uint8_t palette, row, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    int32_t out[16][16];

    for (int i = 0; i < 8; i++) {
        config.bytes[i] = 64;
        config.rows[i] = 16;
    }
    memset(out, 1, sizeof out);
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, out, 64);
    _tile_loadd(5, out, 64);
    _tile_loadd(6, out, 64);
    _tile_loadd(7, out, 64);
    for (int n = 0; n < CALCULATIONS / 4; n++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, out, 64);
    p->sink += (uint64_t)out[0][0];
    _tile_stored(3, out, 64);
    p->sink += (uint64_t)out[0][0];
    _tile_release();
    return (double)(CALCULATIONS / 4) * 4 * 16 * 16 * 64 * 2;
}

/* Linux gives a process the tiles' registers when asked. */
static bool may_use_amx(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };

    return __builtin_cpu_supports("amx-int8") &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}

/* --- threads ---------------------------------------------------------------------------------- */

static void *worker(void *arg)
{
    part *p = arg;

    for (int i = 0; i < PASSES; i++) {
        pthread_barrier_wait(p->gate);
        p->done = p->work(p);
        pthread_barrier_wait(p->gate);
    }
    return NULL;
}

/* Billions per second, of all threads together, in the best pass. */
static double measure(part *parts, int n_threads, double (*work)(part *))
{
    pthread_t threads[MAX_THREADS];
    pthread_barrier_t gate;
    double best = 0;

    pthread_barrier_init(&gate, NULL, (unsigned)n_threads);
    for (int i = 0; i < n_threads; i++) {
        parts[i].gate = &gate;
        parts[i].work = work;
        if (i > 0 && pthread_create(&threads[i], NULL, worker, &parts[i])) {
            fprintf(stderr, "limits: a thread cannot be started\n");
            exit(1);
        }
    }
    for (int i = 0; i < PASSES; i++) {
        double done = 0, begin = now();

        pthread_barrier_wait(&gate);
        parts[0].done = work(&parts[0]); /* this thread is the first */
        pthread_barrier_wait(&gate);
        double seconds = now() - begin;
        for (int t = 0; t < n_threads; t++)
            done += parts[t].done;
        if (done / seconds > best)
            best = done / seconds;
    }
    for (int i = 1; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&gate);
    return best / 1e9;
}

int main(int argc, char **argv)
{
    static part parts[MAX_THREADS];
    int n_threads = argc > 1 ? atoi(argv[1]) : 1;
    size_t mib = argc > 2 ? strtoul(argv[2], NULL, 10) : 1024;

    if (n_threads < 1 || n_threads > MAX_THREADS || mib < 1 || mib > 1 << 20) {
        fprintf(stderr, "usage: limits [threads [MiB]]\n");
        return 2;
    }
    size_t slice = (mib << 20) / (size_t)n_threads / 4096 * 4096, size = slice * (size_t)n_threads;
    unsigned char *buffer =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) {
        fprintf(stderr, "limits: out of memory\n");
        return 1;
    }
    madvise(buffer, size, MADV_HUGEPAGE);
    memset(buffer, 1, size);
    for (int i = 0; i < n_threads; i++)
        parts[i] = (part){.begin = buffer + (size_t)i * slice, .size = slice};

    bool avx512 = __builtin_cpu_supports("avx512f"),
         vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        fprintf(stderr, "limits: this CPU lacks AVX2\n");
        return 1;
    }
    printf("{\"engine\": \"machine\", \"threads\": %d", n_threads);
    printf(", \"read_gbs\": %.1f", measure(parts, n_threads, read_memory));
    printf(", \"float_gops\": %.0f",
           measure(parts, n_threads, avx512 ? avx512_floats : avx2_floats));
    printf(", \"vector_gops\": %.0f", measure(parts, n_threads, vnni ? avx512_bytes : avx2_bytes));
    printf(", \"amx_gops\": %.0f}\n", may_use_amx() ? measure(parts, n_threads, amx_bytes) : 0);
    munmap(buffer, size);
    return 0;
}
