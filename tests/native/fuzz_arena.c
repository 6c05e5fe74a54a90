/* fuzz_arena.c - for libFuzzer: the streams of arena_stream.c. `make fuzz`. */
#include "arena_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    arena_stream_run("fuzzer", bytes, size, 0);
    return 0;
}
