/* memory.c - devices, what they can, and physical memory: handles, budgets, other processes. */
#define _GNU_SOURCE
#include "inside.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOST DOUBLE_DEVICES /* its budget comes after theirs, and those of its nodes after it */

typedef double_physical memory;

typedef struct handle {
    struct handle *next;
    uint64_t number, references;
    memory *of;
} handle;

void (*double_reset_face)(void);

static memory *memories;
static handle *handles;
static uint64_t numbers; /* the last handle; counts through resets: an old one stays unknown */
static int devices, facts[DOUBLE_DEVICES][DOUBLE_FACTS];
static uint64_t total, grain = 1; /* 1: before the first double_reset there is no device to ask */
static struct budget {
    uint64_t limit, used;
} budgets[DOUBLE_DEVICES + 1 + DOUBLE_NODES];

static struct budget *budget_of(double_location where)
{
    if (where.kind == DOUBLE_DEVICE && where.id >= 0 && where.id < devices)
        return &budgets[where.id];
    if (where.kind == DOUBLE_HOST)
        return &budgets[HOST];
    if (where.kind == DOUBLE_NODE && where.id >= 0 && where.id < DOUBLE_NODES)
        return &budgets[HOST + 1 + where.id];
    return NULL;
}

/* ---- devices ---- */

int double_devices(void)
{
    return devices;
}

int64_t double_can(int device, double_fact fact)
{
    if (device < 0 || device >= devices || (unsigned)fact >= DOUBLE_FACTS)
        return 0;
    return facts[device][fact];
}

uint64_t double_memory(int device)
{
    return device >= 0 && device < devices ? total : 0;
}

uint64_t double_free_bytes(int device)
{
    if (device < 0 || device >= devices)
        return 0;
    double_lock();
    struct budget now = budgets[device];
    double_unlock();
    return now.used < now.limit ? now.limit - now.used : 0;
}

uint64_t double_granularity(double_location where)
{
    return budget_of(where) ? grain : 0;
}

uint64_t double_grain(void)
{
    return grain;
}

/* ---- physical memory ---- */

void double_leave(memory *of)
{
    if (--of->users)
        return;
    for (memory **link = &memories; *link; link = &(*link)->next)
        if (*link == of) {
            *link = of->next;
            break;
        }
    if (!of->adopted)
        budget_of(of->where)->used -= of->size;
    close(of->fd);
    free(of);
}

static handle *handle_of(uint64_t number)
{
    for (handle *each = handles; each; each = each->next)
        if (each->number == number)
            return each;
    return NULL;
}

static handle *new_handle(memory *of)
{
    handle *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    *made = (handle){handles, ++numbers, 1, of};
    of->users++;
    return handles = made;
}

/* The name tells another process what it adopts: a memfd carries nothing else but its size. */
#define NAME "device memory of stead's double, at %d:%d"

static int make_fd(uint64_t size, double_location where)
{
    char name[80];
    snprintf(name, sizeof name, NAME, where.kind, where.id);
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)size)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static memory *new_memory(int fd, uint64_t size, double_location where, int shareable, int adopted)
{
    struct stat of;
    memory *made = fstat(fd, &of) ? NULL : calloc(1, sizeof *made);
    if (!made)
        return NULL;
    *made = (memory){memories, fd, shareable, adopted, of.st_ino, size, 0, where};
    return memories = made;
}

double_answer double_create(uint64_t *number, uint64_t size, double_location where, int shareable)
{
    struct budget *budget = budget_of(where);
    if (!number || !budget || !size || size % grain || (shareable && where.kind == DOUBLE_HOST))
        return DOUBLE_INVALID;
    double_answer answer = DOUBLE_OUT_OF_MEMORY;
    double_lock();
    int fd = budget->used <= budget->limit && size <= budget->limit - budget->used ? make_fd(size, where) : -1;
    memory *made = fd >= 0 ? new_memory(fd, size, where, shareable, 0) : NULL;
    if (made) {
        budget->used += size;
        made->users++;
        handle *named = new_handle(made);
        double_leave(made);
        if (named) {
            *number = named->number;
            answer = DOUBLE_OK;
        }
    } else if (fd >= 0) {
        close(fd);
    }
    double_unlock();
    return answer;
}

double_answer double_release(uint64_t number)
{
    double_lock();
    handle *it = handle_of(number);
    if (it && !--it->references) {
        for (handle **link = &handles; *link; link = &(*link)->next)
            if (*link == it) {
                *link = it->next;
                break;
            }
        double_leave(it->of);
        free(it);
    }
    double_unlock();
    return it ? DOUBLE_OK : DOUBLE_INVALID;
}

double_answer double_retain(uint64_t number)
{
    double_lock();
    handle *it = handle_of(number);
    if (it)
        it->references++;
    double_unlock();
    return it ? DOUBLE_OK : DOUBLE_INVALID;
}

