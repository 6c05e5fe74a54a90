/* host.c - memory of the host that devices use, too: registered, and managed. */
#define _GNU_SOURCE
#include "inside.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct range {
    struct range *next;
    uint64_t start, size;
    uint64_t elsewhere; /* what devices call the start */
} range;

static range *registered, *managed;

static range *starting(range *list, uint64_t address)
{
    while (list && list->start != address)
        list = list->next;
    return list;
}

static range *around(range *list, uint64_t address)
{
    while (list && (address < list->start || address - list->start >= list->size))
        list = list->next;
    return list;
}

static void take_out(range **list, range *gone)
{
    while (*list != gone)
        list = &(*list)->next;
    *list = gone->next;
    if (gone->elsewhere != gone->start)
        munmap((void *)(uintptr_t)gone->elsewhere, gone->size);
    free(gone);
}

double_answer double_managed(uint64_t *address, uint64_t size)
{
    if (!address || !size)
        return DOUBLE_INVALID;
    range *made = calloc(1, sizeof *made);
    if (!made)
        return DOUBLE_OUT_OF_MEMORY;
    double_lock();
    void *got = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got != MAP_FAILED) {
        *address = (uint64_t)(uintptr_t)got;
        *made = (range){managed, *address, size, *address};
        managed = made;
    }
    double_unlock();
    if (got == MAP_FAILED)
        free(made);
    return got == MAP_FAILED ? DOUBLE_OUT_OF_MEMORY : DOUBLE_OK;
}

double_answer double_free_managed(uint64_t address)
{
    double_lock();
    range *it = starting(managed, address);
    if (it) {
        munmap((void *)(uintptr_t)it->start, it->size);
        take_out(&managed, it);
    }
    double_unlock();
    return it ? DOUBLE_OK : DOUBLE_INVALID;
}

/* Readable from the first byte to the last, as write(2) finds out without dying of it. */
static int accessible(uint64_t address, uint64_t size)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), at = address;
    int sink = memfd_create("what a double looks at", MFD_CLOEXEC), good = sink >= 0;
    while (good && at < address + size) {
        good = pwrite(sink, (const void *)(uintptr_t)at, 1, 0) == 1;
        at = (at & ~(page - 1)) + page;
    }
    if (sink >= 0)
        close(sink);
    return good;
}

double_answer double_register(uint64_t address, uint64_t size)
{
    if (!address || !size || address + size < address || !accessible(address, size))
        return DOUBLE_INVALID;
    range *made = calloc(1, sizeof *made);
    if (!made)
        return DOUBLE_OUT_OF_MEMORY;
    int at_host_address = 1;
    for (int each = 0; each < double_devices(); each++)
        at_host_address = at_host_address && double_can(each, DOUBLE_REGISTERED_AT_HOST_ADDRESS);
    double_answer answer = DOUBLE_OK;
    double_lock();
    for (range *each = registered; each; each = each->next)
        if (each->start < address + size && address < each->start + each->size)
            answer = DOUBLE_ALREADY_REGISTERED;
    uint64_t elsewhere = address;
    if (!answer && !at_host_address) {
        void *got = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        elsewhere = (uint64_t)(uintptr_t)got;
        if (got == MAP_FAILED)
            answer = DOUBLE_OUT_OF_MEMORY;
    }
    if (!answer) {
        *made = (range){registered, address, size, elsewhere};
        registered = made;
    }
    double_unlock();
    if (answer)
        free(made);
    return answer;
}

double_answer double_unregister(uint64_t address)
{
    double_lock();
    range *it = starting(registered, address);
    if (it)
        take_out(&registered, it);
    double_unlock();
    return it ? DOUBLE_OK : DOUBLE_NOT_REGISTERED;
}

double_answer double_device_address(uint64_t *device_address, uint64_t address)
{
    double_lock();
    range *it = around(registered, address);
    if (it)
        *device_address = it->elsewhere + (address - it->start);
    double_unlock();
    return it ? DOUBLE_OK : DOUBLE_INVALID;
}

int double_used_by_devices(uint64_t address)
{
    return around(registered, address) || around(managed, address);
}

uint64_t double_host_address(uint64_t device_address)
{
    for (range *each = registered; each; each = each->next)
        if (device_address >= each->elsewhere && device_address - each->elsewhere < each->size)
            return each->start + (device_address - each->elsewhere);
    return device_address;
}

int64_t double_count_host(const char *what)
{
    int64_t count = 0;
    range *list;
    if (!strcmp(what, "registered"))
        list = registered;
    else if (!strcmp(what, "managed"))
        list = managed;
    else
        return -1;
    for (; list; list = list->next)
        count++;
    return count;
}

void double_reset_host(void)
{
    while (registered)
        take_out(&registered, registered);
    while (managed) {
        munmap((void *)(uintptr_t)managed->start, managed->size);
        take_out(&managed, managed);
    }
}
