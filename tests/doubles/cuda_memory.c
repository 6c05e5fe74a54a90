/* cuda_memory.c - CUDA's face: addresses, physical memory, and the one at the other. */
#include "cuda.h"

#include <stdint.h>
#include <string.h>

static int located(CUmemLocation from, double_location *where)
{
    switch (from.type) {
    case LOCATION_DEVICE: *where = (double_location){DOUBLE_DEVICE, from.id}; return double_known(from.id) ? SUCCESS : INVALID_DEVICE;
    case LOCATION_HOST: *where = (double_location){DOUBLE_HOST, 0}; return SUCCESS;
    case LOCATION_HOST_NUMA: *where = (double_location){DOUBLE_NODE, from.id}; return SUCCESS;
    }
    return INVALID_VALUE;
}

static int described(const CUmemAllocationProp *asked, double_location *where)
{
    if (!asked || asked->type != PINNED || asked->win32HandleMetaData || asked->allocFlags.compressionType
        || asked->allocFlags.usage || (asked->requestedHandleTypes & ~POSIX_FILE_DESCRIPTOR))
        return INVALID_VALUE;
    int answer = located(asked->location, where);
    if (answer)
        return answer;
    int device = where->kind == DOUBLE_DEVICE ? where->id : 0;
    if (!double_can(device, DOUBLE_MANAGES_ADDRESSES))
        return NOT_SUPPORTED;
    if (where->kind != DOUBLE_DEVICE && !double_can(device, DOUBLE_HOST_LOCATED))
        return NOT_SUPPORTED;
    if (asked->requestedHandleTypes && !double_can(device, DOUBLE_SHARES_BY_DESCRIPTOR))
        return NOT_SUPPORTED;
    return SUCCESS;
}

int cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *asked, int option)
{
    double_location where;
    ENTER("cuMemGetAllocationGranularity");
    int answer = option == 0 || option == 1 ? described(asked, &where) : INVALID_VALUE;
    if (answer)
        return answer;
    *granularity = double_granularity(where);
    return *granularity ? SUCCESS : INVALID_VALUE;
}

int cuMemAddressReserve(CUdeviceptr *address, size_t size, size_t alignment, CUdeviceptr hint, unsigned long long flags)
{
    ENTER("cuMemAddressReserve");
    uint64_t got = 0;
    if (!address || flags)
        return INVALID_VALUE;
    int managing = 0;
    for (int each = 0; each < double_devices(); each++)
        managing |= double_can(each, DOUBLE_UNIFIED) && double_can(each, DOUBLE_MANAGES_ADDRESSES);
    if (!managing)
        return NOT_SUPPORTED;
    double_answer answer = double_reserve(&got, size, alignment, hint);
    *address = got;
    return double_answered(answer);
}

int cuMemAddressFree(CUdeviceptr address, size_t size)
{
    ENTER("cuMemAddressFree");
    return double_answered(double_free(address, size));
}

int cuMemCreate(CUhandle *handle, size_t size, const CUmemAllocationProp *asked, unsigned long long flags)
{
    ENTER("cuMemCreate");
    double_location where;
    uint64_t made = 0;
    int refused = flags || !handle ? INVALID_VALUE : described(asked, &where);
    if (refused)
        return refused;
    int answer = double_answered(double_create(&made, size, where, asked->requestedHandleTypes & POSIX_FILE_DESCRIPTOR));
    *handle = made;
    return answer;
}

int cuMemRelease(CUhandle handle)
{
    ENTER("cuMemRelease");
    return double_answered(double_release(handle));
}

int cuMemRetainAllocationHandle(CUhandle *handle, void *address)
{
    ENTER("cuMemRetainAllocationHandle");
    uint64_t found = 0;
    int answer = double_answered(double_handle_at(&found, (uintptr_t)address));
    *handle = found;
    return answer;
}

int cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *found, CUhandle handle)
{
    ENTER("cuMemGetAllocationPropertiesFromHandle");
    uint64_t size;
    double_location where;
    int shareable;
    int answer = double_answered(double_described(handle, &size, &where, &shareable));
    if (answer)
        return answer;
    memset(found, 0, sizeof *found);
    found->type = PINNED;
    found->requestedHandleTypes = shareable ? POSIX_FILE_DESCRIPTOR : 0;
    found->location.type = where.kind == DOUBLE_DEVICE ? LOCATION_DEVICE
                           : where.kind == DOUBLE_HOST ? LOCATION_HOST : LOCATION_HOST_NUMA;
    found->location.id = where.id;
    return SUCCESS;
}

int cuMemExportToShareableHandle(void *fd, CUhandle handle, int type, unsigned long long flags)
{
    ENTER("cuMemExportToShareableHandle");
    if (type != POSIX_FILE_DESCRIPTOR || flags)
        return INVALID_VALUE;
    return double_answered(double_export(fd, handle));
}

int cuMemImportFromShareableHandle(CUhandle *handle, void *fd, int type)
{
    ENTER("cuMemImportFromShareableHandle");
    uint64_t made = 0;
    if (!handle || type != POSIX_FILE_DESCRIPTOR)
        return INVALID_VALUE;
    int answer = double_answered(double_adopt(&made, (int)(intptr_t)fd));
    *handle = made;
    return answer;
}

int cuMemMap(CUdeviceptr address, size_t size, size_t offset, CUhandle handle, unsigned long long flags)
{
    ENTER("cuMemMap");
    if (offset || flags) /* "currently must be zero" */
        return INVALID_VALUE;
    return double_answered(double_map(address, size, 0, handle));
}

int cuMemUnmap(CUdeviceptr address, size_t size)
{
    ENTER("cuMemUnmap");
    return double_answered(double_unmap(address, size));
}

int cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc *wanted, size_t count)
{
    ENTER("cuMemSetAccess");
    double_location who;
    if (!wanted || !count)
        return INVALID_VALUE;
    for (size_t each = 0; each < count; each++) {
        int refused = located(wanted[each].location, &who);
        if (!refused)
            refused = double_answered(double_may_allow(address, size, who, wanted[each].flags));
        if (refused)
            return refused;
    }
    for (size_t each = 0; each < count; each++) {
        located(wanted[each].location, &who);
        int answer = double_answered(double_allow(address, size, who, wanted[each].flags));
        if (answer)
            return answer;
    }
    return SUCCESS;
}

int cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr address)
{
    ENTER("cuMemGetAccess");
    double_location who;
    int access = 0, refused = located(*location, &who);
    if (refused)
        return refused;
    int answer = double_answered(double_allowed(&access, who, address));
    *flags = (unsigned long long)access;
    return answer;
}

int cuPointerGetAttribute(void *data, int attribute, CUdeviceptr address)
{
    ENTER("cuPointerGetAttribute");
    double_location where;
    int answer = double_answered(double_located(&where, address));
    if (answer)
        return answer;
    if (attribute != 9) /* CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL */
        return NOT_SUPPORTED;
    *(int *)data = where.kind == DOUBLE_DEVICE ? where.id : -1; /* CU_DEVICE_CPU */
    return SUCCESS;
}
