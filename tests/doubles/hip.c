/* hip.c - the HIP runtime over memory.h, as libamdhip64.so: the part of it that stead calls.
 *
 * Structures and numbers are those of hip_runtime_api.h 6.4 and later. Manners are those of AMD's runtime
 * (clr/hipamd/src/hip_vm.cpp in github.com/ROCm/rocm-systems), where they differ from CUDA's: memory is created, and
 * imported, on the current device, whatever was asked for; an alignment is not followed; a descriptor is passed by
 * value from 7.1 on, by its address before; no memory of the host before 7.0.
 */
#include "hip.h"

#include <stdio.h>
#include <string.h>

int double_version;
_Thread_local int double_current;
static int initialised;

/* ---- for tests ---- */

void double_set_version(int number)
{
    double_version = number;
}

static void reset(void)
{
    double_version = 70200000;
    initialised = double_current = 0;
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
    case DOUBLE_INVALID: return INVALID_VALUE;
    case DOUBLE_OUT_OF_MEMORY: return OUT_OF_MEMORY;
    case DOUBLE_UNSUPPORTED: return NOT_SUPPORTED;
    case DOUBLE_NOT_READY: return NOT_READY;
    case DOUBLE_ALREADY_REGISTERED: return ALREADY_REGISTERED;
    case DOUBLE_NOT_REGISTERED: return NOT_REGISTERED;
    case DOUBLE_FAULT: return ILLEGAL_ADDRESS;
    }
    return UNKNOWN;
}

int double_entered(const char *function)
{
    int code = SUCCESS;
    switch (double_enter(function, &code)) {
    case DOUBLE_PLANNED: return code;
    case DOUBLE_DEAD: return NOT_INITIALIZED;
    }
    return SUCCESS;
}

int double_initialised(void)
{
    return initialised;
}

int double_known(int device)
{
    return device >= 0 && device < double_devices();
}

const char *hipGetErrorName(int code)
{
    switch (code) {
    case SUCCESS: return "hipSuccess";
    case INVALID_VALUE: return "hipErrorInvalidValue";
    case OUT_OF_MEMORY: return "hipErrorOutOfMemory";
    case NOT_INITIALIZED: return "hipErrorNotInitialized";
    case NO_DEVICE: return "hipErrorNoDevice";
    case INVALID_DEVICE: return "hipErrorInvalidDevice";
    case INVALID_HANDLE: return "hipErrorInvalidHandle";
    case NOT_READY: return "hipErrorNotReady";
    case ILLEGAL_ADDRESS: return "hipErrorIllegalAddress";
    case ALREADY_REGISTERED: return "hipErrorHostMemoryAlreadyRegistered";
    case NOT_REGISTERED: return "hipErrorHostMemoryNotRegistered";
    case NOT_SUPPORTED: return "hipErrorNotSupported";
    }
    return "hipErrorUnknown";
}

/* ---- devices ---- */

int hipInit(unsigned flags)
{
    ENTER_FIRST("hipInit");
    NEED(!flags);
    if (!double_devices())
        return NO_DEVICE;
    initialised = 1;
    return SUCCESS;
}

int hipRuntimeGetVersion(int *number)
{
    ENTER_FIRST("hipRuntimeGetVersion");
    *number = double_version;
    return SUCCESS;
}

int hipGetDeviceCount(int *count)
{
    ENTER("hipGetDeviceCount");
    *count = double_devices();
    return *count ? SUCCESS : NO_DEVICE;
}

int hipGetDevice(int *device)
{
    ENTER("hipGetDevice");
    *device = double_current;
    return SUCCESS;
}

int hipSetDevice(int device)
{
    ENTER("hipSetDevice");
    if (!double_known(device))
        return INVALID_DEVICE;
    double_current = device;
    return SUCCESS;
}

int hipDeviceSynchronize(void)
{
    ENTER("hipDeviceSynchronize");
    return double_answered(double_wait_device(double_current));
}

int hipDeviceGetName(char *name, int length, int device)
{
    ENTER("hipDeviceGetName");
    if (!double_known(device))
        return INVALID_DEVICE;
    NEED(name && length > 0);
    snprintf(name, (size_t)length, "Double %d", device);
    return SUCCESS;
}

int hipDeviceGetUuid(char uuid[16], int device)
{
    ENTER("hipDeviceGetUuid");
    char digits[17];
    if (!double_known(device))
        return INVALID_DEVICE;
    snprintf(digits, sizeof digits, "d0ab1e%010d", device);
    memcpy(uuid, digits, 16);
    return SUCCESS;
}

int hipDeviceTotalMem(size_t *bytes, int device)
{
    ENTER("hipDeviceTotalMem");
    if (!double_known(device))
        return INVALID_DEVICE;
    *bytes = double_memory(device);
    return SUCCESS;
}

int hipDeviceGetAttribute(int *value, int attribute, int device)
{
    ENTER("hipDeviceGetAttribute");
    if (!double_known(device))
        return INVALID_DEVICE;
    switch (attribute) {
    case 4: *value = (int)double_can(device, DOUBLE_REGISTERED_AT_HOST_ADDRESS); return SUCCESS;
    case 24: *value = (int)double_can(device, DOUBLE_MANAGES_MEMORY); return SUCCESS;
    case 65: *value = (int)double_can(device, DOUBLE_REACHES_PAGEABLE); return SUCCESS;
    case 89: *value = (int)double_can(device, DOUBLE_MANAGES_ADDRESSES); return SUCCESS;
    }
    return INVALID_VALUE;
}

int hipMemGetInfo(size_t *free, size_t *total)
{
    ENTER("hipMemGetInfo");
    *free = double_free_bytes(double_current);
    *total = double_memory(double_current);
    return SUCCESS;
}
