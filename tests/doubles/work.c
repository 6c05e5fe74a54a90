/* work.c - contents, and the order in which streams change them. */
#define _GNU_SOURCE
#include "inside.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct event {
    struct event *next;
    uint64_t number;
    int pending; /* records of it that a stream still holds */
} event;

typedef struct work {
    struct work *next;
    uint64_t stream;
    int device;
    enum { COPY, FILL, ADD, RECORD } kind;
    uint64_t to, source, size; /* source: of a fill, the byte; of an add, what; of a record, the event */
} work;

static work *held, **last = &held; /* of all streams, in the order in which it was given */
static event *events;
static uint64_t event_numbers, stream_numbers = 100; /* CUDA gives 1 and 2 a meaning */
static int64_t faults;

/* ---- bytes ---- */

static int scratch(void)
{
    static int fd = -1;
    if (fd < 0)
        fd = memfd_create("what a double copies", MFD_CLOEXEC);
    return fd;
}

/* Between a piece and a buffer. Through a file where it is ordinary memory: an address that is not accessible is
 * then an error of read(2) or write(2), not a signal. */
static int take(const double_piece *from, void *buffer, size_t size)
{
    if (from->fd >= 0)
        return pread(from->fd, buffer, size, (off_t)from->offset) == (ssize_t)size;
    return pwrite(scratch(), (const void *)(uintptr_t)from->host, size, 0) == (ssize_t)size
        && pread(scratch(), buffer, size, 0) == (ssize_t)size;
}

static int put(const double_piece *to, const void *buffer, size_t size)
{
    if (to->fd >= 0)
        return pwrite(to->fd, buffer, size, (off_t)to->offset) == (ssize_t)size;
    return pwrite(scratch(), buffer, size, 0) == (ssize_t)size
        && pread(scratch(), (void *)(uintptr_t)to->host, size, 0) == (ssize_t)size;
}

static int find(uint64_t address, uint64_t size, int access, double_piece *piece)
{
    return double_resolve(double_host_address(address), size, access, piece);
}

static int everywhere(uint64_t address, uint64_t size, int access)
{
    double_piece piece;
    for (uint64_t done = 0; done < size; done += piece.size)
        if (!find(address + done, size - done, access, &piece))
            return 0;
    return 1;
}

static double_answer copy_bytes(uint64_t to, uint64_t source, uint64_t size)
{
    static unsigned char buffer[1 << 16]; /* under the lock */
    if (!everywhere(to, size, DOUBLE_READWRITE) || !everywhere(source, size, DOUBLE_READ))
        return DOUBLE_INVALID;
    for (uint64_t done = 0, step; done < size; done += step) {
        double_piece from, target;
        step = size - done < sizeof buffer ? size - done : sizeof buffer;
        find(source + done, step, DOUBLE_READ, &from);
        find(to + done, from.size, DOUBLE_READWRITE, &target);
        step = target.size;
        if (!take(&from, buffer, step) || !put(&target, buffer, step))
            return DOUBLE_INVALID;
    }
    return DOUBLE_OK;
}

static double_answer fill_bytes(uint64_t address, uint64_t size, int byte)
{
    static unsigned char buffer[1 << 16];
    memset(buffer, byte, sizeof buffer);
    if (!everywhere(address, size, DOUBLE_READWRITE))
        return DOUBLE_INVALID;
    for (uint64_t done = 0, step; done < size; done += step) {
        double_piece target;
        step = size - done < sizeof buffer ? size - done : sizeof buffer;
        find(address + done, step, DOUBLE_READWRITE, &target);
        step = target.size;
        if (!put(&target, buffer, step))
            return DOUBLE_INVALID;
    }
    return DOUBLE_OK;
}

static double_answer add_there(int device, uint64_t address, uint32_t what)
{
    double_piece piece;
    uint32_t number;
    uint64_t host = double_host_address(address);
    if (!find(address, sizeof number, DOUBLE_READWRITE, &piece) || piece.size != sizeof number)
        return DOUBLE_INVALID;
    if (piece.fd >= 0 ? !double_maps_for(device, address)
                      : !double_used_by_devices(host) && !double_can(device, DOUBLE_REACHES_PAGEABLE))
        return DOUBLE_INVALID;
    if (!take(&piece, &number, sizeof number))
        return DOUBLE_INVALID;
    number += what;
    return put(&piece, &number, sizeof number) ? DOUBLE_OK : DOUBLE_INVALID;
}

/* ---- order ---- */

static event *event_of(uint64_t number)
{
    event *it = events;
    while (it && it->number != number)
        it = it->next;
    return it;
}

static double_answer perform(const work *it)
{
    if (it->kind == COPY)
        return copy_bytes(it->to, it->source, it->size);
    if (it->kind == FILL)
        return fill_bytes(it->to, it->size, (int)it->source);
    if (it->kind == ADD)
        return add_there(it->device, it->to, (uint32_t)it->source);
    event *of = event_of(it->source);
    if (of)
        of->pending--;
    return DOUBLE_OK;
}

