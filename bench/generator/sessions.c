/* Sessions that are stepped: one message in flight each (closed loop), or as messages arrive (open loop).

   The course of a run: connect, open all sessions, warm up, measure, wait for what is in flight, half-close. */
#include <stdlib.h>
#include <string.h>

#include "session_run.h"
#include "workloads.h"

#define METHOD "/carryover.v1.Carryover/Session"
enum { CODE_RESOURCE_EXHAUSTED = 8, NOTHING = UINT32_MAX };

static SessionRun run; /* the callbacks' */

static uint32_t token(uint32_t session, uint32_t step) { /* as bench/tokens.py */
    uint32_t mixed = session * 2654435761u + step * 40503u + 12345u;
    uint32_t first = (uint32_t)run.options->first_token;
    return first + mixed % ((uint32_t)run.options->vocabulary - first);
}

static uint32_t take_request(uint32_t session, int64_t intended, bool is_open) {
    if (run.free_request == NOTHING) {
        uint32_t more = run.num_requests ? run.num_requests : 64;
        run.requests = realloc(run.requests, (run.num_requests + more) * sizeof(Request));
        if (!run.requests) die("out of memory");
        for (uint32_t i = 0; i < more; i++) {
            run.requests[run.num_requests + i] = (Request){.session = NOTHING, .next_free = run.free_request};
            run.free_request = run.num_requests + i;
        }
        run.num_requests += more;
    }
    uint32_t index = run.free_request;
    run.free_request = run.requests[index].next_free;
    run.requests[index] = (Request){session, run.sessions[session].next_step, NOTHING, intended, is_open};
    if (++run.in_flight > run.most_in_flight) run.most_in_flight = run.in_flight;
    return index;
}

static void send_now(Lane *lane) {
    if (!lane->commands.size) return;
    http2_send(lane->stream, lane->commands.data, lane->commands.size);
    lane->commands.size = 0;
}

/* Opens of one turn share a message whatever --coalesce says: they are not measured. */
static void send_open(uint32_t index, int64_t now) {
    Lane *lane = &run.lanes[run.sessions[index].lane];
    put_open(&lane->commands, take_request(index, now, true) + 1, run.options->model);
}

static void send_step(uint32_t index, int64_t intended) {
    Session *session = &run.sessions[index];
    Lane *lane = &run.lanes[session->lane];
    size_t steps = (size_t)run.options->steps;
    uint32_t request = take_request(index, intended, false);
    for (size_t i = 0; i < steps; i++) run.tokens[i] = token(index, session->next_step + (uint32_t)i);
    session->next_step += (uint32_t)steps;
    put_step(&lane->commands, request + 1, session->id, session->id_size, run.tokens, steps);
    measure_offered(&run.measure, intended);
    if (!run.options->coalesce) send_now(lane);
}

static void stepped(const SessionEvent *event, const Request *request, int64_t now) {
    uint32_t steps = (uint32_t)run.options->steps;
    Session *session = &run.sessions[request->session];
    if (event->num_outputs != steps) die("expected %u outputs, got %llu", steps, (unsigned long long)event->num_outputs);
    if (session->answers && session->answers->size < (size_t)run.options->check_steps * sizeof(uint32_t)) {
        for (uint32_t i = 0; i < steps; i++) run.tokens[i] = token(request->session, request->first_step + i);
        read_outputs(event, run.best);
        bytes_append(session->inputs, run.tokens, steps * sizeof(uint32_t));
        bytes_append(session->answers, run.best, steps * sizeof(uint32_t));
    }
    if (!session->has_stepped) run.num_stepped++;
    session->has_stepped = true;
    measure_answered(&run.measure, request->intended, now, steps, 0);
    if (run.measure.current >= 0 && run.measure.current < run.measure.num_phases) {
        session->num_answered++;
        session->wait_ns += (double)(now - request->intended);
    }
    if (!run.measure.open_loop) run.ready[run.num_ready++] = request->session;
}

