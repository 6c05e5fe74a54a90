#define _GNU_SOURCE
#include "mapping.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/types.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

_Static_assert(sizeof(void *) == 8, "stead needs a 64-bit address space");

/* Headers older than the kernel they run on lack these; the values are the same on every
 * architecture (uapi/asm-generic/mman-common.h, uapi/linux/prctl.h, uapi/linux/fs.h). */
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

struct procmap_query_v1 { /* struct procmap_query of uapi/linux/fs.h, Linux 6.11 */
    __u64 size, query_flags, query_addr;
    __u64 vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
    __u32 dev_major, dev_minor, vma_name_size, build_id_size;
    __u64 vma_name_addr, build_id_addr;
};
#define STEAD_PROCMAP_QUERY _IOWR('f', 17, struct procmap_query_v1)
#define QUERY_COVERING_OR_NEXT 0x10

static int64_t answer(void *got)
{
    return got == MAP_FAILED ? -(int64_t)errno : (int64_t)(uintptr_t)got;
}

static int64_t status(int rc)
{
    return rc == -1 ? -(int64_t)errno : 0;
}

/* NORESERVE: a reservation is no promise of memory, and 64 TiB must not count as one. */
#define NO_MEMORY (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

/* 64 TiB of nothing must not end in a core file. Advice: where a kernel or an emulator refuses it, the claim
 * stands all the same. */
static int64_t left_out_of_dumps(void *got, size_t size)
{
    if (got == MAP_FAILED)
        return -(int64_t)errno;
    (void)madvise(got, size, MADV_DONTDUMP);
    return (int64_t)(uintptr_t)got;
}

int64_t stead_claim(uint64_t address, size_t size)
{
    return left_out_of_dumps(
        mmap((void *)(uintptr_t)address, size, PROT_NONE, NO_MEMORY | MAP_FIXED_NOREPLACE, -1, 0), size);
}

int64_t stead_hint(uint64_t address, size_t size)
{
    return left_out_of_dumps(mmap((void *)(uintptr_t)address, size, PROT_NONE, NO_MEMORY, -1, 0), size);
}

int64_t stead_place(uint64_t address, size_t size, int protection, int flags, int fd, int64_t offset)
{
    return answer(mmap((void *)(uintptr_t)address, size, protection, flags | MAP_FIXED, fd, offset));
}

int64_t stead_unmap(uint64_t address, size_t size)
{
    return status(munmap((void *)(uintptr_t)address, size));
}

int64_t stead_protect(uint64_t address, size_t size, int protection)
{
    return status(mprotect((void *)(uintptr_t)address, size, protection));
}

int64_t stead_advise(uint64_t address, size_t size, int advice)
{
    return status(madvise((void *)(uintptr_t)address, size, advice));
}

int64_t stead_name(uint64_t address, size_t size, const char *name)
{
    return status(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, (unsigned long)address, (unsigned long)size,
                        (unsigned long)(uintptr_t)name));
}

int64_t stead_fallocate(int fd, int mode, int64_t offset, int64_t size)
{
    return status(fallocate(fd, mode, offset, size));
}

int64_t stead_query(int maps_fd, uint64_t address, stead_mapping *out, char *name, uint32_t name_room)
{
    struct procmap_query_v1 q = {
        .size = sizeof q,
        .query_flags = QUERY_COVERING_OR_NEXT,
        .query_addr = address,
        .vma_name_size = name ? name_room : 0,
        .vma_name_addr = (__u64)(uintptr_t)name,
    };
    if (ioctl(maps_fd, STEAD_PROCMAP_QUERY, &q) == -1)
        return -(int64_t)errno;
    *out = (stead_mapping){
        .start = q.vma_start,
        .stop = q.vma_end,
        .flags = q.vma_flags,
        .offset = q.vma_offset,
        .inode = q.inode,
        .device_major = q.dev_major,
        .device_minor = q.dev_minor,
        .name_size = q.vma_name_size,
    };
    return 0;
}

uint64_t stead_program_break(void)
{
    return (uint64_t)(uintptr_t)sbrk(0);
}

const char *stead_sanitizer(void)
{
    static const char *const known[][2] = {
        {"__tsan_init", "thread"}, {"__asan_init", "address"}, {"__msan_init", "memory"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (dlsym(RTLD_DEFAULT, known[i][0]))
            return known[i][1];
    return NULL;
}

int stead_dumpable(void)
{
    return prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1;
}
