/* fork.c - a child never finds a lock held by a thread that it does not have: a fork waits until nobody is inside
 * any arena that was enlisted. Who is inside makes no system call and needs no other lock, so it waits only briefly.
 */
#include <pthread.h>

#include "fit.h"

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static stead_arena *enlisted;

/* In an order that never waits for somebody who waits for us: lanes before runs, and no lane waits for another. */
void arena_lock_all(stead_arena *a)
{
    for (unsigned l = 0; l < LANES; l++)
        stead_acquire(&a->lanes[l].lock);
    runs_enter(a);
}

void arena_unlock_all(stead_arena *a)
{
    runs_leave(a);
    for (unsigned l = LANES; l--;)
        stead_unlock(&a->lanes[l].lock);
}

static void before(void)
{
    pthread_mutex_lock(&list_lock);
    for (stead_arena *a = enlisted; a; a = a->next)
        arena_lock_all(a);
}

static void in_parent(void)
{
    for (stead_arena *a = enlisted; a; a = a->next)
        arena_unlock_all(a);
    pthread_mutex_unlock(&list_lock);
}

static void in_child(void)
{
    for (stead_arena *a = enlisted; a; a = a->next) {
        for (unsigned l = 0; l < LANES; l++)
            a->lanes[l].lock = (stead_lock){0, 0}; /* who waited has stayed in the parent */
        a->runs_lock = (stead_lock){0, 0};
        a->disowned |= !a->private_memory;
    }
    pthread_mutex_unlock(&list_lock);
}

static void at_fork(void)
{
    pthread_atfork(before, in_parent, in_child);
}

void stead_arena_enlist(stead_arena *a, int private_memory)
{
    pthread_once(&once, at_fork);
    pthread_mutex_lock(&list_lock);
    a->private_memory = private_memory;
    a->next = enlisted;
    enlisted = a;
    pthread_mutex_unlock(&list_lock);
}

void stead_arena_delist(stead_arena *a)
{
    pthread_mutex_lock(&list_lock);
    stead_arena **at = &enlisted;
    while (*at && *at != a)
        at = &(*at)->next;
    if (*at)
        *at = a->next;
    pthread_mutex_unlock(&list_lock);
}
