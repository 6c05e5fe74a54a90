/* hip_memory.c - HIP's face: addresses, memory, contents and order. */
#include "hip.h"

/* ---- addresses and physical memory ---- */

static int located(location from, double_location *where)
{
    switch (from.type) {
    case LOCATION_DEVICE: *where = (double_location){DOUBLE_DEVICE, from.id}; return double_known(from.id);
    case LOCATION_HOST: *where = (double_location){DOUBLE_HOST, 0}; break;
    case LOCATION_HOST_NUMA: *where = (double_location){DOUBLE_NODE, from.id}; break;
    default: return 0;
    }
    return double_version >= 70000000 && double_can(double_current, DOUBLE_HOST_LOCATED);
}

static int described(const properties *asked, double_location *where)
{
    NEED(asked && asked->type == PINNED && located(asked->location, where));
    if (!double_can(double_current, DOUBLE_MANAGES_ADDRESSES))
        return NOT_SUPPORTED;
    if (asked->requestedHandleType && asked->requestedHandleType != POSIX_FD)
        return NOT_SUPPORTED;
    if (asked->requestedHandleType && !double_can(double_current, DOUBLE_SHARES_BY_DESCRIPTOR))
        return NOT_SUPPORTED;
    if (where->kind == DOUBLE_DEVICE)
        where->id = double_current;
    return SUCCESS;
}

int hipMemGetAllocationGranularity(size_t *granularity, const properties *asked, int option)
{
    ENTER("hipMemGetAllocationGranularity");
    double_location where;
    NEED(granularity && (option == 0 || option == 1));
    int refused = described(asked, &where);
    if (refused)
        return refused;
    *granularity = double_granularity(where);
    return *granularity ? SUCCESS : INVALID_VALUE;
}

int hipMemAddressReserve(void **address, size_t size, size_t alignment, void *hint, unsigned long long flags)
{
    ENTER("hipMemAddressReserve");
    uint64_t got = 0;
    NEED(address && !flags && !(alignment & (alignment - 1)));
    if (!double_can(double_current, DOUBLE_MANAGES_ADDRESSES))
        return NOT_SUPPORTED;
    int answer = double_answered(double_reserve(&got, size, 0, (uintptr_t)hint));
    *address = (void *)(uintptr_t)got;
    return answer;
}

int hipMemAddressFree(void *address, size_t size)
{
    ENTER("hipMemAddressFree");
    return double_answered(double_free((uintptr_t)address, size));
}

int hipMemCreate(void **handle, size_t size, const properties *asked, unsigned long long flags)
{
    ENTER("hipMemCreate");
    double_location where;
    uint64_t made = 0;
    NEED(handle && !flags);
    int refused = described(asked, &where);
    if (refused)
        return refused;
    int answer = double_answered(double_create(&made, size, where, asked->requestedHandleType == POSIX_FD));
    *handle = (void *)(uintptr_t)made;
    return answer;
}

int hipMemRelease(void *handle)
{
    ENTER("hipMemRelease");
    return double_answered(double_release((uintptr_t)handle));
}

int hipMemExportToShareableHandle(void *fd, void *handle, int type, unsigned long long flags)
{
    ENTER("hipMemExportToShareableHandle");
    NEED(fd && type == POSIX_FD && !flags);
    return double_answered(double_export(fd, (uintptr_t)handle));
}

int hipMemImportFromShareableHandle(void **handle, void *fd, int type)
{
    ENTER("hipMemImportFromShareableHandle");
    uint64_t made = 0;
    NEED(handle && fd && type == POSIX_FD);
    int answer = double_answered(double_adopt(&made, double_version >= 70100000 ? (int)(intptr_t)fd : *(int *)fd));
    *handle = (void *)(uintptr_t)made;
    return answer;
}

int hipMemMap(void *address, size_t size, size_t offset, void *handle, unsigned long long flags)
{
    ENTER("hipMemMap");
    NEED(!offset && !flags);
    return double_answered(double_map((uintptr_t)address, size, 0, (uintptr_t)handle));
}

