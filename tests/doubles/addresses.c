/* addresses.c - reservations, what is mapped in them, and who may access it.
 *
 * Reservations are in parcels: mappings of the process, in whole units (the granularity, or as double_set_parcels says). A
 * hint leads to the next unit, where double_parcel is set on to the first that is in no parcel, if need be; but a hole of a
 * parcel, where one has room, goes first, whatever the hint (NVIDIA's 580 on an H100; docs/decisions/0016).
 */
#define _GNU_SOURCE
#include "inside.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NOTHING (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
#define HOST DOUBLE_DEVICES /* the accessor beside the devices */

typedef struct range {
    struct range *next;
    uint64_t start, size;
    int own; /* the driver's, for itself */
} range;

typedef struct mapping {
    struct mapping *next;
    uint64_t start, size, offset;
    double_physical *of;
    unsigned char access[DOUBLE_DEVICES + 1];
} mapping;

static range *parcels, *reservations;
uint64_t double_parcel;
static mapping *mappings;

static uint64_t up(uint64_t number, uint64_t to)
{
    return (number + to - 1) & ~(to - 1);
}

static range *first_in(range *list, uint64_t address, uint64_t size)
{
    for (range *each = list; each; each = each->next)
        if (each->start < address + size && address < each->start + each->size)
            return each;
    return NULL;
}

static range *reservation_around(uint64_t address, uint64_t size)
{
    for (range *each = reservations; each; each = each->next)
        if (address >= each->start && size <= each->size && address - each->start <= each->size - size)
            return each;
    return NULL;
}

static mapping *mapping_at(uint64_t address)
{
    for (mapping *each = mappings; each; each = each->next)
        if (address >= each->start && address - each->start < each->size)
            return each;
    return NULL;
}

static int anything_mapped(uint64_t address, uint64_t size)
{
    for (mapping *each = mappings; each; each = each->next)
        if (each->start < address + size && address < each->start + each->size)
            return 1;
    return 0;
}

static int whole(uint64_t address, uint64_t size)
{
    return size && address + size > address && address % double_grain() == 0 && size % double_grain() == 0;
}

/* Whole mappings from address on for size, without a gap. */
static int mapped_wholly(uint64_t address, uint64_t size)
{
    if (!whole(address, size) || !reservation_around(address, size))
        return 0;
    for (uint64_t at = address; at < address + size;) {
        mapping *here = mapping_at(at);
        if (!here || here->start != at || here->size > address + size - at)
            return 0;
        at += here->size;
    }
    return 1;
}

static uint64_t nothing_at(uint64_t hint, uint64_t size, int flags)
{
    void *got = mmap((void *)(uintptr_t)hint, size, PROT_NONE, NOTHING | flags, -1, 0);
    return got == MAP_FAILED ? 0 : (uint64_t)(uintptr_t)got;
}

/* Anywhere, aligned: more than that, and the rest given back. */
static uint64_t nothing_aligned(uint64_t size, uint64_t alignment)
{
    if (size + alignment < size)
        return 0;
    uint64_t got = nothing_at(0, size + alignment, 0);
    if (!got)
        return 0;
    uint64_t start = (got + alignment - 1) & ~(alignment - 1);
    if (start > got)
        munmap((void *)(uintptr_t)got, start - got);
    munmap((void *)(uintptr_t)(start + size), got + alignment - start);
    return start;
}

/* Room in a parcel that there is. */
static uint64_t hole(uint64_t size, uint64_t alignment)
{
    for (range *parcel = parcels; parcel; parcel = parcel->next) {
        uint64_t at = up(parcel->start, alignment);
        range *taken;
        while (at + size <= parcel->start + parcel->size && (taken = first_in(reservations, at, size)))
            at = up(taken->start + taken->size, alignment);
        if (at + size <= parcel->start + parcel->size)
            return at;
    }
    return 0;
}

/* A parcel more: where it starts, or 0. */
static uint64_t new_parcels(uint64_t size, uint64_t alignment, uint64_t hint)
{
    uint64_t step = double_parcel ? double_parcel : double_grain(), whole = up(size, step), got = 0;
    range *made = calloc(1, sizeof *made), *taken;
    if (!made || whole < size) {
        free(made);
        return 0;
    }
    if (hint) {
        uint64_t at = up(hint, step);
        while (double_parcel && (taken = first_in(parcels, at, whole)))
            at = up(taken->start + taken->size, step);
        got = at & (alignment - 1) ? 0 : nothing_at(at, whole, 0);
        if (got && got != at) {
            munmap((void *)(uintptr_t)got, whole);
            got = 0;
        }
    }
    if (!got)
        got = nothing_aligned(whole, alignment);
    if (!got) {
        free(made);
        return 0;
    }
    *made = (range){parcels, got, whole, 0};
    parcels = made;
    return got;
}

