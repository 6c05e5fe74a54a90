/* level_zero.h - what the pieces of Level Zero's face share: structures and numbers as in ze_api.h 1.8 to 1.32. */
#ifndef STEAD_DOUBLE_LEVEL_ZERO_H
#define STEAD_DOUBLE_LEVEL_ZERO_H

#include "memory.h"

#include <stddef.h>

enum {
    SUCCESS = 0, NOT_READY = 1, DEVICE_LOST = 0x70000001, OUT_OF_DEVICE_MEMORY = 0x70000003,
    UNINITIALIZED = 0x78000001, UNSUPPORTED_FEATURE = 0x78000003, INVALID_ARGUMENT = 0x78000004,
    NULL_HANDLE = 0x78000005, IN_USE = 0x78000006, NULL_POINTER = 0x78000007, INVALID_ENUMERATION = 0x7800000c,
};
enum {
    DEVICE_PROPERTIES = 0x3, QUEUE_GROUP = 0x6, MEMORY_PROPERTIES = 0x7, ACCESS_PROPERTIES = 0x8,
    EXTERNAL_PROPERTIES = 0xc, CONTEXT_DESC = 0xd, QUEUE_DESC = 0xe, EVENT_POOL_DESC = 0x10, EVENT_DESC = 0x11,
    DEVICE_MEM_DESC = 0x15, HOST_MEM_DESC = 0x16, ALLOCATION_PROPERTIES = 0x17, EXPORT_DESC = 0x18,
    IMPORT_FD = 0x19, EXPORT_FD = 0x1a, PHYSICAL_DESC = 0x20, SYSTEM_MEMORY = 0x20037,
    PHYSICAL_PROPERTIES = 0x20040, USABLE_MEMORY = 0x20041,
};
enum { ON_DEVICE = 1, ON_HOST = 2, DMA_BUF = 2, READWRITE = 1, READONLY = 2, SYNCHRONOUS = 1 };

typedef struct head { int stype; struct head *next; } head;
typedef struct { head head; uint32_t flags; } flagged; /* contexts, host allocations, exports */
typedef struct { head head; uint32_t flags; int fd; } with_fd;
typedef struct {
    head head; int type; uint32_t vendor, device, flags, subdevice, clock; uint64_t largest;
    uint32_t contexts, priority, threads, width, units, subslices, slices; uint64_t resolution;
    uint32_t bits, kernel_bits; uint8_t uuid[16]; char name[256];
} device_properties;
typedef struct { head head; uint64_t bytes; } usable_memory;
typedef struct { head head; uint32_t flags, clock, width; uint64_t size; char name[256]; } memory_properties;
typedef struct { head head; uint32_t host, device, shared, shared_across, system; } access_properties;
typedef struct { head head; uint32_t imports, exports, image_imports, image_exports; } external_properties;
typedef struct { head head; uint32_t flags; size_t largest_pattern; uint32_t queues; } queue_group;
typedef struct { head head; uint32_t ordinal, index, flags; int mode, priority; } queue_description;
typedef struct { head head; uint32_t flags, count; } pool_description;
typedef struct { head head; uint32_t index, signal, wait; } event_description;
typedef struct { head head; uint32_t flags, ordinal; } device_allocation;
typedef struct { head head; int type; uint64_t id, page_size; } allocation_properties;
typedef struct { head head; uint32_t flags; size_t size; } physical_description;
typedef struct { head head; uint64_t id, size; } physical_properties;
typedef struct { head head; void *address; uint64_t size; } system_memory;
typedef struct { char name[256]; uint32_t version; } extension;

/* Handles: the driver and the context are 1, device n is n + 1, a list is the number of its stream. */
#define MOST 256
extern int double_old;

/* What the driver says for an answer of the core. */
int double_answered(double_answer answer);
/* Before anything else: 0, or what to answer. */
int double_entered(const char *function);
int double_initialised(void);
/* Of a device's handle; -1: none. */
int double_number_of(void *device);
int double_manages(void);
/* The structure of this type behind another; NULL: there is none. */
void *double_behind(head *of, int stype);
void double_reset_mapped(void);
void double_reset_order(void);

#define ENTER_FIRST(function) do { int refused_ = double_entered(function); if (refused_) return refused_; } while (0)
#define ENTER(function) do { ENTER_FIRST(function); if (!double_initialised()) return UNINITIALIZED; } while (0)
#define NEED(condition, otherwise) do { if (!(condition)) return otherwise; } while (0)
#define IS(structure, type) ((structure) && (structure)->head.stype == (type))

#endif
