/* level_zero_order.c - Level Zero's face: contents, lists and events. */
#include "level_zero.h"

#include <stdlib.h>
#include <string.h>

static struct { uint64_t stream; int device, synchronous, copies_only; } lists[MOST];
static int pools;

void double_reset_order(void)
{
    memset(lists, 0, sizeof lists);
    pools = 0;
}

/* ---- for tests ---- */

int double_pools(void)
{
    return pools;
}

/* An immediate list, and a stream of the core: unless it is synchronous, its work is held. */
uint64_t double_new_list(int device, int synchronous)
{
    uint64_t stream = double_new_stream();
    for (int each = 0; each < MOST; each++)
        if (!lists[each].stream) {
            lists[each].device = device;
            lists[each].synchronous = synchronous;
            lists[each].copies_only = 0;
            lists[each].stream = stream;
            return stream;
        }
    abort();
}

/* ---- lists ---- */

static int found(void *list, uint64_t *stream, int *device)
{
    for (int each = 0; each < MOST; each++)
        if (lists[each].stream && lists[each].stream == (uintptr_t)list) {
            *stream = lists[each].synchronous ? 0 : lists[each].stream;
            *device = lists[each].device;
            return 1;
        }
    return 0;
}

int zeCommandListCreateImmediate(void *context, void *device, const queue_description *description, void **list)
{
    ENTER("zeCommandListCreateImmediate");
    NEED(context && double_number_of(device) >= 0, NULL_HANDLE);
    NEED(IS(description, QUEUE_DESC) && list && description->ordinal < 2, INVALID_ARGUMENT);
    uint64_t made = double_new_list(double_number_of(device), description->mode == SYNCHRONOUS);
    for (int each = 0; each < MOST; each++)
        if (lists[each].stream == made)
            lists[each].copies_only = description->ordinal == 0; /* as zeDeviceGetCommandQueueGroupProperties says */
    *list = (void *)(uintptr_t)made;
    return SUCCESS;
}

int zeCommandListAppendMemoryCopy(void *list, void *to, const void *source, size_t size, void *signal,
                                  uint32_t waits, void **for_events)
{
    ENTER("zeCommandListAppendMemoryCopy");
    uint64_t stream;
    int device;
    NEED(found(list, &stream, &device), NULL_HANDLE);
    NEED(!signal && !waits && !for_events, INVALID_ARGUMENT);
    return double_answered(double_copy(stream, device, (uintptr_t)to, (uintptr_t)source, size));
}

int zeCommandListAppendMemoryFill(void *list, void *address, const void *pattern, size_t pattern_size, size_t size,
                                  void *signal, uint32_t waits, void **for_events)
{
    ENTER("zeCommandListAppendMemoryFill");
    uint64_t stream;
    int device;
    NEED(found(list, &stream, &device), NULL_HANDLE);
    NEED(!signal && !waits && !for_events && pattern && pattern_size == 1, INVALID_ARGUMENT);
    for (int each = 0; each < MOST; each++)
        NEED(lists[each].stream != (uintptr_t)list || !lists[each].copies_only, UNSUPPORTED_FEATURE);
    return double_answered(double_fill(stream, device, (uintptr_t)address, size, *(const unsigned char *)pattern));
}

int zeCommandListAppendBarrier(void *list, void *signal, uint32_t waits, void **for_events)
{
    ENTER("zeCommandListAppendBarrier");
    uint64_t stream;
    int device;
    NEED(found(list, &stream, &device), NULL_HANDLE);
    NEED(!waits && !for_events, INVALID_ARGUMENT);
    return double_answered(double_record((uintptr_t)signal, stream, device));
}

/* ---- events: a pool has one ---- */

int zeEventPoolCreate(void *context, const pool_description *description, uint32_t count, void **devices, void **pool)
{
    ENTER("zeEventPoolCreate");
    NEED(context, NULL_HANDLE);
    NEED(IS(description, EVENT_POOL_DESC) && description->count == 1 && !count && !devices && pool, INVALID_ARGUMENT);
    pools++;
    *pool = (void *)1;
    return SUCCESS;
}

int zeEventPoolDestroy(void *pool)
{
    ENTER("zeEventPoolDestroy");
    NEED(pool && pools, NULL_HANDLE);
    NEED(double_count("events") < pools, IN_USE);
    pools--;
    return SUCCESS;
}

int zeEventCreate(void *pool, const event_description *description, void **event)
{
    ENTER("zeEventCreate");
    uint64_t made = 0;
    NEED(pool && pools, NULL_HANDLE);
    NEED(IS(description, EVENT_DESC) && !description->index && event, INVALID_ARGUMENT);
    int answer = double_answered(double_new_event(&made));
    *event = (void *)(uintptr_t)made;
    return answer;
}

int zeEventDestroy(void *event)
{
    ENTER("zeEventDestroy");
    return double_answered(double_forget((uintptr_t)event));
}

int zeEventQueryStatus(void *event)
{
    ENTER("zeEventQueryStatus");
    return double_answered(double_passed((uintptr_t)event));
}

int zeEventHostSynchronize(void *event, uint64_t timeout)
{
    ENTER("zeEventHostSynchronize");
    NEED(timeout == UINT64_MAX, INVALID_ARGUMENT);
    return double_answered(double_wait_event((uintptr_t)event));
}
