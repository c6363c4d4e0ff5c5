/* The state of a run of sessions.c, and its result. */
#ifndef SESSION_RUN_H
#define SESSION_RUN_H
#include "http2.h"
#include "options.h"
#include "session_messages.h"

typedef struct {
    char id[MAX_ID];
    uint8_t id_size;
    uint32_t lane, next_step;
    uint32_t num_answered; /* messages, in the measured time */
    double wait_ns;        /* of all of them */
    bool has_stepped;
    Bytes *inputs, *answers; /* uint32_t each; NULL where nobody checks */
} Session;

typedef struct {
    Stream *stream;
    Bytes commands; /* of the SessionRequest that this turn sends */
} Lane;

typedef struct {
    uint32_t session, first_step, next_free;
    int64_t intended;
    bool is_open;
} Request;

typedef struct {
    int64_t at;
    uint32_t session;
} Retry;

typedef struct {
    const Options *options;
    Measure measure;
    Session *sessions;
    Lane *lanes;
    Request *requests; /* the id on the wire is the index + 1 */
    uint32_t num_requests, free_request, in_flight, most_in_flight;
    uint32_t *ready; /* sessions that shall be sent, closed loop */
    uint32_t num_ready, num_opened, num_stepped, next_to_open, next_arriving, num_streams_ended;
    Retry *retries;
    uint32_t num_retries;
    int64_t arrival;
    uint64_t random;
    bool measuring, closing;
    uint32_t *tokens, *best;
} SessionRun;

/* Print the JSON object that the run comes to. */
void session_run_print(const SessionRun *run, const Loop *loop);

#endif
