/* The truth table of native/mapping.h on the running kernel, with sentinels in the neighbours: whatever is
 * refused must have changed no byte. Prints every check that fails; exits with 1 if any did. */
#define _GNU_SOURCE
#include "mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef UNDER_TSAN
#define BASE UINT64_C(0x1000000000) /* ThreadSanitizer aborts on mappings elsewhere */
#else
#define BASE UINT64_C(0x480000000000)
#endif
#ifndef UNDER
#define UNDER NULL
#endif
#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC 1U
#endif

#define ANYONE (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
#define READ_WRITE (PROT_READ | PROT_WRITE)

static int checks, failures;
static size_t page;

static void check_equal(int line, const char *what, int64_t got, int64_t wanted)
{
    checks++;
    if (got == wanted)
        return;
    failures++;
    printf("test_mapping.c:%d: %s is %" PRId64 " (%#" PRIx64 "), not %" PRId64 " (%#" PRIx64 ")%s%s\n", line, what, got,
           (uint64_t)got, wanted, (uint64_t)wanted, got < 0 ? ": " : "", got < 0 ? strerror((int)-got) : "");
}

#define EQUAL(call, wanted) check_equal(__LINE__, #call, (int64_t)(call), (int64_t)(wanted))

static uint64_t at(int number)
{
    return BASE + (uint64_t)number * page;
}

static unsigned char *bytes(uint64_t address)
{
    return (unsigned char *)(uintptr_t)address;
}

/* ---- what can be told of one page without touching it ---- */

static int maps_fd = -1;

static int mapped(uint64_t address)
{
    unsigned char resident;
    return mincore(bytes(address), page, &resident) == 0;
}

/* A child touches it: 0 where it can, the signal where it cannot. */
static int touching(uint64_t address, int writing)
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* sanitizers catch it, and exit */
        signal(SIGBUS, SIG_DFL);
        volatile unsigned char *byte = bytes(address);
        if (writing)
            *byte = 1;
        else
            (void)*byte;
        _exit(0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) == -1 && errno == EINTR)
        ;
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---- the truth table of a claim ---- */

static void fill(uint64_t start, int pages)
{
    for (size_t i = 0; i < (size_t)pages * page; i++)
        bytes(start)[i] = (unsigned char)(i * 31 + 7);
}

static int64_t intact(uint64_t start, int pages)
{
    for (size_t i = 0; i < (size_t)pages * page; i++)
        if (bytes(start)[i] != (unsigned char)(i * 31 + 7))
            return 0;
    return 1;
}

static void test_claims_refuse_what_is_in_the_way(void)
{
    static const struct { const char *name; int start, pages; } in_the_way[] = {
        {"exact", 8, 4},        {"contained", 9, 2},     {"lower end", 6, 4}, {"upper end", 10, 4},
        {"covering", 6, 8},     {"first page", 8, 1},    {"last page", 11, 1}, {"from the start", 8, 8},
        {"up to the end", 4, 8}, {"one page over", 7, 2},
    };
    EQUAL(stead_place(at(8), 4 * page, READ_WRITE, ANYONE, -1, 0), at(8));
    fill(at(8), 4);
    for (size_t i = 0; i < sizeof in_the_way / sizeof *in_the_way; i++) {
        int64_t got = stead_claim(at(in_the_way[i].start), (size_t)in_the_way[i].pages * page);
        check_equal(__LINE__, in_the_way[i].name, got, -EEXIST);
        check_equal(__LINE__, "its sentinels are intact", intact(at(8), 4), 1);
        for (int p = 0; p < 20; p++)
            check_equal(__LINE__, in_the_way[i].name, mapped(at(p)), p >= 8 && p < 12);
    }
    /* Adjacent: both succeed, and the neighbour keeps its bytes. */
    EQUAL(stead_claim(at(6), 2 * page), at(6));
    EQUAL(stead_claim(at(12), 2 * page), at(12));
    EQUAL(intact(at(8), 4), 1);
    /* Our own reservation is as much in the way as anything else. */
    EQUAL(stead_claim(at(6), 2 * page), -EEXIST);
    EQUAL(stead_claim(at(12), page), -EEXIST);
    EQUAL(stead_claim(at(5), 2 * page), -EEXIST);
    EQUAL(stead_unmap(at(0), 20 * page), 0);
}

