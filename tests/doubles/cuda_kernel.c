/* cuda_kernel.c - CUDA's face: a device that knows one kernel, that of stead.devices.adding, if the test says so. */
#include "cuda.h"

#include <stdint.h>
#include <string.h>

#define WITH_THE_DEVICE 3 /* the stream of launches: held until somebody waits, so that a fault shows there */

static int kernels, a_module, a_function;

void double_set_kernels(int known)
{
    kernels = known;
}

int cuModuleLoadData(void **module, const void *image)
{
    ENTER_CONTEXT("cuModuleLoadData");
    if (!kernels)
        return NOT_SUPPORTED;
    if (!strstr(image, ".entry add_there(.param .u64 where, .param .u32 what)"))
        return INVALID_PTX;
    *module = &a_module;
    return SUCCESS;
}

int cuModuleUnload(void *module)
{
    ENTER_CONTEXT("cuModuleUnload");
    return module == &a_module ? SUCCESS : INVALID_HANDLE;
}

int cuModuleGetFunction(void **function, void *module, const char *name)
{
    ENTER_CONTEXT("cuModuleGetFunction");
    if (module != &a_module || strcmp(name, "add_there"))
        return NOT_FOUND;
    *function = &a_function;
    return SUCCESS;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **arguments, void **extra)
{
    ENTER_CONTEXT("cuLaunchKernel");
    if (function != &a_function || grid_x * grid_y * grid_z * block_x * block_y * block_z != 1 || shared || stream
        || !arguments || extra)
        return INVALID_VALUE;
    uint64_t where;
    uint32_t what;
    memcpy(&where, arguments[0], sizeof where);
    memcpy(&what, arguments[1], sizeof what);
    return double_answered(double_add(WITH_THE_DEVICE, double_current()->device, where, what));
}
