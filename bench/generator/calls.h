/* Calls whose messages come from a file, whatever carries them.

   The file of messages: each its length as a 32-bit little-endian number, then its bytes. The file of responses: of each
   call five such numbers (call, caller, message, code, parts), then each part with its length as above. */
#ifndef CALLS_H
#define CALLS_H
#include "loop.h"
#include "options.h"

typedef struct Call Call;

struct Call {
    uint32_t number, caller, message, num_parts;
    int64_t intended, first; /* ns; when the first part came, or 0 */
    bool kept;
    Bytes parts; /* as in the file of responses */
    Call *next;  /* of the free ones */
};

typedef struct {
    void (*connect)(Loop *loop, const Options *options);
    /* Send one call; `call` names it in call_part and call_end. False: nothing is free for it, ask again later. */
    bool (*send)(Call *call, const uint8_t *data, size_t size);
    void (*flush)(void);
    bool (*refused)(int code);
    bool (*good)(int code);
} Transport;

/* A part of the answer, or all of it. */
void call_part(Call *call, const uint8_t *data, size_t size, int64_t now);

/* The call is over; forgets it. */
void call_end(Call *call, int code, const char *text, int64_t now);

/* Run the whole workload and print its result. */
void run_calls(const Options *options, const Transport *transport);

#endif