static void test_claims_refuse_what_is_no_range(void)
{
    EQUAL(stead_claim(at(0) + 1, page), -EINVAL);
    EQUAL(stead_claim(at(0) + page / 2, page), -EINVAL);
    EQUAL(stead_claim(at(0), 0), -EINVAL);
    EQUAL(mapped(at(0)), 0);
    EQUAL(mapped(at(1)), 0);
#if defined(__x86_64__) && !defined(UNDER_TSAN)
    /* With five-level paging 2^47 is only the first address that must be asked for; see features.py. */
    if (stead_claim((UINT64_C(1) << 56) - 2 * page, page) == -ENOMEM) {
        const uint64_t top = UINT64_C(1) << 47;
        EQUAL(stead_claim(top, page), -ENOMEM);
        EQUAL(stead_claim(top - page, page), -ENOMEM); /* the last user page stays free */
        EQUAL(stead_claim(top - 2 * page, 2 * page), -ENOMEM);
        EQUAL(stead_claim(UINT64_C(1) << 48, page), -ENOMEM);
        EQUAL(stead_claim(UINT64_MAX - page + 1, page), -ENOMEM);
    } else {
        (void)stead_unmap((UINT64_C(1) << 56) - 2 * page, page);
    }
#endif
    EQUAL(stead_claim(at(0), SIZE_MAX / page * page), -ENOMEM);
}

static void test_a_claim_has_no_access_and_no_memory(void)
{
    EQUAL(stead_claim(at(0), 4 * page), at(0));
    EQUAL(mapped(at(0)), 1);
    EQUAL(touching(at(0), 0), SIGSEGV);
    EQUAL(touching(at(3), 1), SIGSEGV);
    EQUAL(stead_unmap(at(0), 4 * page), 0);
#ifndef UNDER_TSAN
    /* 8 TiB cost nothing: MAP_NORESERVE. */
    EQUAL(stead_claim(BASE, (size_t)8 << 40), BASE);
    EQUAL(stead_unmap(BASE, (size_t)8 << 40), 0);
#endif
}

static void test_a_hint_goes_elsewhere_and_never_clobbers(void)
{
#ifndef UNDER_TSAN
    EQUAL(stead_hint(at(0), 2 * page), at(0));
    int64_t got = stead_hint(at(0), 2 * page);
    EQUAL(got > 0 && (uint64_t)got != at(0), 1);
    EQUAL(stead_unmap((uint64_t)got, 2 * page), 0);
    EQUAL(stead_unmap(at(0), 2 * page), 0);
#endif
    int64_t anywhere = stead_hint(0, page);
    EQUAL(anywhere > 0, 1);
    EQUAL(stead_unmap((uint64_t)anywhere, page), 0);
    EQUAL(stead_hint(0, 0), -EINVAL);
}

/* ---- the rest, inside what we hold ---- */

static void test_places_replace_and_keep_the_neighbours(void)
{
    EQUAL(stead_claim(at(0), 8 * page), at(0));
    EQUAL(stead_place(at(2), 4 * page, READ_WRITE, ANYONE, -1, 0), at(2));
    fill(at(2), 4);
    EQUAL(stead_place(at(3), page, PROT_NONE, ANYONE, -1, 0), at(3));
    EQUAL(touching(at(3), 0), SIGSEGV);
    EQUAL(stead_place(at(3), page, READ_WRITE, ANYONE, -1, 0), at(3));
    EQUAL(bytes(at(3))[0], 0); /* what was there is gone */
    EQUAL(bytes(at(2))[page - 1], (unsigned char)((page - 1) * 31 + 7));
    EQUAL(bytes(at(4))[0], (unsigned char)(2 * page * 31 + 7));
    EQUAL(stead_place(at(3) + 1, page, READ_WRITE, ANYONE, -1, 0), -EINVAL);
    EQUAL(stead_place(at(3), 0, READ_WRITE, ANYONE, -1, 0), -EINVAL);
    EQUAL(stead_place(at(3), page, READ_WRITE, MAP_SHARED, 9999, 0), -EBADF);
    EQUAL(mapped(at(3)), 1);
    EQUAL(stead_unmap(at(0), 8 * page), 0);
}

static void test_shared_memory_is_the_same_at_two_addresses(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    EQUAL(fd >= 0, 1);
    EQUAL(stead_fallocate(fd, 0, 0, (int64_t)(4 * page)), 0);
    EQUAL(lseek(fd, 0, SEEK_END), 4 * page);
    EQUAL(stead_claim(at(0), 8 * page), at(0));
    EQUAL(stead_place(at(0), 4 * page, READ_WRITE, MAP_SHARED, fd, 0), at(0));
    EQUAL(stead_place(at(4), 2 * page, PROT_READ, MAP_SHARED, fd, (int64_t)(2 * page)), at(4));
    bytes(at(2))[5] = 42;
    EQUAL(bytes(at(4))[5], 42);
    EQUAL(stead_place(at(6), page, READ_WRITE, MAP_SHARED, fd, 1), -EINVAL);
    /* A hole: contents dropped, size kept. */
    EQUAL(stead_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (int64_t)(2 * page), (int64_t)page), 0);
    EQUAL(bytes(at(4))[5], 0);
    EQUAL(stead_fallocate(fd, 0, 0, 0), -EINVAL);
    EQUAL(stead_fallocate(fd, 0, -1, 1), -EINVAL);
    EQUAL(stead_fallocate(-1, 0, 0, 1), -EBADF);
    EQUAL(stead_unmap(at(0), 8 * page), 0);
    close(fd);
}

