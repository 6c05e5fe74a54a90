/* cuda_order.c - CUDA's face: memory of the host, contents, streams and events; and what it does without. */
#include "cuda.h"

#include <stdint.h>

/* ---- memory of the host ---- */

int cuMemHostRegister_v2(void *address, size_t size, unsigned flags)
{
    ENTER_CONTEXT("cuMemHostRegister");
    if (flags & ~0xfu)
        return INVALID_VALUE;
    return double_answered(double_register((uintptr_t)address, size));
}

int cuMemHostUnregister(void *address)
{
    ENTER_CONTEXT("cuMemHostUnregister");
    return double_answered(double_unregister((uintptr_t)address));
}

int cuMemHostGetDevicePointer_v2(CUdeviceptr *found, void *address, unsigned flags)
{
    ENTER_CONTEXT("cuMemHostGetDevicePointer");
    uint64_t there = 0;
    int answer = flags ? INVALID_VALUE : double_answered(double_device_address(&there, (uintptr_t)address));
    *found = there;
    return answer;
}

int cuMemAllocManaged(CUdeviceptr *address, size_t size, unsigned flags)
{
    ENTER_CONTEXT("cuMemAllocManaged");
    uint64_t got = 0;
    if (flags != 1 && flags != 2) /* CU_MEM_ATTACH_GLOBAL, CU_MEM_ATTACH_HOST */
        return INVALID_VALUE;
    if (!double_can(double_current()->device, DOUBLE_MANAGES_MEMORY))
        return NOT_SUPPORTED;
    int answer = double_answered(double_managed(&got, size));
    *address = got;
    return answer;
}

int cuMemFree_v2(CUdeviceptr address)
{
    ENTER_CONTEXT("cuMemFree");
    return double_answered(double_free_managed(address));
}

int cuMemGetInfo_v2(size_t *free, size_t *total)
{
    ENTER_CONTEXT("cuMemGetInfo");
    *free = double_free_bytes(double_current()->device);
    *total = double_memory(double_current()->device);
    return SUCCESS;
}

/* ---- contents ---- */

static uint64_t number_of(CUstream stream)
{
    return (uintptr_t)stream <= 2 ? 0 : (uintptr_t)stream; /* 1, 2: CU_STREAM_LEGACY, CU_STREAM_PER_THREAD */
}

static int copy(CUstream stream, uint64_t to, uint64_t source, size_t size)
{
    return double_answered(double_copy(number_of(stream), double_current()->device, to, source, size));
}

int cuMemcpy(CUdeviceptr to, CUdeviceptr source, size_t size)
{
    ENTER_CONTEXT("cuMemcpy");
    return copy(NULL, to, source, size);
}

int cuMemcpyAsync(CUdeviceptr to, CUdeviceptr source, size_t size, CUstream stream)
{
    ENTER_CONTEXT("cuMemcpyAsync");
    return copy(stream, to, source, size);
}

int cuMemcpyHtoD_v2(CUdeviceptr to, const void *source, size_t size)
{
    ENTER_CONTEXT("cuMemcpyHtoD");
    return copy(NULL, to, (uintptr_t)source, size);
}

int cuMemcpyDtoH_v2(void *to, CUdeviceptr source, size_t size)
{
    ENTER_CONTEXT("cuMemcpyDtoH");
    return copy(NULL, (uintptr_t)to, source, size);
}

int cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr source, size_t size)
{
    ENTER_CONTEXT("cuMemcpyDtoD");
    return copy(NULL, to, source, size);
}

int cuMemsetD8_v2(CUdeviceptr address, unsigned char byte, size_t size)
{
    ENTER_CONTEXT("cuMemsetD8");
    return double_answered(double_fill(0, double_current()->device, address, size, byte));
}

int cuMemsetD8Async(CUdeviceptr address, unsigned char byte, size_t size, CUstream stream)
{
    ENTER_CONTEXT("cuMemsetD8Async");
    return double_answered(double_fill(number_of(stream), double_current()->device, address, size, byte));
}

/* ---- order ---- */

int cuStreamCreate(CUstream *made, unsigned flags)
{
    ENTER_CONTEXT("cuStreamCreate");
    if (flags > 1)
        return INVALID_VALUE;
    *made = (CUstream)(uintptr_t)double_new_stream();
    return SUCCESS;
}

/* Its work is still done, when the device is waited for. */
int cuStreamDestroy_v2(CUstream stream)
{
    ENTER_CONTEXT("cuStreamDestroy");
    return number_of(stream) ? SUCCESS : INVALID_HANDLE;
}

int cuStreamSynchronize(CUstream stream)
{
    ENTER_CONTEXT("cuStreamSynchronize");
    return double_answered(double_wait_stream(number_of(stream)));
}

int cuEventCreate(CUevent *made, unsigned flags)
{
    ENTER_CONTEXT("cuEventCreate");
    uint64_t number = 0;
    if (flags > 7)
        return INVALID_VALUE;
    int answer = double_answered(double_new_event(&number));
    *made = (CUevent)(uintptr_t)number;
    return answer;
}

int cuEventRecord(CUevent event, CUstream stream)
{
    ENTER_CONTEXT("cuEventRecord");
    return double_answered(double_record((uintptr_t)event, number_of(stream), double_current()->device));
}

int cuEventQuery(CUevent event)
{
    ENTER("cuEventQuery");
    return double_answered(double_passed((uintptr_t)event));
}

int cuEventSynchronize(CUevent event)
{
    ENTER("cuEventSynchronize");
    return double_answered(double_wait_event((uintptr_t)event));
}

int cuEventDestroy_v2(CUevent event)
{
    ENTER("cuEventDestroy");
    return double_answered(double_forget((uintptr_t)event));
}

/* ---- what it does without ---- */

int cuMemAllocAsync(CUdeviceptr *address, size_t size, CUstream stream)
{
    (void)address;
    (void)size;
    (void)stream;
    ENTER_CONTEXT("cuMemAllocAsync");
    return NOT_SUPPORTED;
}
