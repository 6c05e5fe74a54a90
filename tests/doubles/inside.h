/* inside.h - what the pieces of the core share. Faces and tests use memory.h alone. */
#ifndef STEAD_DOUBLE_INSIDE_H
#define STEAD_DOUBLE_INSIDE_H

#include "memory.h"

#include <stddef.h>
#include <sys/types.h>

/* One lock over everything: a double is in no hurry. The plan's gates wait on it. */
void double_lock(void);
void double_unlock(void);

/* ---- plan.c ---- */
/* Whether a reservation with this hint must go elsewhere; uses up one of the times. */
int double_moves(uint64_t hint);
void double_reset_plan(void);

/* ---- memory.c; the lock is held ---- */
typedef struct double_physical {
    struct double_physical *next;
    int fd, shareable, adopted;
    ino_t inode;
    uint64_t size, users; /* users: handles and mappings */
    double_location where;
} double_physical;
double_physical *double_memory_of(uint64_t handle);
/* One user less. */
void double_leave(double_physical *of);
uint64_t double_grain(void);

/* ---- addresses.c; the lock is held ---- */
typedef struct {
    int fd;          /* of the memory that is mapped there; -1: ordinary memory of the process */
    uint64_t offset; /* in it */
    uint64_t size;   /* of what was asked for, what lies there in one piece */
    uint64_t host;   /* where the host has it, if it is ordinary memory */
} double_piece;
/* What is at address, where anybody has this access; 0: nobody has. */
int double_resolve(uint64_t address, uint64_t size, int access, double_piece *piece);
double_physical *double_memory_at(uint64_t address);
/* Whether memory is mapped at address that the device may read and write. */
int double_maps_for(int device, uint64_t address);
int64_t double_count_addresses(const char *what);
void double_reset_addresses(void);

/* ---- host.c; the lock is held ---- */
/* Registered or managed. */
int double_used_by_devices(uint64_t address);
int64_t double_count_host(const char *what);
void double_reset_host(void);
/* The address on the host of what devices call so, if it lies in a registered range that they call otherwise. */
uint64_t double_host_address(uint64_t device_address);

/* ---- work.c; the lock is held ---- */
int64_t double_count_work(const char *what);
void double_reset_work(void);

#endif
