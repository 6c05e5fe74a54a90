/* recorder.c - every allocation of a program, written down while it runs: LD_PRELOAD=recorder.so STEAD_TRACE=FILE.
 *
 * The trace (replay.c reads it, record.py cuts it) is the line "stead trace 1" and then one operation after the
 * other, to the end. An operation is one or two numbers, seven bits in a byte, the lowest first, all bytes but the
 * last with the top bit set (LEB128). The first is what << 3 | kind:
 *
 *   0 free       what: the slot
 *   1 allocate   what: the size
 *   2 zeroed     the same, by calloc
 *   3 aligned    the same; second number: the binary logarithm of the alignment
 *   4 resize     what: the slot; second number: the new size
 *
 * Blocks have no addresses, but slots: a block gets the slot that was freed last, or else the next new one, from 0
 * on. So whoever replays a trace needs an array of blocks and a stack of free slots, and no look-up.
 *
 * Threads: operations are in the order in which the allocator may have had them. An address leaves the map before
 * it is freed and enters it after it was handed out, so nobody else's block is mistaken for it. A forked child
 * records nothing. STEAD_TRACE must not exist: the programs that a program starts do not overwrite it, and record
 * nothing. STEAD_TRACE_LIMIT: the program ends after so many operations.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { FREE, ALLOCATE, ZEROED, ALIGNED, RESIZE };

static struct {
    void *(*malloc)(size_t);
    void (*free)(void *);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*memalign)(size_t, size_t);
} real;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int recording; /* read without the lock first: a child that was forked while it was held never takes it */

/* ---- what is written ---- */

static int file = -1;
static uint64_t left = UINT64_MAX; /* operations */
static uint8_t buffer[1 << 16];
static size_t filled;

static void flush(void)
{
    for (size_t at = 0; at < filled;) {
        ssize_t wrote = write(file, buffer + at, filled - at);
        if (wrote < 0 && errno != EINTR)
            abort(); /* a trace with a hole is none */
        at += wrote > 0 ? (size_t)wrote : 0;
    }
    filled = 0;
}

static void number(uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        buffer[filled++] = (uint8_t)(value | 0x80);
    buffer[filled++] = (uint8_t)value;
}

static void operation(unsigned kind, uint64_t what)
{
    if (filled > sizeof buffer - 32) /* two numbers fit */
        flush();
    number(what << 3 | kind);
    if (!--left)
        recording = 0;
}

/* ---- live blocks: from addresses to slots ---- */

typedef struct {
    uintptr_t address; /* 0: nothing here */
    uint64_t slot;
} place;

static place *places; /* open addressing: a place is at its hash or behind, with no gap between */
static uint64_t mask, live;
static uint64_t *free_slots, free_count, slots;

static void *pages(uint64_t size)
{
    void *got = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED)
        abort();
    return got;
}

