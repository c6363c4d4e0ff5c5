/* Numbers of calls in flight: see call_ids.h. */
#include "call_ids.h"

#include <stdlib.h>

#define FIRST_IDS 64

static Call **calls; /* by id - 1; NULL where none is in flight */
static uint32_t *free_ids, num_free, num_ids;

uint32_t take_id(Call *call) {
    if (!num_free) {
        uint32_t more = num_ids ? num_ids : FIRST_IDS;
        calls = realloc(calls, (num_ids + more) * sizeof *calls);
        free_ids = realloc(free_ids, (num_ids + more) * sizeof *free_ids);
        if (!calls || !free_ids) die("out of memory");
        for (uint32_t i = 0; i < more; i++) {
            calls[num_ids] = NULL;
            free_ids[num_free++] = ++num_ids;
        }
    }
    uint32_t id = free_ids[--num_free];
    calls[id - 1] = call;
    return id;
}

Call *release_id(uint64_t id) {
    if (!id || id > num_ids || !calls[id - 1]) {
        die("expected an answer to what was asked, got one to request %llu", (unsigned long long)id);
    }
    Call *call = calls[id - 1];
    calls[id - 1] = NULL;
    free_ids[num_free++] = (uint32_t)id;
    return call;
}
