/* level_zero.c - Level Zero over memory.h, as libze_loader.so.1: the part of it that stead calls.
 *
 * Structures and numbers are those of ze_api.h 1.8 to 1.32. Strict where drivers are (level_zero/core/source/context
 * in github.com/intel/compute-runtime): unmapping looks at one mapping, whose memory must not be destroyed before.
 * Access is of all devices at once, and of the host where the memory is there.
 */
#include "level_zero.h"

#include <stdio.h>
#include <string.h>

int double_old;
static int initialised;

/* ---- for tests ---- */

/* As a driver of some years ago: it knows neither memory on the host nor exporting physical memory, nor how to wait
 * for a device, has no extensions, and refuses a hint that it cannot follow. */
void double_set_old(int yes)
{
    double_old = yes;
}

static void reset(void)
{
    initialised = double_old = 0;
    double_reset_mapped();
    double_reset_order();
}

__attribute__((constructor)) static void be_reset(void)
{
    double_reset_face = reset;
    reset();
}

/* ---- what every function begins and ends with ---- */

int double_answered(double_answer answer)
{
    switch (answer) {
    case DOUBLE_OK: return SUCCESS;
    case DOUBLE_OUT_OF_MEMORY: return OUT_OF_DEVICE_MEMORY;
    case DOUBLE_UNSUPPORTED: return UNSUPPORTED_FEATURE;
    case DOUBLE_NOT_READY: return NOT_READY;
    case DOUBLE_FAULT: return DEVICE_LOST;
    default: return INVALID_ARGUMENT;
    }
}

int double_entered(const char *function)
{
    int code = SUCCESS;
    switch (double_enter(function, &code)) {
    case DOUBLE_PLANNED: return code;
    case DOUBLE_DEAD: return UNINITIALIZED;
    }
    return SUCCESS;
}

int double_initialised(void)
{
    return initialised;
}

int double_number_of(void *device)
{
    intptr_t number = (intptr_t)device - 1;
    return number >= 0 && number < double_devices() ? (int)number : -1;
}

int double_manages(void)
{
    return (int)double_can(0, DOUBLE_MANAGES_ADDRESSES);
}

void *double_behind(head *of, int stype)
{
    for (head *each = of->next; each; each = each->next)
        if (each->stype == stype)
            return each;
    return NULL;
}

/* How many there are, where none is asked for; or up to *count of them. */
static int counted(uint32_t *count, uint32_t there, const void *asked)
{
    NEED(count, NULL_POINTER);
    if (!asked || *count > there)
        *count = there;
    return SUCCESS;
}

/* ---- drivers and devices ---- */

int zeInit(uint32_t flags)
{
    ENTER_FIRST("zeInit");
    NEED(!(flags & ~3u), INVALID_ENUMERATION);
    NEED(double_devices(), UNINITIALIZED);
    initialised = 1;
    return SUCCESS;
}

int zeDriverGet(uint32_t *count, void **drivers)
{
    ENTER("zeDriverGet");
    int refused = counted(count, 1, drivers);
    if (!refused && drivers && *count)
        drivers[0] = (void *)1;
    return refused;
}

int zeDriverGetExtensionProperties(void *driver, uint32_t *count, extension *extensions)
{
    ENTER("zeDriverGetExtensionProperties");
    const char *names[2];
    uint32_t there = 0;
    if (!double_old && double_can(0, DOUBLE_REGISTERED_AT_HOST_ADDRESS))
        names[there++] = "ZE_extension_external_memmap_sysmem";
    if (!double_old)
        names[there++] = "ZE_extension_device_usablemem_size_properties";
    NEED(driver, NULL_HANDLE);
    int refused = counted(count, there, extensions);
    for (uint32_t each = 0; !refused && extensions && each < *count; each++) {
        extensions[each].version = 1 << 16;
        strcpy(extensions[each].name, names[each]);
    }
    return refused;
}

