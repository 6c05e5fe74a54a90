/* level_zero_memory.c - Level Zero's face: addresses, physical memory, and the one at the other. */
#include "level_zero.h"

#include <stdlib.h>
#include <string.h>

static struct { uint64_t address, size, handle; } mapped[MOST];

void double_reset_mapped(void)
{
    memset(mapped, 0, sizeof mapped);
}

/* ---- addresses ---- */

int zeVirtualMemQueryPageSize(void *context, void *device, size_t size, size_t *page)
{
    ENTER("zeVirtualMemQueryPageSize");
    NEED(context && double_number_of(device) >= 0, NULL_HANDLE);
    NEED(size && page, INVALID_ARGUMENT);
    NEED(double_manages(), UNSUPPORTED_FEATURE);
    uint64_t whole = double_granularity((double_location){DOUBLE_DEVICE, double_number_of(device)});
    *page = size < whole ? 65536 : whole;
    return SUCCESS;
}

int zeVirtualMemReserve(void *context, void *hint, size_t size, void **address)
{
    ENTER("zeVirtualMemReserve");
    uint64_t got = 0;
    NEED(context, NULL_HANDLE);
    NEED(address, NULL_POINTER);
    NEED(double_manages(), UNSUPPORTED_FEATURE);
    int refused = double_answered(double_reserve(&got, size, 0, (uintptr_t)hint));
    if (!refused && double_old && hint && got != (uintptr_t)hint) {
        double_free(got, size);
        return OUT_OF_DEVICE_MEMORY;
    }
    *address = (void *)(uintptr_t)got;
    return refused;
}

int zeVirtualMemFree(void *context, void *address, size_t size)
{
    ENTER("zeVirtualMemFree");
    NEED(context, NULL_HANDLE);
    return double_answered(double_free((uintptr_t)address, size));
}

/* ---- physical memory ---- */

int zePhysicalMemCreate(void *context, void *device, physical_description *asked, void **handle)
{
    ENTER("zePhysicalMemCreate");
    uint64_t made = 0;
    int number = double_number_of(device);
    NEED(context, NULL_HANDLE);
    NEED(IS(asked, PHYSICAL_DESC) && handle, INVALID_ARGUMENT);
    NEED(double_manages(), UNSUPPORTED_FEATURE);
    NEED(asked->flags <= ON_HOST && !(double_old && asked->flags == ON_HOST), INVALID_ENUMERATION);
    NEED(asked->flags == ON_HOST || number >= 0, NULL_HANDLE);
    NEED(asked->flags != ON_HOST || double_can(0, DOUBLE_HOST_LOCATED), UNSUPPORTED_FEATURE);
    with_fd *import = double_behind(&asked->head, IMPORT_FD);
    flagged *export = double_behind(&asked->head, EXPORT_DESC);
    if (import && (import->flags != DMA_BUF || double_old))
        return UNSUPPORTED_FEATURE;
    if (export && (export->flags != DMA_BUF || double_old))
        return UNSUPPORTED_FEATURE;
    double_location where = asked->flags == ON_HOST ? (double_location){DOUBLE_HOST, 0}
                                                    : (double_location){DOUBLE_DEVICE, number};
    int answer = double_answered(import ? double_adopt(&made, import->fd)
                                 : double_create(&made, asked->size, where, export != NULL));
    *handle = (void *)(uintptr_t)made;
    return answer;
}

int zePhysicalMemGetProperties(void *context, void *handle, physical_properties *properties)
{
    ENTER("zePhysicalMemGetProperties");
    double_location where;
    int shareable;
    NEED(!double_old, UNSUPPORTED_FEATURE);
    NEED(context && handle, NULL_HANDLE);
    NEED(IS(properties, PHYSICAL_PROPERTIES), INVALID_ARGUMENT);
    int refused = double_answered(double_described((uintptr_t)handle, &properties->size, &where, &shareable));
    with_fd *export = double_behind(&properties->head, EXPORT_FD);
    if (refused || !export)
        return refused;
    NEED(export->flags == DMA_BUF, INVALID_ENUMERATION);
    return double_answered(double_export(&export->fd, (uintptr_t)handle));
}

int zePhysicalMemDestroy(void *context, void *handle)
{
    ENTER("zePhysicalMemDestroy");
    NEED(context && handle, NULL_HANDLE);
    for (int each = 0; each < MOST; each++)
        NEED(mapped[each].handle != (uintptr_t)handle, IN_USE);
    return double_answered(double_release((uintptr_t)handle));
}

/* ---- the one at the other ---- */

