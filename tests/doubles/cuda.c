/* cuda.c - the driver API of CUDA over memory.h, as libcuda.so.1: the part of it that stead and its probe call.
 *
 * Structures and numbers are those of cuda.h 12 and 13 (docs.nvidia.com/cuda/cuda-driver-api). Calls on memory need
 * cuInit alone; copies, registrations, streams and events need a current context, as there. There are no
 * memory pools, and no kernels but one, where a test asks for it (cuda_kernel.c): NOT_SUPPORTED.
 */
#define _GNU_SOURCE
#include "cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEEPEST 64
static int initialised, version = 12080;
static int first_device; /* of the host's, as CUDA_VISIBLE_DEVICES may have it */
static context primaries[DOUBLE_DEVICES];
static _Thread_local context *stack[DEEPEST];
static _Thread_local int depth;

/* ---- for tests ---- */

void double_set_version(int number)
{
    version = number;
}

/* How often the primary context of a device is retained. */
int double_contexts(int device)
{
    return device >= 0 && device < DOUBLE_DEVICES ? __atomic_load_n(&primaries[device].references, __ATOMIC_SEQ_CST) : 0;
}

/* How many contexts this thread has on its stack. */
int double_depth(void)
{
    return depth;
}

static void reset(void)
{
    initialised = depth = first_device = 0;
    version = 12080;
    double_parcel = 32u << 20;
    double_set_kernels(0);
    for (int each = 0; each < DOUBLE_DEVICES; each++)
        primaries[each] = (context){NULL, each, 1, 0};
}

/* A program that finds the double where the linker looks (LD_LIBRARY_PATH) says by its environment how many devices
 * it has, with 1 GiB each; others, by double_reset. */
__attribute__((constructor)) static void be_reset(void)
{
    const char *devices = getenv("STEAD_DOUBLE_DEVICES");
    double_reset_face = reset;
    double_reset(devices ? atoi(devices) : 0, 1u << 30, 2u << 20);
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
    case DOUBLE_ALREADY_REGISTERED: return HOST_MEMORY_ALREADY_REGISTERED;
    case DOUBLE_NOT_REGISTERED: return HOST_MEMORY_NOT_REGISTERED;
    case DOUBLE_FAULT: return ILLEGAL_ADDRESS;
    }
    return UNKNOWN;
}

int double_entered(const char *function)
{
    int code = SUCCESS;
    switch (double_enter(function, &code)) {
    case DOUBLE_PLANNED: return code;
    case DOUBLE_DEAD: return NOT_INITIALIZED; /* what a child of fork() is told */
    }
    return SUCCESS;
}

int double_initialised(void)
{
    return initialised;
}

context *double_current(void)
{
    return depth ? stack[depth - 1] : NULL;
}

int double_known(CUdevice device)
{
    return device >= 0 && device < double_devices();
}

/* ---- the driver and its devices ---- */

int cuInit(unsigned flags)
{
    ENTER_FIRST("cuInit");
    if (flags)
        return INVALID_VALUE;
    if (!double_devices())
        return NO_DEVICE;
    initialised = 1;
    return SUCCESS;
}

int cuDriverGetVersion(int *number)
{
    int code;
    if (double_enter("cuDriverGetVersion", &code) == DOUBLE_PLANNED) /* it answers in a forked child, too */
        return code;
    if (!number)
        return INVALID_VALUE;
    *number = version;
    return SUCCESS;
}

#define NAMED(number) case number: *name = "CUDA_ERROR_" #number; return SUCCESS

int cuGetErrorName(int code, const char **name)
{
    switch (code) {
    case SUCCESS: *name = "CUDA_SUCCESS"; return SUCCESS;
    NAMED(INVALID_VALUE);
    NAMED(OUT_OF_MEMORY);
    NAMED(NOT_INITIALIZED);
    NAMED(NO_DEVICE);
    NAMED(INVALID_DEVICE);
    NAMED(INVALID_CONTEXT);
    NAMED(INVALID_PTX);
    NAMED(INVALID_HANDLE);
    NAMED(NOT_FOUND);
    NAMED(NOT_READY);
    NAMED(ILLEGAL_ADDRESS);
    NAMED(HOST_MEMORY_ALREADY_REGISTERED);
    NAMED(HOST_MEMORY_NOT_REGISTERED);
    NAMED(NOT_PERMITTED);
    NAMED(NOT_SUPPORTED);
    NAMED(UNKNOWN);
    }
    *name = NULL;
    return INVALID_VALUE;
}

int cuGetErrorString(int code, const char **text)
{
    int answer = cuGetErrorName(code, text);
    if (answer == SUCCESS)
        *text = code == NO_DEVICE ? "no CUDA-capable device is detected" : "what a double says";
    return answer;
}

int cuDeviceGetCount(int *count)
{
    ENTER("cuDeviceGetCount");
    *count = double_devices();
    return SUCCESS;
}

