#include "http2.h"

#include <stdio.h>
#include <string.h>

#include "frames.h"

static Stream *find(Http2 *http2, uint32_t id) {
    Stream *stream = http2->buckets[id / 2 % STREAM_BUCKETS];
    while (stream && stream->id != id) stream = stream->next;
    return stream;
}

static void end(Stream *stream, int status, const char *message) {
    Http2 *http2 = stream->connection;
    Stream **link = &http2->buckets[stream->id / 2 % STREAM_BUCKETS];
    while (*link != stream) link = &(*link)->next;
    *link = stream->next;
    http2->num_streams--;
    if (!stream->end_sent) put32(put_frame(http2, RST_STREAM, 0, stream->id, 4), CANCEL);
    http2->on_end(stream, status, message);
    for (size_t i = 0; stream->dirty && i < http2->num_dirty; i++) {
        if (http2->dirty[i] == stream) http2->dirty[i] = http2->dirty[--http2->num_dirty], stream->dirty = false;
    }
    stream->in.size = stream->out.size = 0;
    stream->next = http2->free;
    http2->free = stream;
}

static void take_messages(Stream *stream, const uint8_t *data, size_t size) {
    bool gathered = stream->in.size > 0;
    if (gathered) {
        bytes_append(&stream->in, data, size);
        data = stream->in.data;
        size = stream->in.size;
    }
    size_t taken = 0;
    while (size - taken >= MESSAGE_HEADER) {
        size_t length = get32(data + taken + 1);
        if (data[taken]) die("expected an uncompressed message, got compression flag %u", data[taken]);
        if (size - taken - MESSAGE_HEADER < length) break;
        stream->connection->on_message(stream, data + taken + MESSAGE_HEADER, length);
        taken += MESSAGE_HEADER + length;
    }
    if (gathered) bytes_drop(&stream->in, taken);
    else bytes_append(&stream->in, data + taken, size - taken);
}

/* Give back to the server what it may send, once half of it is used up. */
static void acknowledge(Http2 *http2, uint32_t id, size_t *unacknowledged, size_t size) {
    *unacknowledged += size;
    if (*unacknowledged < OUR_WINDOW / 2) return;
    put32(put_frame(http2, WINDOW_UPDATE, 0, id, 4), (uint32_t)*unacknowledged);
    *unacknowledged = 0;
}

static void take_headers(Http2 *http2, uint32_t id, const uint8_t *block, size_t size, bool ends) {
    Stream *stream = find(http2, id);
    if (!stream) return; /* of a call that was reset */
    hpack_read(block, size, &stream->answer);
    if (!ends) return;
    Answer *answer = &stream->answer;
    int status = answer->grpc_status;
    if (status == STATUS_ABSENT && answer->http_status != 200) {
        die("expected HTTP status 200, got %d: is %s a gRPC server?", answer->http_status, http2->authority);
    }
    end(stream, status == STATUS_ABSENT ? STATUS_UNREADABLE : status, answer->message);
}

static void take_settings(Http2 *http2, const uint8_t *at, size_t size) {
    for (; size >= 6; at += 6, size -= 6) {
        uint32_t name = (uint32_t)at[0] << 8 | at[1], value = get32(at + 2);
        if (name == MAX_CONCURRENT_STREAMS) http2->max_streams = value;
        if (name == MAX_FRAME_SIZE) http2->max_frame = value;
        if (name == INITIAL_WINDOW_SIZE) {
            int64_t change = (int64_t)value - http2->initial_window;
            http2->initial_window = value;
            for (size_t i = 0; i < STREAM_BUCKETS; i++) {
                for (Stream *stream = http2->buckets[i]; stream; stream = stream->next) {
                    stream->window += change;
                    if (stream->out.size) mark_stream(stream);
                }
            }
        }
    }
    put_frame(http2, SETTINGS, ACK, 0, 0);
    http2->ready = true;
}

static void take_window(Http2 *http2, uint32_t id, uint32_t increment) {
    if (!id) {
        http2->window += increment; /* who waits for it is still marked */
        return;
    }
    Stream *stream = find(http2, id);
    if (!stream) return;
    stream->window += increment;
    if (stream->out.size) mark_stream(stream);
}