double_answer double_reserve(uint64_t *address, uint64_t size, uint64_t alignment, uint64_t hint)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (!address || !size || size % double_grain() || (alignment & (alignment - 1)) || hint % page)
        return DOUBLE_INVALID;
    if (alignment < double_grain())
        alignment = double_grain();
    range *made = calloc(1, sizeof *made);
    if (!made)
        return DOUBLE_OUT_OF_MEMORY;
    double_lock();
    int moves = hint && double_moves(hint);
    uint64_t got = moves ? 0 : hole(size, alignment);
    if (!got)
        got = new_parcels(size, alignment, moves ? 0 : hint);
    if (got) {
        *made = (range){reservations, got, size, 0};
        reservations = made;
        *address = got;
    }
    double_unlock();
    if (!got)
        free(made);
    return got ? DOUBLE_OK : DOUBLE_OUT_OF_MEMORY;
}

/* The kernel refuses only where it would have to split a mapping at its limit of them. */
static int give_back_parcels(uint64_t address)
{
    for (range **link = &parcels; *link; link = &(*link)->next) {
        range *each = *link;
        if (address < each->start || address - each->start >= each->size)
            continue;
        if (munmap((void *)(uintptr_t)each->start, each->size))
            return 0;
        *link = each->next;
        free(each);
        return 1;
    }
    return 0;
}

double_answer double_free(uint64_t address, uint64_t size)
{
    double_answer answer = DOUBLE_INVALID;
    double_lock();
    for (range **link = &reservations; *link; link = &(*link)->next) {
        range *each = *link;
        if (each->own || each->start != address || each->size != size || anything_mapped(address, size))
            continue;
        *link = each->next;
        int alone = 1;
        for (range *parcel = parcels; parcel; parcel = parcel->next)
            if (parcel->start <= address && address - parcel->start < parcel->size)
                alone = !first_in(reservations, parcel->start, parcel->size);
        answer = !alone || give_back_parcels(address) ? DOUBLE_OK : DOUBLE_OUT_OF_MEMORY;
        if (answer == DOUBLE_OK)
            free(each);
        else
            *link = each;
        break;
    }
    double_unlock();
    return answer;
}

void double_set_parcels(uint64_t size)
{
    double_lock();
    double_parcel = size;
    double_unlock();
}

/* A parcel of the driver's, of which it uses the beginning. */
int double_own(uint64_t size, uint64_t used)
{
    range *made = calloc(1, sizeof *made);
    if (!made)
        abort();
    double_lock();
    uint64_t got = new_parcels(size, double_grain(), 0);
    if (got) {
        *made = (range){reservations, got, used, 1};
        reservations = made;
    }
    double_unlock();
    return got != 0;
}

/* ---- mappings ---- */

double_answer double_map(uint64_t address, uint64_t size, uint64_t offset, uint64_t number)
{
    mapping *made = calloc(1, sizeof *made);
    if (!made)
        return DOUBLE_OUT_OF_MEMORY;
    double_answer answer = DOUBLE_INVALID;
    double_lock();
    double_physical *of = double_memory_of(number);
    if (of && whole(address, size) && offset % double_grain() == 0 && offset <= of->size
        && size <= of->size - offset && reservation_around(address, size) && !anything_mapped(address, size)) {
        void *got = mmap((void *)(uintptr_t)address, size, PROT_NONE, MAP_SHARED | MAP_FIXED, of->fd, (off_t)offset);
        answer = got == MAP_FAILED ? DOUBLE_OUT_OF_MEMORY : DOUBLE_OK;
    }
    if (answer == DOUBLE_OK) {
        *made = (mapping){mappings, address, size, offset, of, {0}};
        mappings = made;
        of->users++;
    }
    double_unlock();
    if (answer != DOUBLE_OK)
        free(made);
    return answer;
}

/* The mappings of a range, out of the table. Their addresses are a reservation again already. */
static void forget_mappings(uint64_t address, uint64_t size)
{
    for (mapping **link = &mappings; *link;) {
        mapping *each = *link;
        if (each->start < address || each->start - address >= size) {
            link = &each->next;
            continue;
        }
        *link = each->next;
        double_leave(each->of);
        free(each);
    }
}