double_answer double_export(int *fd, uint64_t number)
{
    double_lock();
    handle *it = handle_of(number);
    double_answer answer = it && it->of->shareable && fd ? DOUBLE_OK : DOUBLE_INVALID;
    if (!answer && (*fd = fcntl(it->of->fd, F_DUPFD_CLOEXEC, 0)) < 0)
        answer = DOUBLE_OUT_OF_MEMORY;
    double_unlock();
    return answer;
}

/* Whether fd is a double's memory, and where that one made it. */
static int made_by_a_double(int fd, double_location *where)
{
    char link[40], target[120];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (fd < 0 || length < 0)
        return 0;
    target[length] = 0;
    int kind;
    if (sscanf(target, "/memfd:" NAME, &kind, &where->id) != 2)
        return 0;
    where->kind = (double_kind)kind;
    return budget_of(*where) != NULL;
}

double_answer double_adopt(uint64_t *number, int fd)
{
    double_location where = {DOUBLE_DEVICE, 0};
    struct stat of;
    if (!number || !made_by_a_double(fd, &where) || fstat(fd, &of))
        return DOUBLE_INVALID;
    double_answer answer = DOUBLE_OUT_OF_MEMORY;
    double_lock();
    memory *it = memories;
    while (it && it->inode != of.st_ino)
        it = it->next;
    if (!it) {
        int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (own >= 0 && !(it = new_memory(own, (uint64_t)of.st_size, where, 1, 1)))
            close(own);
    }
    if (it) {
        it->users++;
        handle *made = new_handle(it);
        double_leave(it);
        if (made) {
            *number = made->number;
            answer = DOUBLE_OK;
        }
    }
    double_unlock();
    return answer;
}

double_answer double_described(uint64_t number, uint64_t *size, double_location *where, int *shareable)
{
    double_lock();
    handle *it = handle_of(number);
    if (it) {
        *size = it->of->size;
        *where = it->of->where;
        *shareable = it->of->shareable;
    }
    double_unlock();
    return it ? DOUBLE_OK : DOUBLE_INVALID;
}

double_answer double_handle_at(uint64_t *number, uint64_t address)
{
    double_answer answer = DOUBLE_INVALID;
    double_lock();
    memory *here = double_memory_at(address);
    if (here) {
        handle *it = handles;
        while (it && it->of != here)
            it = it->next;
        if (it)
            it->references++;
        else
            it = new_handle(here);
        answer = it ? DOUBLE_OK : DOUBLE_OUT_OF_MEMORY;
        if (it)
            *number = it->number;
    }
    double_unlock();
    return answer;
}

double_answer double_located(double_location *where, uint64_t address)
{
    double_lock();
    memory *here = double_memory_at(address);
    int host = !here && double_used_by_devices(address);
    if (here || host)
        *where = here ? here->where : (double_location){DOUBLE_HOST, 0};
    double_unlock();
    return here || host ? DOUBLE_OK : DOUBLE_INVALID;
}

memory *double_memory_of(uint64_t number)
{
    handle *it = handle_of(number);
    return it ? it->of : NULL;
}

/* ---- for tests ---- */

void double_reset(int count, uint64_t memory_of_each, uint64_t granularity)
{
    double_lock();
    double_reset_work();
    double_reset_host();
    double_reset_addresses();
    while (handles) {
        handle *gone = handles;
        handles = gone->next;
        double_leave(gone->of);
        free(gone);
    }
    devices = count < 0 ? 0 : count > DOUBLE_DEVICES ? DOUBLE_DEVICES : count;
    total = memory_of_each;
    grain = granularity;
    for (int each = 0; each < DOUBLE_DEVICES; each++)
        for (int fact = 0; fact < DOUBLE_FACTS; fact++)
            facts[each][fact] = fact != DOUBLE_REACHES_PAGEABLE;
    for (int each = 0; each < HOST + 1 + DOUBLE_NODES; each++)
        budgets[each] = (struct budget){memory_of_each, 0};
    if (double_reset_face)
        double_reset_face();
    double_reset_plan();
    double_unlock();
}

void double_set_fact(int device, double_fact fact, int value)
{
    if (device >= 0 && device < DOUBLE_DEVICES && (unsigned)fact < DOUBLE_FACTS)
        facts[device][fact] = value;
}

void double_set_budget(double_kind kind, int id, uint64_t bytes)
{
    struct budget *budget = budget_of((double_location){kind, id});
    double_lock();
    if (budget)
        budget->limit = bytes;
    double_unlock();
}

uint64_t double_bytes(double_kind kind, int id)
{
    struct budget *budget = budget_of((double_location){kind, id});
    double_lock();
    uint64_t used = budget ? budget->used : 0;
    double_unlock();
    return used;
}

int64_t double_count(const char *what)
{
    int64_t count = 0;
    double_lock();
    if (!strcmp(what, "handles"))
        for (handle *each = handles; each; each = each->next)
            count++;
    else if (!strcmp(what, "memories"))
        for (memory *each = memories; each; each = each->next)
            count++;
    else if ((count = double_count_addresses(what)) < 0 && (count = double_count_host(what)) < 0)
        count = double_count_work(what);
    double_unlock();
    return count;
}