static void take_frame(Http2 *http2, uint8_t type, uint8_t flags, uint32_t id, const uint8_t *at, size_t size) {
    size_t whole = size;
    if ((type == DATA || type == HEADERS) && flags & PADDED) {
        if (!size || at[0] >= size) die("the server's frame has more padding than bytes");
        size -= 1u + at[0];
        at++;
    }
    if (type == HEADERS && flags & PRIORITISED) {
        if (size < 5) die("the server's HEADERS frame is too short");
        at += 5;
        size -= 5;
    }
    static const uint8_t least[] = {[RST_STREAM] = 4, [PING] = 8, [GOAWAY] = 8, [WINDOW_UPDATE] = 4, [CONTINUATION] = 0};
    if (type <= CONTINUATION && size < least[type]) die("the server's frame of type %u is too short", type);
    switch (type) {
        case DATA: {
            Stream *stream = find(http2, id);
            acknowledge(http2, 0, &http2->unacknowledged, whole);
            if (!stream) break;
            acknowledge(http2, id, &stream->unacknowledged, whole);
            take_messages(stream, at, size);
            if (flags & END_STREAM) end(stream, STATUS_UNREADABLE, "the stream ended without trailers");
            break;
        }
        case HEADERS:
            if (flags & END_HEADERS) {
                take_headers(http2, id, at, size, flags & END_STREAM);
                break;
            }
            http2->block.size = 0;
            http2->block_stream = id;
            http2->block_ends = flags & END_STREAM;
            bytes_append(&http2->block, at, size);
            break;
        case CONTINUATION:
            if (id != http2->block_stream) die("a CONTINUATION frame of the server continues nothing");
            bytes_append(&http2->block, at, size);
            if (!(flags & END_HEADERS)) break;
            http2->block_stream = 0;
            take_headers(http2, id, http2->block.data, http2->block.size, http2->block_ends);
            break;
        case RST_STREAM: {
            Stream *stream = find(http2, id);
            char message[64];
            snprintf(message, sizeof message, "the server reset the stream: HTTP/2 error %u", get32(at));
            if (stream) end(stream, STATUS_UNREADABLE, message);
            break;
        }
        case SETTINGS:
            if (!(flags & ACK)) take_settings(http2, at, size);
            break;
        case PING:
            if (!(flags & ACK)) memcpy(put_frame(http2, PING, ACK, 0, 8), at, 8);
            break;
        case GOAWAY:
            die("the server says goodbye: HTTP/2 error %u, %.*s", get32(at + 4), (int)(size - 8), (const char *)at + 8);
        case WINDOW_UPDATE: take_window(http2, id, get32(at) & 0x7fffffff); break;
        default: break;
    }
}

static void received(Socket *socket) {
    Http2 *http2 = (Http2 *)socket;
    size_t taken = 0;
    while (socket->in.size - taken >= FRAME_HEADER) {
        const uint8_t *at = socket->in.data + taken;
        size_t size = get32(at) >> 8;
        if (socket->in.size - taken < FRAME_HEADER + size) break;
        take_frame(http2, at[3], at[4], get32(at + 5) & 0x7fffffff, at + FRAME_HEADER, size);
        taken += FRAME_HEADER + size;
    }
    bytes_drop(&socket->in, taken);
}

void http2_connect(Http2 *http2, Loop *loop, const char *address) {
    loop_connect(loop, &http2->socket, address, received);
    http2->authority = address;
    http2->next_id = 1;
    http2->max_streams = UINT32_MAX;
    http2->window = http2->initial_window = DEFAULT_WINDOW;
    http2->max_frame = 16384;
    bytes_append(&http2->socket.out, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    uint8_t *at = put_frame(http2, SETTINGS, 0, 0, 18);
    put_setting(at, HEADER_TABLE_SIZE, 0);
    put_setting(at + 6, ENABLE_PUSH, 0);
    put_setting(at + 12, INITIAL_WINDOW_SIZE, OUR_WINDOW);
    put32(put_frame(http2, WINDOW_UPDATE, 0, 0, 4), OUR_WINDOW - DEFAULT_WINDOW);
}

void http2_connect_all(Http2 *connections, long count, Loop *loop, const char *address,
                       void (*on_message)(Stream *, const uint8_t *, size_t), void (*on_end)(Stream *, int, const char *)) {
    for (long i = 0; i < count; i++) {
        connections[i].on_message = on_message;
        connections[i].on_end = on_end;
        http2_connect(&connections[i], loop, address);
    }
    loop_flush(loop);
    for (long i = 0; i < count; i++) {
        while (!connections[i].ready) loop_wait(loop, INT64_MAX);
    }
}

Stream *http2_call(Http2 *http2, const char *path, const char *const *metadata, void *owner) {
    if (http2->num_streams >= http2->max_streams) {
        die("the server takes %u calls at once on a connection: use more --connections", http2->max_streams);
    }
    if (http2->next_id > 0x7fffffff - 2) die("all stream ids of a connection are used up: use more --connections");
    Stream *stream = http2->free;
    if (stream) http2->free = stream->next;
    else stream = allocate(1, sizeof *stream);
    Bytes in = stream->in, out = stream->out;
    *stream = (Stream){.connection = http2, .id = http2->next_id, .window = http2->initial_window, .in = in, .out = out};
    stream->answer = (Answer){STATUS_ABSENT, STATUS_ABSENT, ""};
    stream->owner = owner;
    http2->next_id += 2;
    http2->num_streams++;
    Stream **bucket = &http2->buckets[stream->id / 2 % STREAM_BUCKETS];
    stream->next = *bucket;
    *bucket = stream;
    static Bytes block;
    block.size = 0;
    hpack_request(&block, http2->authority, path, metadata);
    memcpy(put_frame(http2, HEADERS, END_HEADERS, stream->id, block.size), block.data, block.size);
    return stream;
}