static double_answer give(work wanted)
{
    if (wanted.device < 0 || wanted.device >= double_devices())
        return DOUBLE_INVALID;
    if (wanted.kind == RECORD && !event_of(wanted.source))
        return DOUBLE_INVALID;
    if (!wanted.stream)
        return wanted.kind == RECORD ? DOUBLE_OK : perform(&wanted);
    work *made = malloc(sizeof *made);
    if (!made)
        return DOUBLE_OUT_OF_MEMORY;
    if (wanted.kind == RECORD)
        event_of(wanted.source)->pending++;
    *made = wanted;
    made->next = NULL;
    *last = made;
    last = &made->next;
    return DOUBLE_OK;
}

static double_answer given(work wanted)
{
    double_lock();
    double_answer answer = give(wanted);
    double_unlock();
    return answer;
}

/* Takes out the first held work that is meant, and does it; 0: there is none. */
static int do_first(uint64_t stream, int device, double_answer *answer)
{
    work **link = &held;
    while (*link && (stream ? (*link)->stream != stream : (*link)->device != device))
        link = &(*link)->next;
    work *it = *link;
    if (!it)
        return 0;
    if (!(*link = it->next))
        last = link;
    if (perform(it) != DOUBLE_OK) {
        faults++;
        *answer = DOUBLE_FAULT;
    }
    free(it);
    return 1;
}

uint64_t double_new_stream(void)
{
    double_lock();
    uint64_t number = ++stream_numbers;
    double_unlock();
    return number;
}

double_answer double_copy(uint64_t stream, int device, uint64_t to, uint64_t source, uint64_t size)
{
    return given((work){NULL, stream, device, COPY, to, source, size});
}

double_answer double_fill(uint64_t stream, int device, uint64_t address, uint64_t size, int byte)
{
    return given((work){NULL, stream, device, FILL, address, (uint64_t)(byte & 0xff), size});
}

double_answer double_add(uint64_t stream, int device, uint64_t address, uint32_t what)
{
    return given((work){NULL, stream, device, ADD, address, what, sizeof what});
}

double_answer double_wait_stream(uint64_t stream)
{
    double_answer answer = DOUBLE_OK;
    double_lock();
    while (stream && do_first(stream, 0, &answer))
        continue;
    double_unlock();
    return answer;
}

double_answer double_wait_device(int device)
{
    if (device < 0 || device >= double_devices())
        return DOUBLE_INVALID;
    double_answer answer = DOUBLE_OK;
    double_lock();
    while (do_first(0, device, &answer))
        continue;
    double_unlock();
    return answer;
}

double_answer double_new_event(uint64_t *number)
{
    event *made = calloc(1, sizeof *made);
    if (!made || !number) {
        free(made);
        return number ? DOUBLE_OUT_OF_MEMORY : DOUBLE_INVALID;
    }
    double_lock();
    *number = ++event_numbers;
    *made = (event){events, *number, 0};
    events = made;
    double_unlock();
    return DOUBLE_OK;
}

double_answer double_record(uint64_t number, uint64_t stream, int device)
{
    return given((work){NULL, stream, device, RECORD, 0, number, 0});
}

double_answer double_passed(uint64_t number)
{
    double_lock();
    event *it = event_of(number);
    double_answer answer = !it ? DOUBLE_INVALID : it->pending ? DOUBLE_NOT_READY : DOUBLE_OK;
    double_unlock();
    return answer;
}

double_answer double_wait_event(uint64_t number)
{
    double_answer answer = DOUBLE_OK;
    double_lock();
    event *it = event_of(number);
    while (it && it->pending) {
        uint64_t stream = 0;
        for (work *each = held; each && !stream; each = each->next)
            if (each->kind == RECORD && each->source == number)
                stream = each->stream;
        if (!do_first(stream, 0, &answer))
            break;
    }
    double_unlock();
    return it ? answer : DOUBLE_INVALID;
}

double_answer double_forget(uint64_t number)
{
    double_lock();
    event **link = &events;
    while (*link && (*link)->number != number)
        link = &(*link)->next;
    event *it = *link;
    if (it) {
        *link = it->next;
        free(it);
    }
    double_unlock();
    return it ? DOUBLE_OK : DOUBLE_INVALID;
}

/* ---- for tests ---- */

int double_run(uint64_t stream, int works)
{
    double_answer answer;
    int done = 0;
    double_lock();
    while (stream && done != works && do_first(stream, 0, &answer))
        done++;
    double_unlock();
    return done;
}

int64_t double_count_work(const char *what)
{
    int64_t count = 0;
    if (!strcmp(what, "events"))
        for (event *each = events; each; each = each->next)
            count++;
    else if (!strcmp(what, "works"))
        for (work *each = held; each; each = each->next)
            count++;
    else
        return strcmp(what, "faults") ? -1 : faults;
    return count;
}

void double_reset_work(void)
{
    while (held) {
        work *gone = held;
        held = gone->next;
        free(gone);
    }
    last = &held;
    while (events) {
        event *gone = events;
        events = gone->next;
        free(gone);
    }
    faults = 0;
}
