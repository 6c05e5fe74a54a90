/* process.c - which process this is, and whether another one can still execute an instruction. */
#include "roster.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What proc(5) says in /proc/<pid>/stat: state, number of threads, start time (fields 3, 20, 22). 0, or errno. */
static int look(uint32_t pid, char *state, long *threads, uint64_t *start)
{
    char path[32] = "/proc/", digits[12], text[1024];
    int n = 0, at = 6;
    do
        digits[n++] = (char)('0' + pid % 10);
    while (pid /= 10);
    while (n)
        path[at++] = digits[--n];
    memcpy(path + at, "/stat", 6);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    ssize_t got = read(fd, text, sizeof text - 1);
    int failed = errno;
    close(fd);
    if (got <= 0)
        return got ? failed : ESRCH;
    text[got] = 0;
    char *field = strrchr(text, ')'); /* the name before it may hold anything */
    if (!field)
        return EINVAL;
    *state = field[2];
    field += 2;
    for (int i = 3; i < 22; i++) {
        if (i == 20)
            *threads = strtol(field, NULL, 10);
        field = strchr(field, ' ');
        if (!field++)
            return EINVAL;
    }
    *start = strtoull(field, NULL, 10);
    return 0;
}

static uint64_t identity_of(uint32_t pid, uint64_t start)
{
    return start << 24 | (pid & 0xffffff);
}

uint64_t roster_myself(void)
{
    char state;
    long threads;
    uint64_t start;
    uint32_t pid = (uint32_t)getpid();
    return look(pid, &state, &threads, &start) ? 0 : identity_of(pid, start);
}

int roster_alive(uint64_t identity)
{
    char state = 0;
    long threads = 0;
    uint64_t start = 0;
    uint32_t pid = identity & 0xffffff;
    int failed = look(pid, &state, &threads, &start);
    if (failed) /* a process may be hidden, or /proc not be there: then it has its pid, still */
        return (failed != ENOENT && failed != ESRCH) || (pid && (!kill((pid_t)pid, 0) || errno != ESRCH));
    if (identity_of(pid, start) != identity)
        return 0;
    return !((state == 'Z' || state == 'X') && threads <= 1);
}