int hipMemUnmap(void *address, size_t size)
{
    ENTER("hipMemUnmap");
    return double_answered(double_unmap((uintptr_t)address, size));
}

int hipMemSetAccess(void *address, size_t size, const access_description *wanted, size_t count)
{
    ENTER("hipMemSetAccess");
    double_location who;
    NEED(wanted && count);
    for (size_t each = 0; each < count; each++) {
        NEED(located(wanted[each].location, &who));
        int refused = double_answered(double_may_allow((uintptr_t)address, size, who, wanted[each].flags));
        if (refused)
            return refused;
    }
    for (size_t each = 0; each < count; each++) {
        located(wanted[each].location, &who);
        double_allow((uintptr_t)address, size, who, wanted[each].flags);
    }
    return SUCCESS;
}

/* ---- memory of the host ---- */

int hipMallocManaged(void **address, size_t size, unsigned flags)
{
    ENTER("hipMallocManaged");
    uint64_t got = 0;
    NEED(address && (flags == 1 || flags == 2));
    if (!double_can(double_current, DOUBLE_MANAGES_MEMORY))
        return NOT_SUPPORTED;
    int answer = double_answered(double_managed(&got, size));
    *address = (void *)(uintptr_t)got;
    return answer;
}

int hipFree(void *address)
{
    ENTER("hipFree");
    return double_answered(double_free_managed((uintptr_t)address));
}

int hipHostRegister(void *address, size_t size, unsigned flags)
{
    ENTER("hipHostRegister");
    NEED(!(flags & ~0xfu));
    return double_answered(double_register((uintptr_t)address, size));
}

int hipHostUnregister(void *address)
{
    ENTER("hipHostUnregister");
    return double_answered(double_unregister((uintptr_t)address));
}

int hipHostGetDevicePointer(void **found, void *address, unsigned flags)
{
    ENTER("hipHostGetDevicePointer");
    uint64_t there = 0;
    NEED(found && !flags);
    int answer = double_answered(double_device_address(&there, (uintptr_t)address));
    *found = (void *)(uintptr_t)there;
    return answer;
}

/* ---- contents and order ---- */

static uint64_t number_of(void *stream)
{
    return (uintptr_t)stream <= 2 ? 0 : (uintptr_t)stream; /* 1, 2: hipStreamLegacy, hipStreamPerThread */
}

int hipMemcpy(void *to, const void *source, size_t size, int kind)
{
    ENTER("hipMemcpy");
    NEED(kind == 4);
    return double_answered(double_copy(0, double_current, (uintptr_t)to, (uintptr_t)source, size));
}

int hipMemset(void *address, int byte, size_t size)
{
    ENTER("hipMemset");
    return double_answered(double_fill(0, double_current, (uintptr_t)address, size, byte));
}

int hipStreamSynchronize(void *stream)
{
    ENTER("hipStreamSynchronize");
    return double_answered(double_wait_stream(number_of(stream)));
}

int hipEventCreateWithFlags(void **event, unsigned flags)
{
    ENTER("hipEventCreateWithFlags");
    uint64_t made = 0;
    NEED(event && !(flags & ~7u));
    int answer = double_answered(double_new_event(&made));
    *event = (void *)(uintptr_t)made;
    return answer;
}

int hipEventRecord(void *event, void *stream)
{
    ENTER("hipEventRecord");
    return double_answered(double_record((uintptr_t)event, number_of(stream), double_current));
}

int hipEventQuery(void *event)
{
    ENTER("hipEventQuery");
    return double_answered(double_passed((uintptr_t)event));
}

int hipEventSynchronize(void *event)
{
    ENTER("hipEventSynchronize");
    return double_answered(double_wait_event((uintptr_t)event));
}

int hipEventDestroy(void *event)
{
    ENTER("hipEventDestroy");
    return double_answered(double_forget((uintptr_t)event));
}
