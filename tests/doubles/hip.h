/* hip.h - what the pieces of HIP's face share: structures and numbers as in hip_runtime_api.h 6.4 and later. */
#ifndef STEAD_DOUBLE_HIP_H
#define STEAD_DOUBLE_HIP_H

#include "memory.h"

#include <stddef.h>

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_HANDLE = 400, NOT_READY = 600, ILLEGAL_ADDRESS = 700, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713,
    NOT_SUPPORTED = 801, UNKNOWN = 999,
};
enum { LOCATION_DEVICE = 1, LOCATION_HOST = 2, LOCATION_HOST_NUMA = 3, PINNED = 1, POSIX_FD = 1 };

typedef struct { int type, id; } location;
typedef struct {
    int type, requestedHandleType;
    location location;
    void *win32HandleMetaData;
    struct { unsigned char compressionType, gpuDirectRDMACapable; unsigned short usage; } allocFlags;
} properties;
typedef struct { location location; int flags; } access_description;

extern int double_version;
extern _Thread_local int double_current;

/* What the driver says for an answer of the core. */
int double_answered(double_answer answer);
/* Before anything else: 0, or what to answer. */
int double_entered(const char *function);
int double_initialised(void);
int double_known(int device);

#define ENTER_FIRST(function) do { int refused_ = double_entered(function); if (refused_) return refused_; } while (0)
#define ENTER(function) do { ENTER_FIRST(function); if (!double_initialised()) return NOT_INITIALIZED; } while (0)
#define NEED(condition) do { if (!(condition)) return INVALID_VALUE; } while (0)

#endif