double_answer double_unmap(uint64_t address, uint64_t size)
{
    double_answer answer = DOUBLE_INVALID;
    double_lock();
    if (mapped_wholly(address, size))
        answer = nothing_at(address, size, MAP_FIXED) ? DOUBLE_OK : DOUBLE_OUT_OF_MEMORY;
    if (answer == DOUBLE_OK)
        forget_mappings(address, size);
    double_unlock();
    return answer;
}

static int accessor(double_location who)
{
    if (who.kind != DOUBLE_DEVICE)
        return who.kind == DOUBLE_HOST || (who.id >= 0 && who.id < DOUBLE_NODES) ? HOST : -1;
    return who.id >= 0 && who.id < double_devices() ? who.id : -1;
}

static double_answer may_allow(uint64_t address, uint64_t size, double_location who, int access)
{
    if (accessor(who) < 0 || (access != DOUBLE_NONE && access != DOUBLE_READ && access != DOUBLE_READWRITE))
        return DOUBLE_INVALID;
    if (!mapped_wholly(address, size))
        return DOUBLE_INVALID;
    /* CUDA: HOST_NUMA only for memory that was created there. Taken as strictly for HOST. */
    for (mapping *each = mappings; each; each = each->next)
        if (each->start >= address && each->start - address < size && who.kind != DOUBLE_DEVICE
            && who.kind != each->of->where.kind)
            return DOUBLE_INVALID;
    return DOUBLE_OK;
}

double_answer double_may_allow(uint64_t address, uint64_t size, double_location who, int access)
{
    double_lock();
    double_answer answer = may_allow(address, size, who, access);
    double_unlock();
    return answer;
}

double_answer double_allow(uint64_t address, uint64_t size, double_location who, int access)
{
    int index = accessor(who);
    double_lock();
    double_answer answer = may_allow(address, size, who, access);
    if (answer == DOUBLE_OK && index == HOST) {
        int protection = (access & 1 ? PROT_READ : 0) | (access & 2 ? PROT_WRITE : 0);
        if (mprotect((void *)(uintptr_t)address, size, protection))
            answer = DOUBLE_OUT_OF_MEMORY;
    }
    for (mapping *each = mappings; each && answer == DOUBLE_OK; each = each->next)
        if (each->start >= address && each->start - address < size)
            each->access[index] = (unsigned char)access;
    double_unlock();
    return answer;
}

double_answer double_allowed(int *access, double_location who, uint64_t address)
{
    int index = accessor(who);
    double_lock();
    mapping *here = mapping_at(address);
    double_answer answer = index >= 0 && here && access ? DOUBLE_OK : DOUBLE_INVALID;
    if (answer == DOUBLE_OK)
        *access = here->access[index];
    double_unlock();
    return answer;
}

int double_resolve(uint64_t address, uint64_t size, int access, double_piece *piece)
{
    mapping *here = mapping_at(address);
    *piece = (double_piece){-1, 0, size, address};
    if (here) {
        uint64_t left = here->start + here->size - address;
        *piece = (double_piece){here->of->fd, here->offset + address - here->start, left < size ? left : size, 0};
        for (int each = 0; each <= HOST; each++)
            if ((here->access[each] & access) == access)
                return 1;
        return 0;
    }
    /* Ordinary memory, up to where it is another's. */
    for (range *each = reservations; each; each = each->next) {
        if (address >= each->start && address - each->start < each->size)
            return 0;
        if (each->start > address && each->start - address < piece->size)
            piece->size = each->start - address;
    }
    return 1;
}

double_physical *double_memory_at(uint64_t address)
{
    mapping *here = mapping_at(address);
    return here ? here->of : NULL;
}

int double_maps_for(int device, uint64_t address)
{
    mapping *here = mapping_at(address);
    return here && here->access[device] == DOUBLE_READWRITE;
}

int64_t double_count_addresses(const char *what)
{
    int64_t count = 0;
    if (!strcmp(what, "reservations"))
        for (range *each = reservations; each; each = each->next)
            count += !each->own;
    else if (!strcmp(what, "mappings"))
        for (mapping *each = mappings; each; each = each->next)
            count++;
    else
        return -1;
    return count;
}

void double_reset_addresses(void)
{
    while (reservations) {
        range *gone = reservations;
        reservations = gone->next;
        forget_mappings(gone->start, gone->size);
        free(gone);
    }
    while (parcels) {
        range *gone = parcels;
        parcels = gone->next;
        munmap((void *)(uintptr_t)gone->start, gone->size);
        free(gone);
    }
    double_parcel = 0;
}
