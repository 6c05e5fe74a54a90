/* memory.h - what drivers of devices do with addresses and memory, on this host's memory, for tests.
 *
 * The faces (cuda.c, hip.c, level_zero.c) give it a driver's names, structures and error codes. Reservations are real
 * mappings without access, physical memory is a memfd with a budget for each place, and a mapping shows it at its
 * real address. As strict as the strictest of the three documents: what one of them forbids is INVALID here.
 *
 * The protection of a mapping is what the *host* may do with it, as with a real device: memory of a device is not
 * accessible to the host, whatever devices may do. Copies and fills go through the memfd.
 *
 * Every function locks for itself and may be called from any thread. After fork() the child's driver is dead, as
 * CUDA's is: every double_enter() answers so, and nothing of the parent is touched.
 *
 * Sizes and addresses are in bytes. Handles, events and streams are numbers above 0 that are never used twice;
 * a number that is not live is INVALID. Nothing has changed where the answer is not DOUBLE_OK.
 */
#ifndef STEAD_DOUBLE_MEMORY_H
#define STEAD_DOUBLE_MEMORY_H

#include <stdint.h>

#define DOUBLE_DEVICES 8 /* at most */
#define DOUBLE_NODES 2   /* NUMA nodes of the host */

typedef enum {
    DOUBLE_OK,
    DOUBLE_INVALID,
    DOUBLE_OUT_OF_MEMORY,
    DOUBLE_UNSUPPORTED,
    DOUBLE_NOT_READY,          /* an event that has not passed */
    DOUBLE_ALREADY_REGISTERED,
    DOUBLE_NOT_REGISTERED,
    DOUBLE_FAULT,              /* work on a stream met memory that was gone or not accessible */
} double_answer;

typedef enum { DOUBLE_DEVICE, DOUBLE_HOST, DOUBLE_NODE } double_kind;

/* Where memory is, or who accesses it. The host accesses as one: HOST and any NODE are the same accessor. */
typedef struct {
    double_kind kind;
    int id;
} double_location;

enum { DOUBLE_NONE = 0, DOUBLE_READ = 1, DOUBLE_READWRITE = 3 };

/* What a device can, 0 or 1. All are 1 after double_reset, but for DOUBLE_REACHES_PAGEABLE. */
typedef enum {
    DOUBLE_UNIFIED,
    DOUBLE_MANAGES_ADDRESSES,
    DOUBLE_SHARES_BY_DESCRIPTOR,
    DOUBLE_REACHES_PAGEABLE,
    DOUBLE_REGISTERED_AT_HOST_ADDRESS,
    DOUBLE_MANAGES_MEMORY,
    DOUBLE_HOST_LOCATED,
    DOUBLE_FACTS,
} double_fact;

/* ---- for faces: call first in every function of the driver ----
 * Counts the call, waits where its gate is closed, and looks into the plan. Other than 0: answer with *code, having
 * done nothing. DOUBLE_DEAD: the process was forked; the face knows what its driver says then. */
enum { DOUBLE_GO = 0, DOUBLE_PLANNED = 1, DOUBLE_DEAD = 2 };
int double_enter(const char *function, int *code);
/* The face's own state, as new: called by double_reset(), under its lock, if a face has set it. */
extern void (*double_reset_face)(void);

/* ---- devices ---- */
int double_devices(void);
int64_t double_can(int device, double_fact fact);
uint64_t double_memory(int device);      /* all of it */
uint64_t double_free_bytes(int device);
uint64_t double_granularity(double_location where);

/* ---- addresses ---- */
/* What sizes and places of the driver's parcels are multiples of, a power of two; 0: the granularity. A face sets it when
 * it is reset; a test, by double_set_parcels(). */
extern uint64_t double_parcel;
void double_set_parcels(uint64_t size);
/* A parcel of the driver's own, of which it uses the beginning; 0: there is no room. */
int double_own(uint64_t size, uint64_t used);
/* At hint, or elsewhere. size: a multiple of the granularity; alignment: 0 or a power of two; hint: a multiple of the
 * page size (one that is not aligned as asked is not followed). */
double_answer double_reserve(uint64_t *address, uint64_t size, uint64_t alignment, uint64_t hint);
/* Exactly one reservation, with nothing mapped. */
double_answer double_free(uint64_t address, uint64_t size);

