/* HTTP/1.1 POST over kept connections, one for each caller. Source: RFC 9112 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "calls.h"
#include "workloads.h"

typedef struct {
    Socket socket; /* first: a Socket * is a Connection * */
    Call *call;    /* whose answer comes next, or NULL */
    Bytes body;    /* of a chunked answer, as far as it is here */
} Connection;

enum { INCOMPLETE = -1 };

static const Options *options;
static Connection *connections;

/* The end of the line at `at`, or NULL when it is not here yet. */
static const char *line_end(const char *at, const char *end) {
    const char *found = at;
    while ((found = memchr(found, '\r', (size_t)(end - found)))) {
        if (found + 1 == end) return NULL;
        if (found[1] == '\n') return found;
        found++;
    }
    return NULL;
}

/* The value of a header within [at, end), or NULL. */
static const char *header(const char *at, const char *end, const char *name) {
    size_t size = strlen(name);
    for (const char *line; (line = line_end(at, end)); at = line + 2) {
        if ((size_t)(line - at) <= size || strncasecmp(at, name, size) || at[size] != ':') continue;
        for (at += size + 1; *at == ' '; at++) continue;
        return at;
    }
    return NULL;
}

/* Join the chunks from `at` on in connection->body; the bytes that they take, or INCOMPLETE. */
static ssize_t read_chunks(Connection *connection, const char *at, const char *end) {
    const char *begin = at, *line;
    connection->body.size = 0;
    while ((line = line_end(at, end))) {
        char *digits_end;
        size_t size = strtoul(at, &digits_end, 16);
        if (digits_end == at) die("expected the size of a chunk, got %.*s", (int)(line - at), at);
        at = line + 2;
        if ((size_t)(end - at) < size + 2) return INCOMPLETE;
        bytes_append(&connection->body, at, size);
        at += size;
        if (size) {
            at += 2;
            continue;
        }
        while ((line = line_end(at, end)) && line != at) at = line + 2; /* trailers */
        return line ? line + 2 - begin : INCOMPLETE;
    }
    return INCOMPLETE;
}

/* Take one whole answer from the front of what arrived; the bytes that it takes, or INCOMPLETE. */
static ssize_t read_answer(Connection *connection, int64_t now) {
    const Bytes *in = &connection->socket.in;
    const char *begin = (const char *)in->data, *end = begin + in->size, *at = begin, *line;
    while ((line = line_end(at, end)) && line != at) at = line + 2;
    if (!line) return INCOMPLETE;
    if (!connection->call) die("expected nothing, got an answer that nobody asked for");
    if (strncmp(begin, "HTTP/1.1 ", 9)) die("expected an HTTP/1.1 answer, got %.*s", (int)(line_end(begin, end) - begin), begin);
    int code = atoi(begin + 9);
    const char *content = line + 2, *length = header(begin, line, "content-length"), *data = content;
    const char *coding = header(begin, line, "transfer-encoding"), *closes = header(begin, line, "connection");
    ssize_t size;
    if (coding && !strncasecmp(coding, "chunked", 7)) {
        ssize_t taken = read_chunks(connection, content, end);
        if (taken == INCOMPLETE) return INCOMPLETE;
        data = (const char *)connection->body.data;
        size = (ssize_t)connection->body.size;
        content += taken;
    } else {
        if (!length) die("expected a content-length or chunks, got neither");
        size = (ssize_t)strtoul(length, NULL, 10);
        if (end - content < size) return INCOMPLETE;
        content += size;
    }
    if (closes && !strncasecmp(closes, "close", 5)) die("expected a connection that is kept, got HTTP %d and its end", code);
    char text[200];
    snprintf(text, sizeof text, "HTTP %d: %.*s", code, (int)(size < 160 ? size : 160), data);
    Call *call = connection->call;
    connection->call = NULL;
    call_part(call, (const uint8_t *)data, (size_t)size, now);
    call_end(call, code, text, now);
    return content - begin;
}

static void received(Socket *socket) {
    ssize_t taken;
    while (socket->in.size && (taken = read_answer((Connection *)socket, socket->loop->now)) != INCOMPLETE) {
        bytes_drop(&socket->in, (size_t)taken);
    }
}

static void connect_all(Loop *loop, const Options *given) {
    options = given;
    if (!options->path) die("--path: expected /path");
    connections = allocate((size_t)options->callers, sizeof(Connection));
    for (long i = 0; i < options->callers; i++) loop_connect(loop, &connections[i].socket, options->address, received);
}

static bool send_call(Call *call, const uint8_t *data, size_t size) {
    Connection *connection = &connections[call->caller];
    for (long i = 0; connection->call && i < options->callers; i++) connection = &connections[i];
    if (connection->call) return false;
    char head[1024];
    int length = snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n",
                          options->path, options->address, options->content_type, size);
    if (length >= (int)sizeof head) die("--path, --address and --content-type are too long");
    connection->call = call;
    bytes_append(&connection->socket.out, head, (size_t)length);
    for (const char *const *field = options->metadata; *field; field++) {
        bytes_append(&connection->socket.out, *field, strlen(*field));
        bytes_append(&connection->socket.out, "\r\n", 2);
    }
    bytes_append(&connection->socket.out, "\r\n", 2);
    bytes_append(&connection->socket.out, data, size);
    loop_mark(&connection->socket);
    return true;
}

static void flush(void) {}

static bool is_refusal(int code) {
    return code == 429 || code == 503;
}

static bool is_good(int code) {
    return code == 200;
}

void run_http(const Options *given) {
    static const Transport transport = {connect_all, send_call, flush, is_refusal, is_good};
    run_calls(given, &transport);
}