static int allowed(uint64_t address, uint64_t size, int access)
{
    static const int meant[] = {DOUBLE_NONE, DOUBLE_READWRITE, DOUBLE_READ};
    double_location host = {DOUBLE_HOST, 0};
    NEED(access >= 0 && access <= READONLY, INVALID_ENUMERATION);
    for (int each = 0; each < double_devices(); each++) {
        int refused = double_answered(double_allow(address, size, (double_location){DOUBLE_DEVICE, each}, meant[access]));
        if (refused)
            return refused;
    }
    if (!double_may_allow(address, size, host, meant[access]))
        double_allow(address, size, host, meant[access]);
    return SUCCESS;
}

int zeVirtualMemMap(void *context, void *address, size_t size, void *handle, size_t offset, int access)
{
    ENTER("zeVirtualMemMap");
    int free = 0;
    NEED(context && handle, NULL_HANDLE);
    NEED(access >= 0 && access <= READONLY, INVALID_ENUMERATION);
    int refused = double_answered(double_map((uintptr_t)address, size, offset, (uintptr_t)handle));
    if (refused)
        return refused;
    while (mapped[free].handle)
        if (++free == MOST)
            abort();
    mapped[free].address = (uintptr_t)address;
    mapped[free].size = size;
    mapped[free].handle = (uintptr_t)handle;
    return access ? allowed((uintptr_t)address, size, access) : SUCCESS;
}

int zeVirtualMemUnmap(void *context, void *address, size_t size)
{
    ENTER("zeVirtualMemUnmap");
    NEED(context, NULL_HANDLE);
    for (int each = 0; each < MOST; each++)
        if (mapped[each].handle && mapped[each].address == (uintptr_t)address && mapped[each].size == size) {
            int refused = double_answered(double_unmap((uintptr_t)address, size));
            if (!refused)
                mapped[each].handle = 0;
            return refused;
        }
    return INVALID_ARGUMENT;
}

int zeVirtualMemSetAccessAttribute(void *context, void *address, size_t size, int access)
{
    ENTER("zeVirtualMemSetAccessAttribute");
    NEED(context, NULL_HANDLE);
    return allowed((uintptr_t)address, size, access);
}

/* ---- memory of the host ---- */

int zeMemAllocShared(void *context, const device_allocation *device, const flagged *host, size_t size,
                     size_t alignment, void *of, void **address)
{
    ENTER("zeMemAllocShared");
    uint64_t got = 0;
    NEED(context, NULL_HANDLE);
    NEED(IS(device, DEVICE_MEM_DESC) && IS(host, HOST_MEM_DESC) && address && !alignment, INVALID_ARGUMENT);
    NEED(!of || double_number_of(of) >= 0, NULL_HANDLE);
    NEED(double_can(0, DOUBLE_MANAGES_MEMORY), UNSUPPORTED_FEATURE);
    int answer = double_answered(double_managed(&got, size));
    *address = (void *)(uintptr_t)got;
    return answer;
}

int zeMemAllocHost(void *context, flagged *description, size_t size, size_t alignment, void **address)
{
    ENTER("zeMemAllocHost");
    NEED(context, NULL_HANDLE);
    NEED(IS(description, HOST_MEM_DESC) && !description->flags && !alignment && address, INVALID_ARGUMENT);
    system_memory *memory = double_behind(&description->head, SYSTEM_MEMORY);
    NEED(memory && !double_old, UNSUPPORTED_FEATURE);
    NEED(memory->size == size && !((uintptr_t)memory->address % 4096) && !(size % 4096), INVALID_ARGUMENT);
    int answer = double_answered(double_register((uintptr_t)memory->address, size));
    *address = memory->address;
    return answer;
}

int zeMemFree(void *context, void *address)
{
    ENTER("zeMemFree");
    NEED(context, NULL_HANDLE);
    double_answer answer = double_unregister((uintptr_t)address);
    return double_answered(answer == DOUBLE_OK ? answer : double_free_managed((uintptr_t)address));
}

int zeMemGetAllocProperties(void *context, void *address, allocation_properties *properties, void **device)
{
    ENTER("zeMemGetAllocProperties");
    double_location where;
    uint64_t handle, size;
    int shareable;
    NEED(context, NULL_HANDLE);
    NEED(IS(properties, ALLOCATION_PROPERTIES), INVALID_ARGUMENT);
    properties->type = 0;
    if (device)
        *device = NULL;
    if (double_handle_at(&handle, (uintptr_t)address) != DOUBLE_OK)
        return SUCCESS; /* memory that Level Zero does not know is of unknown type */
    double_described(handle, &size, &where, &shareable);
    double_release(handle);
    properties->type = where.kind == DOUBLE_DEVICE ? 2 : 1;
    if (device && where.kind == DOUBLE_DEVICE)
        *device = (void *)(uintptr_t)(where.id + 1);
    return SUCCESS;
}
