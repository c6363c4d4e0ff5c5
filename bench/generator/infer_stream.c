/* Requests of the Open Inference Protocol from a file, many over each bidirectional ModelStreamInfer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call_ids.h"
#include "calls.h"
#include "http2.h"
#include "protobuf.h"
#include "workloads.h"

#define METHOD "/inference.GRPCInferenceService/ModelStreamInfer"

/* Field numbers of protos/inference/grpc_service.proto. */
enum { REQUEST_ID = 3, STREAM_ERROR = 1, STREAM_RESPONSE = 2, RESPONSE_ID = 3 };
enum { CODE_OK = 0, CODE_UNKNOWN = 2, CODE_UNAVAILABLE = 14 };
#define FULL "Exceeds maximum queue size" /* as the protocol's servers say it */

static const Options *options;
static Http2 *connections;
static Stream **streams;

static unsigned long read_id(Reader response) {
    Field field;
    char text[16] = "";
    while (read_field(&response, &field)) {
        size_t size = (size_t)(field.bytes.end - field.bytes.at);
        if (field.number == RESPONSE_ID && field.type == DELIMITED && size < sizeof text) memcpy(text, field.bytes.at, size);
    }
    return strtoul(text, NULL, 10);
}

static void on_message(Stream *stream, const uint8_t *data, size_t size) {
    Reader reader = {data, data + size};
    Field field;
    Reader response = {0}, message = {0};
    while (read_field(&reader, &field)) {
        if (field.number == STREAM_ERROR) message = field.bytes;
        if (field.number == STREAM_RESPONSE) response = field.bytes;
    }
    Call *call = release_id(read_id(response));
    char text[200];
    snprintf(text, sizeof text, "%.*s", (int)(message.end - message.at), message.at ? (const char *)message.at : "");
    int code = message.at == message.end ? CODE_OK : strstr(text, FULL) ? CODE_UNAVAILABLE : CODE_UNKNOWN;
    int64_t now = stream->connection->socket.loop->now;
    if (code == CODE_OK) call_part(call, response.at, (size_t)(response.end - response.at), now);
    call_end(call, code, text, now);
}

static void on_end(Stream *stream, int status, const char *message) {
    (void)stream;
    die("expected the stream to go on, got its end with status %d: %s", status, message);
}

static void connect_all(Loop *loop, const Options *given) {
    options = given;
    connections = allocate((size_t)options->connections, sizeof(Http2));
    streams = allocate((size_t)options->streams, sizeof(Stream *));
    http2_connect_all(connections, options->connections, loop, options->address, on_message, on_end);
    for (long i = 0; i < options->streams; i++) {
        streams[i] = http2_call(&connections[i % options->connections], METHOD, options->metadata, NULL);
    }
}

/* A caller keeps to one stream: there its steps stay in order. */
static bool send_call(Call *call, const uint8_t *data, size_t size) {
    static Bytes message;
    char id[16];
    message.size = 0;
    bytes_append(&message, data, size);
    put_bytes(&message, REQUEST_ID, id, (size_t)snprintf(id, sizeof id, "%u", take_id(call)));
    http2_send(streams[call->caller % (uint32_t)options->streams], message.data, message.size);
    return true;
}

static void flush(void) {
    for (long i = 0; i < options->connections; i++) http2_flush(&connections[i]);
}

static bool is_refusal(int code) {
    return code == CODE_UNAVAILABLE;
}

static bool is_good(int code) {
    return code == CODE_OK;
}

void run_infer_stream(const Options *given) {
    static const Transport transport = {connect_all, send_call, flush, is_refusal, is_good};
    run_calls(given, &transport);
}