static uint64_t home(uintptr_t address)
{
    return (address >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 20 & mask;
}

static place *find(uintptr_t address)
{
    uint64_t i = home(address);
    while (places[i].address && places[i].address != address)
        i = (i + 1) & mask;
    return &places[i];
}

static void grow(void)
{
    place *old = places;
    uint64_t size = mask + 1;
    places = pages(2 * size * sizeof *places);
    mask = 2 * size - 1;
    for (uint64_t i = 0; i < size; i++)
        if (old[i].address)
            *find(old[i].address) = old[i];
    munmap(old, size * sizeof *old);
    uint64_t *stack = pages(2 * size * sizeof *stack);
    memcpy(stack, free_slots, free_count * sizeof *stack);
    munmap(free_slots, size * sizeof *stack);
    free_slots = stack;
}

static void insert(void *block, uint64_t slot)
{
    if (++live > mask / 2) /* slots are never more than places: a new one comes only where all are live */
        grow();
    *find((uintptr_t)block) = (place){(uintptr_t)block, slot};
}

/* What follows moves up where there would be a gap between it and its hash. */
static void erase(place *gone)
{
    uint64_t gap = (uint64_t)(gone - places);
    for (uint64_t i = (gap + 1) & mask; places[i].address; i = (i + 1) & mask) {
        if (((i - home(places[i].address)) & mask) >= ((i - gap) & mask)) {
            places[gap] = places[i];
            gap = i;
        }
    }
    places[gap].address = 0;
    live--;
}

static void release(place *at)
{
    operation(FREE, at->slot);
    free_slots[free_count++] = at->slot;
    erase(at);
}

/* Whether this is recorded, from here to leave(). */
static int enter(void)
{
    if (!__atomic_load_n(&recording, __ATOMIC_RELAXED))
        return 0;
    pthread_mutex_lock(&lock);
    if (recording)
        return 1;
    pthread_mutex_unlock(&lock);
    return 0;
}

static void leave(void)
{
    if (!left) {
        flush();
        _exit(0);
    }
    pthread_mutex_unlock(&lock);
}

static void allocated(unsigned kind, void *block, size_t size, size_t alignment)
{
    if (!block || !enter())
        return;
    place *stale = find((uintptr_t)block); /* freed by a way that is not ours */
    if (stale->address)
        release(stale);
    if (recording) {
        operation(kind, size);
        if (kind == ALIGNED)
            number((unsigned)__builtin_ctzll(alignment));
        insert(block, free_count ? free_slots[--free_count] : slots++);
    }
    leave();
}

/* ---- beginning and end ---- */

/* What dlsym and the loader ask for before the real functions are known. Never reused. */
static _Alignas(16) uint8_t cradle[1 << 16];
static size_t rocked;

static void *from_cradle(size_t size)
{
    size_t *block = (size_t *)(cradle + rocked);
    size_t whole = (size + 31) & ~(size_t)15;
    if (whole < size || rocked + whole > sizeof cradle)
        abort();
    rocked += whole;
    *block = size;
    return block + 2;
}

static int in_cradle(const void *block)
{
    return (const uint8_t *)block >= cradle && (const uint8_t *)block < cradle + sizeof cradle;
}

/* Whether the real functions are known. dlsym asks for memory itself. */
static int ready(void)
{
    static int asking;
    if (__builtin_expect(!real.malloc, 0) && !asking) {
        asking = 1;
        real.free = dlsym(RTLD_NEXT, "free");
        real.calloc = dlsym(RTLD_NEXT, "calloc");
        real.realloc = dlsym(RTLD_NEXT, "realloc");
        real.memalign = dlsym(RTLD_NEXT, "memalign");
        real.malloc = dlsym(RTLD_NEXT, "malloc");
    }
    return real.malloc != NULL;
}

static void in_child(void)
{
    recording = 0;
    file = -1;
}

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("STEAD_TRACE"), *limit = getenv("STEAD_TRACE_LIMIT");
    static const char first[] = "stead trace 1\n";
    if (!path || !ready() || (file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) < 0)
        return;
    if (limit)
        left = strtoull(limit, NULL, 10);
    mask = (1 << 16) - 1;
    places = pages((mask + 1) * sizeof *places);
    free_slots = pages((mask + 1) * sizeof *free_slots);
    memcpy(buffer, first, filled = sizeof first - 1);
    pthread_atfork(NULL, NULL, in_child);
    recording = 1;
}

__attribute__((destructor)) static void stop(void)
{
    if (file < 0)
        return;
    pthread_mutex_lock(&lock);
    recording = 0;
    flush();
    pthread_mutex_unlock(&lock);
}

/* ---- instead of the C library's ---- */

EXPORT void *malloc(size_t size)
{
    if (!ready())
        return from_cradle(size);
    void *block = real.malloc(size);
    allocated(ALLOCATE, block, size, 0);
    return block;
}

EXPORT void *calloc(size_t count, size_t size)
{
    if (!ready())
        return from_cradle(count * size); /* as zero as all of .bss */
    void *block = real.calloc(count, size);
    allocated(ZEROED, block, count * size, 0);
    return block;
}

EXPORT void free(void *block)
{
    if (!block || in_cradle(block) || !ready())
        return;
    int error = errno;
    if (enter()) {
        place *at = find((uintptr_t)block);
        if (at->address)
            release(at);
        leave();
    }
    errno = error;
    real.free(block);
}

EXPORT void *realloc(void *block, size_t size)
{
    if (!block)
        return malloc(size);
    if (in_cradle(block)) {
        size_t had = ((size_t *)block)[-2];
        void *moved = malloc(size);
        return moved ? memcpy(moved, block, had < size ? had : size) : NULL;
    }
    if (!size) { /* glibc frees it; another one's small block would be lost */
        free(block);
        return NULL;
    }
    if (!ready())
        return NULL;
    /* Out of the map while the block is nowhere: another thread may be handed its address before we come back. */
    place was = {0, 0};
    if (enter()) {
        place *at = find((uintptr_t)block);
        was = *at;
        if (at->address)
            erase(at);
        leave();
    }
    void *moved = real.realloc(block, size);
    if (!was.address) {
        allocated(ALLOCATE, moved, size, 0);
    } else if (enter()) {
        if (moved) {
            operation(RESIZE, was.slot);
            number(size);
        }
        insert(moved ? moved : block, was.slot);
        leave();
    }
    return moved;
}

EXPORT void *memalign(size_t alignment, size_t size)
{
    if (!ready())
        abort(); /* nothing that early asks for it */
    void *block = real.memalign(alignment, size);
    allocated(ALIGNED, block, size, alignment);
    return block;
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

EXPORT int posix_memalign(void **block, size_t alignment, size_t size)
{
    if (alignment % sizeof(void *) || !alignment || alignment & (alignment - 1))
        return EINVAL;
    int error = errno;
    void *got = memalign(alignment, size);
    errno = error;
    if (!got)
        return ENOMEM;
    *block = got;
    return 0;
}

EXPORT void *valloc(size_t size)
{
    return memalign((size_t)sysconf(_SC_PAGESIZE), size);
}