int zeDeviceGet(void *driver, uint32_t *count, void **devices)
{
    ENTER("zeDeviceGet");
    NEED(driver, NULL_HANDLE);
    int refused = counted(count, (uint32_t)double_devices(), devices);
    for (uint32_t each = 0; !refused && devices && each < *count; each++)
        devices[each] = (void *)(uintptr_t)(each + 1);
    return refused;
}

int zeDeviceGetProperties(void *device, device_properties *properties)
{
    ENTER("zeDeviceGetProperties");
    int number = double_number_of(device);
    NEED(number >= 0, NULL_HANDLE);
    NEED(IS(properties, DEVICE_PROPERTIES), INVALID_ARGUMENT);
    properties->type = 1;
    properties->vendor = 0x8086;
    snprintf(properties->name, sizeof properties->name, "Double %d", number);
    memset(properties->uuid, 0xd0, sizeof properties->uuid);
    properties->uuid[15] = (uint8_t)number;
    usable_memory *usable = double_behind(&properties->head, USABLE_MEMORY);
    if (usable)
        usable->bytes = double_free_bytes(number);
    return SUCCESS;
}

int zeDeviceGetMemoryProperties(void *device, uint32_t *count, memory_properties *properties)
{
    ENTER("zeDeviceGetMemoryProperties");
    NEED(double_number_of(device) >= 0, NULL_HANDLE);
    int refused = counted(count, 1, properties);
    if (!refused && properties && *count) {
        NEED(IS(properties, MEMORY_PROPERTIES), INVALID_ARGUMENT);
        properties->size = double_memory(double_number_of(device));
    }
    return refused;
}

int zeDeviceGetMemoryAccessProperties(void *device, access_properties *properties)
{
    ENTER("zeDeviceGetMemoryAccessProperties");
    int number = double_number_of(device);
    NEED(number >= 0, NULL_HANDLE);
    NEED(IS(properties, ACCESS_PROPERTIES), INVALID_ARGUMENT);
    properties->device = 1;
    properties->host = double_can(number, DOUBLE_UNIFIED) ? 1 : 0;
    properties->shared = properties->shared_across = double_can(number, DOUBLE_MANAGES_MEMORY) ? 1 : 0;
    properties->system = double_can(number, DOUBLE_REACHES_PAGEABLE) ? 1 : 0;
    return SUCCESS;
}

int zeDeviceGetExternalMemoryProperties(void *device, external_properties *properties)
{
    ENTER("zeDeviceGetExternalMemoryProperties");
    int number = double_number_of(device);
    NEED(number >= 0, NULL_HANDLE);
    NEED(IS(properties, EXTERNAL_PROPERTIES), INVALID_ARGUMENT);
    properties->imports = properties->exports = double_can(number, DOUBLE_SHARES_BY_DESCRIPTOR) ? DMA_BUF : 0;
    return SUCCESS;
}

int zeDeviceGetCommandQueueGroupProperties(void *device, uint32_t *count, queue_group *groups)
{
    ENTER("zeDeviceGetCommandQueueGroupProperties");
    NEED(double_number_of(device) >= 0, NULL_HANDLE);
    int refused = counted(count, 2, groups);
    for (uint32_t each = 0; !refused && groups && each < *count; each++) {
        NEED(IS(&groups[each], QUEUE_GROUP), INVALID_ARGUMENT);
        groups[each].flags = each == 0 ? 2 : 3; /* the first only copies, and fills nothing */
        groups[each].largest_pattern = each == 0 ? 0 : 16;
        groups[each].queues = 1;
    }
    return refused;
}

int zeDeviceSynchronize(void *device)
{
    ENTER("zeDeviceSynchronize");
    NEED(!double_old, UNSUPPORTED_FEATURE);
    NEED(double_number_of(device) >= 0, NULL_HANDLE);
    return double_answered(double_wait_device(double_number_of(device)));
}

int zeContextCreate(void *driver, const flagged *description, void **context)
{
    ENTER("zeContextCreate");
    NEED(driver, NULL_HANDLE);
    NEED(IS(description, CONTEXT_DESC) && context, INVALID_ARGUMENT);
    *context = (void *)1;
    return SUCCESS;
}
