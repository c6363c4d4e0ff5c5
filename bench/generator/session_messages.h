/* The messages of carryover.v1.Carryover/Session that the generator sends and understands. */
#ifndef SESSION_MESSAGES_H
#define SESSION_MESSAGES_H
#include "protobuf.h"

enum { MAX_ID = 128 };

typedef enum { EVENT_OTHER, EVENT_OPENED, EVENT_STEPPED, EVENT_ERROR, EVENT_EXPIRED } EventKind;

typedef struct {
    uint64_t request_id;
    EventKind kind;
    Reader session_id;
    uint64_t num_outputs; /* of stepped */
    Reader stepped;       /* for read_outputs */
    int code;             /* of error */
    Reader reason, message;
    float retry_after_s;
    bool session_ended;
} SessionEvent;

/* Append a command to the `commands` of a SessionRequest. */
void put_open(Bytes *request, uint64_t request_id, const char *model);
void put_step(Bytes *request, uint64_t request_id, const char *session_id, size_t id_size, const uint32_t *tokens, size_t num_tokens);

/* Read the next event of a SessionResponse; false at the end. */
bool read_event(Reader *response, SessionEvent *event);

/* The best token of each output of a stepped event; `best` has room for `num_outputs`. */
void read_outputs(const SessionEvent *event, uint32_t *best);

#endif