/* ---- physical memory ---- */
double_answer double_create(uint64_t *handle, uint64_t size, double_location where, int shareable);
/* Its mappings stay. */
double_answer double_release(uint64_t handle);
/* Another reference to the same handle, for one more release. */
double_answer double_retain(uint64_t handle);
/* A new descriptor, close-on-exec, of a handle that was created shareable or adopted. */
double_answer double_export(int *fd, uint64_t handle);
/* fd: of any process's double_export; stays the caller's. Adopted memory counts where it was created. */
double_answer double_adopt(uint64_t *handle, int fd);
double_answer double_described(uint64_t handle, uint64_t *size, double_location *where, int *shareable);
/* The handle of the memory mapped at address, with one more reference. */
double_answer double_handle_at(uint64_t *handle, uint64_t address);

/* Where the memory is that is mapped, registered or managed at address. */
double_answer double_located(double_location *where, uint64_t address);

/* ---- the one at the other ---- */
/* Inside one reservation, where nothing is mapped; accessible to nobody. */
double_answer double_map(uint64_t address, uint64_t size, uint64_t offset, uint64_t handle);
/* Whole mappings without a gap. Does not wait for streams. */
double_answer double_unmap(uint64_t address, uint64_t size);
/* Over whole mappings without a gap. The host may be allowed only what is on the host. */
double_answer double_allow(uint64_t address, uint64_t size, double_location who, int access);
/* What double_allow() would answer, for drivers that take several at once, all or none. */
double_answer double_may_allow(uint64_t address, uint64_t size, double_location who, int access);
double_answer double_allowed(int *access, double_location who, uint64_t address);

/* ---- memory of the host ---- */
double_answer double_managed(uint64_t *address, uint64_t size);
double_answer double_free_managed(uint64_t address);
/* The range must be accessible, and none of it registered. */
double_answer double_register(uint64_t address, uint64_t size);
double_answer double_unregister(uint64_t address);
/* What devices call an address inside a registered range: the same, unless a device is without
 * DOUBLE_REGISTERED_AT_HOST_ADDRESS. */
double_answer double_device_address(uint64_t *device_address, uint64_t address);

/* ---- contents and order ----
 * A stream is any number; it need not be created. 0 is the default stream: its work is done at once, and its answer
 * is the work's. All other streams keep their work, in order, until it is waited for or the test lets it run. */
uint64_t double_new_stream(void);
double_answer double_copy(uint64_t stream, int device, uint64_t to, uint64_t source, uint64_t size);
double_answer double_fill(uint64_t stream, int device, uint64_t address, uint64_t size, int byte);
/* What a kernel does that adds to the 32-bit number at an address: only where the device itself may. */
double_answer double_add(uint64_t stream, int device, uint64_t address, uint32_t what);
double_answer double_wait_stream(uint64_t stream);
double_answer double_wait_device(int device);
double_answer double_new_event(uint64_t *event);
double_answer double_record(uint64_t event, uint64_t stream, int device);
double_answer double_passed(uint64_t event);
double_answer double_wait_event(uint64_t event);
double_answer double_forget(uint64_t event);

/* ---- for tests, through ctypes ---- */
/* As new: nothing is reserved, mapped, registered or planned; counts are 0; every gate is open. 0 devices: the driver
 * says that there is none. */
void double_reset(int devices, uint64_t memory, uint64_t granularity);
void double_set_fact(int device, double_fact fact, int value);
/* What may be created at a place from now on, in bytes (what there is already counts, too). */
void double_set_budget(double_kind kind, int id, uint64_t bytes);
/* The n-th next call (1: the next) of a function answers with code, a number of the face's driver. */
void double_refuse(const char *function, int nth, int code);
/* The next `times` reservations (below 0: all) with a hint in [start, stop) go elsewhere. */
void double_move(int times, uint64_t start, uint64_t stop);
/* Calls of a function wait; until so many wait at it; let them go, and those to come. */
void double_close_gate(const char *function);
void double_await(const char *function, int waiting);
void double_open_gate(const char *function);
/* Do the next `works` of a stream (below 0: all): the number done. */
int double_run(uint64_t stream, int works);
/* "reservations", "handles", "memories", "mappings", "registered", "managed", "events", "works" (held by streams),
 * "faults"; -1: no such thing. */
int64_t double_count(const char *what);
int64_t double_calls(const char *function);
/* Bytes created at a place and not gone. */
uint64_t double_bytes(double_kind kind, int id);

#endif