int cuDeviceGet(CUdevice *device, int ordinal)
{
    ENTER("cuDeviceGet");
    if (!double_known(ordinal))
        return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

int cuDeviceGetName(char *name, int length, CUdevice device)
{
    ENTER("cuDeviceGetName");
    if (!double_known(device))
        return INVALID_DEVICE;
    snprintf(name, (size_t)length, "Double %d", device);
    return SUCCESS;
}

void double_set_first_device(int first)
{
    first_device = first;
}

int cuDeviceGetUuid_v2(unsigned char uuid[16], CUdevice device)
{
    ENTER("cuDeviceGetUuid");
    if (!double_known(device))
        return INVALID_DEVICE;
    for (int each = 0; each < 16; each++)
        uuid[each] = (unsigned char)(0x10 * (first_device + device) + each);
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    ENTER("cuDeviceTotalMem");
    if (!double_known(device))
        return INVALID_DEVICE;
    *bytes = double_memory(device);
    return SUCCESS;
}

int cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    static const struct {
        int attribute, fact;
    } facts[] = {
        {41, DOUBLE_UNIFIED},
        {83, DOUBLE_MANAGES_MEMORY},
        {89, DOUBLE_MANAGES_MEMORY}, /* concurrently */
        {88, DOUBLE_REACHES_PAGEABLE},
        {91, DOUBLE_REGISTERED_AT_HOST_ADDRESS},
        {102, DOUBLE_MANAGES_ADDRESSES},
        {103, DOUBLE_SHARES_BY_DESCRIPTOR},
        {141, DOUBLE_HOST_LOCATED},
    };
    ENTER("cuDeviceGetAttribute");
    if (!double_known(device))
        return INVALID_DEVICE;
    if (attribute <= 0 || !value)
        return INVALID_VALUE;
    *value = attribute == 75 ? 9 : 0; /* compute capability 9.0 */
    for (size_t each = 0; each < sizeof facts / sizeof *facts; each++)
        if (facts[each].attribute == attribute)
            *value = (int)double_can(device, (double_fact)facts[each].fact);
    return SUCCESS;
}

/* ---- contexts ---- */

int cuDevicePrimaryCtxRetain(CUcontext *made, CUdevice device)
{
    ENTER("cuDevicePrimaryCtxRetain");
    if (!double_known(device))
        return INVALID_DEVICE;
    /* A context has addresses of its own; on an H100 a hole of more than 8 MiB and less than 64 was left of them. */
    if (!__atomic_fetch_add(&primaries[device].references, 1, __ATOMIC_SEQ_CST))
        (void)double_own(64u << 20, 34u << 20);
    *made = &primaries[device];
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    ENTER("cuDevicePrimaryCtxRelease");
    if (!double_known(device))
        return INVALID_DEVICE;
    if (!double_contexts(device))
        return INVALID_CONTEXT;
    __atomic_sub_fetch(&primaries[device].references, 1, __ATOMIC_SEQ_CST);
    return SUCCESS;
}

int cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)
{
    ENTER("cuDevicePrimaryCtxGetState");
    if (!double_known(device))
        return INVALID_DEVICE;
    *flags = 0;
    *active = double_contexts(device) > 0;
    return SUCCESS;
}

static int push(context *it)
{
    if (!it || (it->primary && !double_contexts(it->device)) || depth == DEEPEST)
        return INVALID_CONTEXT;
    stack[depth++] = it;
    return SUCCESS;
}

int cuCtxPushCurrent_v2(CUcontext it)
{
    ENTER("cuCtxPushCurrent");
    return push(it);
}

int cuCtxPopCurrent_v2(CUcontext *it)
{
    ENTER("cuCtxPopCurrent");
    if (!depth)
        return INVALID_CONTEXT;
    depth--;
    if (it)
        *it = stack[depth];
    return SUCCESS;
}

int cuCtxGetCurrent(CUcontext *it)
{
    ENTER("cuCtxGetCurrent");
    *it = double_current();
    return SUCCESS;
}

int cuCtxSetCurrent(CUcontext it)
{
    ENTER("cuCtxSetCurrent");
    if (depth)
        depth--;
    return it ? push(it) : SUCCESS;
}

int cuCtxGetDevice(CUdevice *device)
{
    ENTER_CONTEXT("cuCtxGetDevice");
    *device = double_current()->device;
    return SUCCESS;
}

int cuCtxSynchronize(void)
{
    ENTER_CONTEXT("cuCtxSynchronize");
    return double_answered(double_wait_device(double_current()->device));
}


/* ---- how cuda-bindings finds all of it ---- */

/* Of each function there is one version here: the second, if it has one. */
int cuGetProcAddress_v2(const char *name, void **found, int wanted, uint64_t flags, int *status)
{
    (void)wanted;
    (void)flags;
    char second[80];
    Dl_info own;
    void *library = dladdr(&initialised, &own) ? dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD) : NULL;
    *found = NULL;
    if (library) {
        snprintf(second, sizeof second, "%s_v2", name);
        if (!(*found = dlsym(library, second)))
            *found = dlsym(library, name);
        dlclose(library);
    }
    if (status)
        *status = *found ? 0 : 1; /* CU_GET_PROC_ADDRESS_SUCCESS, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND */
    return *found || status ? SUCCESS : NOT_FOUND;
}
