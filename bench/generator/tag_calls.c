/* Tag requests from a file, many over each bidirectional TagStream; those of one turn share a message. */
#include <stdio.h>

#include "call_ids.h"
#include "calls.h"
#include "http2.h"
#include "protobuf.h"
#include "workloads.h"

#define METHOD "/carryover.v1.Carryover/TagStream"

/* Field numbers of protos/carryover/v1/carryover.proto. */
enum { REQUEST_COMMANDS = 1, COMMAND_REQUEST_ID = 1, COMMAND_REQUEST = 2 };
enum { RESPONSE_EVENTS = 1, EVENT_REQUEST_ID = 1, EVENT_RESPONSE = 2, EVENT_ERROR = 3, ERROR_CODE = 1, ERROR_MESSAGE = 3 };
enum { CODE_OK = 0, CODE_RESOURCE_EXHAUSTED = 8 };

typedef struct {
    Stream *stream;
    Bytes commands; /* of the request that this turn sends */
} Lane;

static const Options *options;
static Http2 *connections;
static Lane *lanes;
static long next_lane;

static void take_event(Reader event, int64_t now) {
    Field field, inner;
    uint64_t id = 0;
    Reader response = {0}, message = {0};
    int code = STATUS_ABSENT;
    while (read_field(&event, &field)) {
        if (field.number == EVENT_REQUEST_ID) id = field.value;
        if (field.number == EVENT_RESPONSE) {
            code = CODE_OK;
            response = field.bytes;
        }
        if (field.number != EVENT_ERROR) continue;
        while (read_field(&field.bytes, &inner)) {
            if (inner.number == ERROR_CODE) code = (int)inner.value;
            if (inner.number == ERROR_MESSAGE) message = inner.bytes;
        }
    }
    Call *call = release_id(id);
    char text[200];
    snprintf(text, sizeof text, "%.*s", (int)(message.end - message.at), message.at ? (const char *)message.at : "");
    if (code == CODE_OK) call_part(call, response.at, (size_t)(response.end - response.at), now);
    call_end(call, code, text, now);
}

static void on_message(Stream *stream, const uint8_t *data, size_t size) {
    Reader response = {data, data + size};
    Field field;
    while (read_field(&response, &field)) {
        if (field.number == RESPONSE_EVENTS) take_event(field.bytes, stream->connection->socket.loop->now);
    }
}

static void on_end(Stream *stream, int status, const char *message) {
    (void)stream;
    die("expected the stream to go on, got its end with status %d: %s", status, message);
}

static void connect_all(Loop *loop, const Options *given) {
    options = given;
    connections = allocate((size_t)options->connections, sizeof(Http2));
    lanes = allocate((size_t)options->streams, sizeof(Lane));
    http2_connect_all(connections, options->connections, loop, options->address, on_message, on_end);
    for (long i = 0; i < options->streams; i++) {
        lanes[i].stream = http2_call(&connections[i % options->connections], METHOD, options->metadata, NULL);
    }
}

static bool send_call(Call *call, const uint8_t *data, size_t size) {
    static Bytes command;
    command.size = 0;
    Lane *lane = &lanes[next_lane];
    next_lane = (next_lane + 1) % options->streams;
    put_uint(&command, COMMAND_REQUEST_ID, take_id(call));
    put_bytes(&command, COMMAND_REQUEST, data, size);
    put_bytes(&lane->commands, REQUEST_COMMANDS, command.data, command.size);
    return true;
}

static void flush(void) {
    for (long i = 0; i < options->streams; i++) {
        if (!lanes[i].commands.size) continue;
        http2_send(lanes[i].stream, lanes[i].commands.data, lanes[i].commands.size);
        lanes[i].commands.size = 0;
    }
    for (long i = 0; i < options->connections; i++) http2_flush(&connections[i]);
}

static bool is_refusal(int code) {
    return code == CODE_RESOURCE_EXHAUSTED;
}

static bool is_good(int code) {
    return code == CODE_OK;
}

void run_tags(const Options *given) {
    static const Transport transport = {connect_all, send_call, flush, is_refusal, is_good};
    run_calls(given, &transport);
}
