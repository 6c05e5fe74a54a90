/* cuda.h - what the pieces of CUDA's face share: structures and numbers as in cuda.h 12 and 13. */
#ifndef STEAD_DOUBLE_CUDA_H
#define STEAD_DOUBLE_CUDA_H

#include "memory.h"

#include <stddef.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_PTX = 218,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    HOST_MEMORY_ALREADY_REGISTERED = 712,
    HOST_MEMORY_NOT_REGISTERED = 713,
    NOT_PERMITTED = 800,
    NOT_SUPPORTED = 801,
    UNKNOWN = 999,
};

enum { LOCATION_DEVICE = 1, LOCATION_HOST = 2, LOCATION_HOST_NUMA = 3 };
enum { PINNED = 1, POSIX_FILE_DESCRIPTOR = 1 };

typedef struct {
    int type, id;
} CUmemLocation;

typedef struct {
    int type, requestedHandleTypes;
    CUmemLocation location;
    void *win32HandleMetaData;
    struct {
        unsigned char compressionType, gpuDirectRDMACapable;
        unsigned short usage;
        unsigned char reserved[4];
    } allocFlags;
} CUmemAllocationProp;

typedef struct {
    CUmemLocation location;
    int flags;
} CUmemAccessDesc;

_Static_assert(sizeof(CUmemAllocationProp) == 32 && sizeof(CUmemAccessDesc) == 12, "as cuda.h lays them out");

typedef struct context {
    struct context *next;
    int device, primary, references;
} context;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr, CUhandle;
typedef context *CUcontext;
typedef struct CUevent_st *CUevent;
typedef struct CUstream_st *CUstream;

/* What the driver says for an answer of the core. */
int double_answered(double_answer answer);
/* Before anything else: 0, or what to answer. */
int double_entered(const char *function);
/* cuInit was called; the current context, or NULL; whether there is such a device. */
int double_initialised(void);
context *double_current(void);
int double_known(CUdevice device);
/* Whether there are kernels: none as long as no test says so. */
void double_set_kernels(int known);

#define ENTER_FIRST(function) do { int refused_ = double_entered(function); if (refused_) return refused_; } while (0)
#define ENTER(function) do { ENTER_FIRST(function); if (!double_initialised()) return NOT_INITIALIZED; } while (0)
#define ENTER_CONTEXT(function) do { ENTER(function); if (!double_current()) return INVALID_CONTEXT; } while (0)


#endif
