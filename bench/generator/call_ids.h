/* The numbers that calls go by on streams that carry many of them: from 1 on, each used again once it is answered. */
#ifndef CALL_IDS_H
#define CALL_IDS_H
#include "calls.h"

/* A number for a call that is to be sent. */
uint32_t take_id(Call *call);

/* The call that an answer belongs to; its number is free again. Dies where no call in flight has it. */
Call *release_id(uint64_t id);

#endif