static void refused(const SessionEvent *event, const Request *request, int64_t now) {
    char text[512];
    snprintf(text, sizeof text, "code %d %.*s: %.*s", event->code, (int)(event->reason.end - event->reason.at),
             (const char *)event->reason.at, (int)(event->message.end - event->message.at), (const char *)event->message.at);
    bool full = event->code == CODE_RESOURCE_EXHAUSTED;
    if ((!full && (request->is_open || !run.measure.open_loop)) || event->session_ended) die("expected an answer, got %s", text);
    if (!request->is_open && full) measure_refused(&run.measure, request->intended, now);
    if (!full) measure_failed(&run.measure, request->intended, now, event->code, text);
    if (!request->is_open && run.measure.open_loop) return; /* it is lost, and the next one follows what was taken */
    if (!request->is_open) run.sessions[request->session].next_step = request->first_step;
    double after_s = event->retry_after_s > 0.001f ? event->retry_after_s : 0.001;
    run.retries[run.num_retries++] = (Retry){now + (int64_t)(after_s * 1e9), request->session};
}

static void take_event(const SessionEvent *event, const Stream *stream, int64_t now) {
    if (event->kind == EVENT_EXPIRED) die("expected sessions to last, got one that expired");
    uint64_t index = event->request_id - 1;
    if (index >= run.num_requests || run.requests[index].session == NOTHING) {
        die("expected an answer to what was asked, got one to request %llu", (unsigned long long)event->request_id);
    }
    Request request = run.requests[index];
    Session *session = &run.sessions[request.session];
    if (run.lanes[session->lane].stream != stream) die("an answer came on the stream of somebody else");
    if (event->kind == EVENT_OTHER || (event->kind == EVENT_OPENED) > request.is_open) die("an answer is of the wrong kind");
    size_t size = (size_t)(event->session_id.end - event->session_id.at);
    run.requests[index].session = NOTHING;
    run.requests[index].next_free = run.free_request;
    run.free_request = (uint32_t)index;
    run.in_flight--;
    if (event->kind == EVENT_ERROR) {
        refused(event, &request, now);
    } else if (request.is_open) {
        if (!size || size > MAX_ID) die("expected a session id of 1 to %d bytes, got %zu", MAX_ID, size);
        memcpy(session->id, event->session_id.at, size);
        session->id_size = (uint8_t)size;
        run.num_opened++;
    } else {
        if (size != session->id_size || memcmp(session->id, event->session_id.at, size)) die("an answer names another session");
        stepped(event, &request, now);
    }
}

static void on_message(Stream *stream, const uint8_t *data, size_t size) {
    Reader response = {data, data + size};
    SessionEvent event;
    while (read_event(&response, &event)) take_event(&event, stream, stream->connection->socket.loop->now);
}

static void on_end(Stream *stream, int status, const char *message) {
    (void)stream;
    if (!run.closing || status) die("expected the stream to go on, got its end with status %d: %s", status, message);
    run.num_streams_ended++;
}

static void retry(int64_t now) {
    for (uint32_t i = 0; i < run.num_retries;) {
        if (run.retries[i].at > now) {
            i++;
            continue;
        }
        uint32_t index = run.retries[i].session;
        run.retries[i] = run.retries[--run.num_retries];
        if (run.sessions[index].id_size) run.ready[run.num_ready++] = index;
        else send_open(index, now);
    }
}

/* Send what is due; when to wake up at the latest. */
static int64_t turn(int64_t now) {
    uint32_t sessions = (uint32_t)run.options->sessions;
    while (run.next_to_open < sessions && run.in_flight < (uint32_t)run.options->opening) send_open(run.next_to_open++, now);
    retry(now);
    if (run.num_opened == sessions && !run.measuring) {
        run.measuring = true;
        measure_begin(&run.measure, now);
        run.arrival = measure_next_arrival(&run.measure, 0, &run.random);
        for (uint32_t i = 0; !run.measure.open_loop && i < sessions; i++) run.ready[run.num_ready++] = i;
    }
    int64_t wake = run.measuring ? measure_boundary(&run.measure) : INT64_MAX;
    for (uint32_t i = 0; i < run.num_retries; i++) wake = run.retries[i].at < wake ? run.retries[i].at : wake;
    if (!run.measuring) return wake;
    bool over = measure_turn(&run.measure, now);
    for (uint32_t i = 0; i < run.num_ready && !over; i++) send_step(run.ready[i], now);
    run.num_ready = 0;
    while (run.arrival <= now) { /* also those that are late for the end */
        send_step(run.next_arriving, run.arrival);
        run.next_arriving = (run.next_arriving + 1) % sessions;
        run.arrival = measure_next_arrival(&run.measure, run.arrival, &run.random);
    }
    return run.arrival < wake ? run.arrival : wake;
}

