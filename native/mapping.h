/* mapping.h - the whole contract with the kernel, one system call behind each function (claims make a second,
 * to stay out of core dumps).
 *
 * Knows no Python, takes no lock, keeps no state. Every function answers with a value that is
 * zero or positive (an address, or 0) or with a negated errno. Address 0 is a valid address: root
 * may map page 0. Interruption (EINTR) is answered like any other errno: the caller decides.
 */
#ifndef STEAD_MAPPING_H
#define STEAD_MAPPING_H

#include <stddef.h>
#include <stdint.h>

/* What PROCMAP_QUERY says of one mapping. */
typedef struct {
    uint64_t start, stop;      /* bytes, [start, stop) */
    uint64_t flags;            /* STEAD_QUERY_READABLE and so on */
    uint64_t offset, inode;
    uint32_t device_major, device_minor;
    uint32_t name_size;        /* with the final NUL; 0: the mapping has no name */
} stead_mapping;

enum {
    STEAD_QUERY_READABLE = 0x01,
    STEAD_QUERY_WRITABLE = 0x02,
    STEAD_QUERY_EXECUTABLE = 0x04,
    STEAD_QUERY_SHARED = 0x08,
};

/* Claim exactly [address, address + size), inaccessible, without memory, left out of core dumps. A kernel that does not
 * know MAP_FIXED_NOREPLACE takes it as a hint: compare what comes back. */
int64_t stead_claim(uint64_t address, size_t size);
/* The same as a hint only: never clobbers on any kernel. Address 0: wherever the kernel likes. */
int64_t stead_hint(uint64_t address, size_t size);
/* Replace what is there (MAP_FIXED). Only ever inside a range that the caller owns. */
int64_t stead_place(uint64_t address, size_t size, int protection, int flags, int fd, int64_t offset);
int64_t stead_unmap(uint64_t address, size_t size);
int64_t stead_protect(uint64_t address, size_t size, int protection);
int64_t stead_advise(uint64_t address, size_t size, int advice);
/* Name an anonymous mapping in /proc/<pid>/maps (Linux 5.17, CONFIG_ANON_VMA_NAME). */
int64_t stead_name(uint64_t address, size_t size, const char *name);
/* fallocate(2), never glibc's posix_fallocate: that one writes where the file system cannot. */
int64_t stead_fallocate(int fd, int mode, int64_t offset, int64_t size);
/* The mapping that covers address, or the next above it (PROCMAP_QUERY, Linux 6.11); -ENOENT: none.
 * maps_fd: an open /proc/<pid>/maps. name may be NULL. */
int64_t stead_query(int maps_fd, uint64_t address, stead_mapping *out, char *name, uint32_t name_room);
/* End of the [heap], where brk(2) would grow it. */
uint64_t stead_program_break(void);
/* "thread", "address", "memory", or NULL: the sanitizer this process runs under. */
const char *stead_sanitizer(void);
/* Whether others of the same user may look into this process (PR_GET_DUMPABLE; they need it to be 1, see ptrace(2)). */
int stead_dumpable(void);

#endif