static void test_protection_follows_and_keeps_contents(void)
{
    EQUAL(stead_claim(at(0), 3 * page), at(0));
    EQUAL(stead_protect(at(0), 2 * page, READ_WRITE), 0);
    fill(at(0), 2);
    EQUAL(stead_protect(at(0), 2 * page, PROT_READ), 0);
    EQUAL(touching(at(0), 0), 0);
    EQUAL(touching(at(0), 1), SIGSEGV);
    EQUAL(stead_protect(at(0), 2 * page, PROT_NONE), 0);
    EQUAL(touching(at(0), 0), SIGSEGV);
    EQUAL(stead_protect(at(0), 2 * page, PROT_READ), 0);
    EQUAL(intact(at(0), 2), 1);
    EQUAL(stead_protect(at(0) + 1, page, PROT_READ), -EINVAL);
    EQUAL(stead_protect(at(2), 2 * page, PROT_READ), -ENOMEM); /* a hole behind it */
    EQUAL(stead_unmap(at(0), 3 * page), 0);
    EQUAL(stead_protect(at(0), page, PROT_READ), -ENOMEM);
}

static void test_advice_drops_contents(void)
{
    EQUAL(stead_claim(at(0), 2 * page), at(0));
    EQUAL(stead_protect(at(0), 2 * page, READ_WRITE), 0);
    fill(at(0), 2);
    EQUAL(stead_advise(at(0), page, MADV_DONTNEED), 0);
    EQUAL(bytes(at(0))[1], 0);
    EQUAL(bytes(at(1))[0], (unsigned char)(page * 31 + 7));
    EQUAL(stead_advise(at(0), 2 * page, MADV_DONTDUMP), 0);
    EQUAL(stead_advise(at(0) + 1, page, MADV_DONTNEED), -EINVAL);
    EQUAL(stead_advise(at(0), page, 12345), -EINVAL);
    EQUAL(stead_advise(at(1), 2 * page, MADV_DONTNEED), -ENOMEM);
    EQUAL(stead_unmap(at(0), 2 * page), 0);
}

static void test_what_is_unmapped_is_free_and_its_neighbours_are_not(void)
{
    EQUAL(stead_claim(at(0), 3 * page), at(0));
    EQUAL(stead_unmap(at(1), page), 0);
    EQUAL(mapped(at(0)), 1);
    EQUAL(mapped(at(1)), 0);
    EQUAL(mapped(at(2)), 1);
    EQUAL(stead_claim(at(1), page), at(1));
    EQUAL(stead_unmap(at(0), 3 * page), 0);
    EQUAL(stead_unmap(at(0), 3 * page), 0); /* nothing there: no error, says munmap(2) */
    EQUAL(stead_unmap(at(0) + 1, page), -EINVAL);
    EQUAL(stead_unmap(at(0), 0), -EINVAL);
}

static void test_a_query_finds_what_covers_or_comes_next(void)
{
    stead_mapping found = {0};
    char name[4096] = "untouched";
    maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    EQUAL(maps_fd >= 0, 1);
    int64_t got = stead_query(maps_fd, 0, &found, name, sizeof name);
    if (got == -ENOTTY || got == -EINVAL) {
        printf("skipped: no PROCMAP_QUERY (Linux 6.11)\n");
        close(maps_fd);
        return;
    }
    EQUAL(got, 0);
    int fd = memfd_create("a name", MFD_CLOEXEC);
    EQUAL(ftruncate(fd, (off_t)(4 * page)), 0);
    EQUAL(stead_claim(at(2), 2 * page), at(2));
    EQUAL(stead_place(at(3), page, READ_WRITE, MAP_SHARED, fd, (int64_t)page), at(3));

    EQUAL(stead_query(maps_fd, at(3) + 1, &found, name, sizeof name), 0);
    EQUAL(found.start, at(3));
    EQUAL(found.stop, at(4));
    EQUAL(found.offset, page);
    EQUAL(found.inode != 0, 1);
    EQUAL(found.flags & (STEAD_QUERY_READABLE | STEAD_QUERY_WRITABLE | STEAD_QUERY_EXECUTABLE | STEAD_QUERY_SHARED),
          STEAD_QUERY_READABLE | STEAD_QUERY_WRITABLE | STEAD_QUERY_SHARED);
    EQUAL(strcmp(name, "/memfd:a name (deleted)"), 0);
    EQUAL(found.name_size, sizeof "/memfd:a name (deleted)");

    EQUAL(stead_query(maps_fd, at(0), &found, name, sizeof name), 0); /* the next above */
    EQUAL(found.start, at(2));
    EQUAL(found.flags, 0);
    EQUAL(found.name_size, 0);
    EQUAL(stead_query(maps_fd, at(3), &found, NULL, 0), 0);
    EQUAL(found.start, at(3));
    EQUAL(stead_query(maps_fd, at(3), &found, name, 3), -ENAMETOOLONG);
    EQUAL(stead_query(maps_fd, UINT64_MAX - page, &found, name, sizeof name), -ENOENT);
    EQUAL(stead_query(-1, at(0), &found, name, sizeof name), -EBADF);
    EQUAL(stead_unmap(at(2), 2 * page), 0);
    close(fd);
    close(maps_fd);
}

