/* Unary and server-streaming gRPC calls: a stream each. */
#include "calls.h"
#include "http2.h"
#include "workloads.h"

enum { CODE_OK = 0, CODE_RESOURCE_EXHAUSTED = 8 };

static const Options *options;
static Http2 *connections;
static long next_connection;

static void on_message(Stream *stream, const uint8_t *data, size_t size) {
    call_part(stream->owner, data, size, stream->connection->socket.loop->now);
}

static void on_end(Stream *stream, int status, const char *message) {
    call_end(stream->owner, status, message, stream->connection->socket.loop->now);
}

static void connect_all(Loop *loop, const Options *given) {
    options = given;
    if (!options->method) die("--method: expected /package.Service/Method");
    connections = allocate((size_t)options->connections, sizeof(Http2));
    http2_connect_all(connections, options->connections, loop, options->address, on_message, on_end);
}

static bool send_call(Call *call, const uint8_t *data, size_t size) {
    Http2 *connection = &connections[next_connection];
    next_connection = (next_connection + 1) % options->connections;
    Stream *stream = http2_call(connection, options->method, options->metadata, call);
    http2_send(stream, data, size);
    http2_half_close(stream);
    return true;
}

static void flush(void) {
    for (long i = 0; i < options->connections; i++) http2_flush(&connections[i]);
}

static bool is_refusal(int code) {
    return code == CODE_RESOURCE_EXHAUSTED;
}

static bool is_good(int code) {
    return code == CODE_OK;
}

void run_grpc(const Options *given) {
    static const Transport transport = {connect_all, send_call, flush, is_refusal, is_good};
    run_calls(given, &transport);
}