static void flush(Loop *loop, Http2 *connections) {
    for (long i = 0; i < run.options->streams; i++) send_now(&run.lanes[i]);
    for (long i = 0; i < run.options->connections; i++) http2_flush(&connections[i]);
    loop_flush(loop);
}

static void connect_all(Loop *loop, Http2 *connections) {
    loop_open(loop);
    http2_connect_all(connections, run.options->connections, loop, run.options->address, on_message, on_end);
    for (long i = 0; i < run.options->streams; i++) {
        Http2 *connection = &connections[i % run.options->connections];
        run.lanes[i].stream = http2_call(connection, METHOD, run.options->metadata, NULL);
    }
}

static void prepare(const Options *options) {
    uint32_t sessions = (uint32_t)options->sessions;
    if (options->vocabulary <= options->first_token) die("--vocabulary: expected more than --first-token");
    if (options->streams > options->sessions) die("--streams: expected at most one a session");
    run = (SessionRun){.options = options, .measure = options_measure(options), .free_request = NOTHING};
    run.random = (uint64_t)options->seed * 0x9E3779B97F4A7C15ULL | 1;
    run.sessions = allocate(sessions, sizeof(Session));
    run.lanes = allocate((size_t)options->streams, sizeof(Lane));
    run.ready = allocate(sessions, sizeof(uint32_t));
    run.retries = allocate(sessions, sizeof(Retry));
    run.tokens = allocate((size_t)options->steps, sizeof(uint32_t));
    run.best = allocate((size_t)options->steps, sizeof(uint32_t));
    for (uint32_t i = 0; i < sessions; i++) run.sessions[i].lane = i % (uint32_t)options->streams;
    long checked = options->check < options->sessions ? options->check : options->sessions;
    for (long i = 0; i < checked; i++) { /* spread, the first and the last among them */
        Session *session = &run.sessions[checked > 1 ? i * (options->sessions - 1) / (checked - 1) : 0];
        session->inputs = allocate(1, sizeof(Bytes));
        session->answers = allocate(1, sizeof(Bytes));
    }
}

void run_sessions(const Options *options) {
    prepare(options);
    Http2 *connections = allocate((size_t)options->connections, sizeof(Http2));
    Loop loop = {0};
    connect_all(&loop, connections);
    int64_t deadline = INT64_MAX; /* of what is in flight when time is up */
    while (!run.measuring || run.measure.current < run.measure.num_phases || (run.in_flight && loop.now < deadline)) {
        int64_t wake = turn(loop.now);
        flush(&loop, connections);
        if (run.measuring && run.measure.current == run.measure.num_phases) {
            if (deadline == INT64_MAX) deadline = loop.now + (int64_t)(options->drain_s * 1e9);
            if (!run.in_flight) break;
            wake = deadline;
        }
        loop_wait(&loop, wake);
    }
    if (options->hold) { /* the sessions stay open until somebody says to go on */
        fputs("holding\n", stderr);
        while (getchar() != EOF) continue;
    }
    run.closing = true;
    for (long i = 0; i < options->streams; i++) http2_half_close(run.lanes[i].stream);
    flush(&loop, connections);
    deadline = loop.now + (int64_t)(options->drain_s * 1e9);
    while (run.num_streams_ended < (uint32_t)options->streams && loop.now < deadline) loop_wait(&loop, deadline);
    session_run_print(&run, &loop);
}