static void test_a_name_is_taken_or_refused_and_changes_nothing_else(void)
{
    EQUAL(stead_claim(at(0), page), at(0));
    int64_t got = stead_name(at(0), page, "stead:test");
    EQUAL(got == 0 || got == -EINVAL, 1); /* EINVAL: a kernel without CONFIG_ANON_VMA_NAME */
    EQUAL(stead_name(at(0), page, "not [allowed]"), -EINVAL);
    EQUAL(touching(at(0), 0), SIGSEGV);
    EQUAL(stead_unmap(at(0), page), 0);
}

static void test_the_end_of_the_heap_and_the_sanitizer_are_told(void)
{
    EQUAL(stead_program_break(), (uint64_t)(uintptr_t)sbrk(0));
    const char *wanted = UNDER, *found = stead_sanitizer();
    EQUAL(found ? (wanted && strcmp(found, wanted) == 0) : !wanted, 1);
}

/* ---- threads ---- */

enum { THREADS = 4, ROUNDS = 500 };
static pthread_barrier_t barrier;
static int wins[THREADS][ROUNDS];

static void *race(void *argument)
{
    int me = (int)(intptr_t)argument;
    for (int round = 0; round < ROUNDS; round++) {
        (void)pthread_barrier_wait(&barrier);
        int64_t got = stead_claim(at(1), 2 * page);
        wins[me][round] = got == (int64_t)at(1) ? 1 : got == -EEXIST ? 0 : 100;
        (void)pthread_barrier_wait(&barrier);
        if (wins[me][round] == 1)
            (void)stead_unmap(at(1), 2 * page);
        (void)pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void test_of_threads_that_claim_one_range_exactly_one_wins(void)
{
    pthread_t threads[THREADS];
    EQUAL(stead_place(at(0), page, READ_WRITE, ANYONE, -1, 0), at(0));
    EQUAL(stead_place(at(3), page, READ_WRITE, ANYONE, -1, 0), at(3));
    fill(at(0), 1);
    fill(at(3), 1);
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        EQUAL(pthread_create(&threads[i], NULL, race, (void *)(intptr_t)i), 0);
    for (int i = 0; i < THREADS; i++)
        EQUAL(pthread_join(threads[i], NULL), 0);
    for (int round = 0; round < ROUNDS; round++) {
        int sum = 0;
        for (int i = 0; i < THREADS; i++)
            sum += wins[i][round];
        EQUAL(sum, 1);
    }
    EQUAL(intact(at(0), 1), 1);
    EQUAL(intact(at(3), 1), 1);
    EQUAL(stead_unmap(at(0), 4 * page), 0);
}

int main(void)
{
    page = (size_t)sysconf(_SC_PAGESIZE);
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    test_claims_refuse_what_is_in_the_way();
    test_claims_refuse_what_is_no_range();
    test_a_claim_has_no_access_and_no_memory();
    test_a_hint_goes_elsewhere_and_never_clobbers();
    test_places_replace_and_keep_the_neighbours();
    test_shared_memory_is_the_same_at_two_addresses();
    test_protection_follows_and_keeps_contents();
    test_advice_drops_contents();
    test_what_is_unmapped_is_free_and_its_neighbours_are_not();
    test_a_query_finds_what_covers_or_comes_next();
    test_a_name_is_taken_or_refused_and_changes_nothing_else();
    test_the_end_of_the_heap_and_the_sanitizer_are_told();
    test_of_threads_that_claim_one_range_exactly_one_wins();
    const char *sanitizer = stead_sanitizer();
    printf("%d checks of native/mapping.c (%s sanitizer), %d failed\n", checks, sanitizer ? sanitizer : "no", failures);
    return failures != 0;
}
