/* Frames on their way out. */
#include "frames.h"

#include <stdlib.h>
#include <string.h>

uint32_t get32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

void put32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (24 - 8 * i));
}

uint8_t *put_frame(Http2 *http2, uint8_t type, uint8_t flags, uint32_t stream, size_t size) {
    uint8_t *at = bytes_extend(&http2->socket.out, FRAME_HEADER + size);
    put32(at, (uint32_t)size << 8 | type);
    at[4] = flags;
    put32(at + 5, stream);
    loop_mark(&http2->socket);
    return at + FRAME_HEADER;
}

void put_setting(uint8_t *at, uint16_t name, uint32_t value) {
    at[0] = (uint8_t)(name >> 8);
    at[1] = (uint8_t)name;
    put32(at + 2, value);
}

void mark_stream(Stream *stream) {
    Http2 *http2 = stream->connection;
    if (stream->dirty) return;
    if (http2->num_dirty == http2->max_dirty) {
        http2->max_dirty = http2->max_dirty ? 2 * http2->max_dirty : 64;
        http2->dirty = realloc(http2->dirty, http2->max_dirty * sizeof(Stream *));
        if (!http2->dirty) die("out of memory");
    }
    stream->dirty = true;
    http2->dirty[http2->num_dirty++] = stream;
}

void http2_send(Stream *stream, const void *message, size_t size) {
    uint8_t *at = bytes_extend(&stream->out, MESSAGE_HEADER + size);
    at[0] = 0;
    put32(at + 1, (uint32_t)size);
    memcpy(at + MESSAGE_HEADER, message, size);
    mark_stream(stream);
}

void http2_half_close(Stream *stream) {
    stream->half_closed = true;
    mark_stream(stream);
}

/* Whether the stream is done for now: nothing is left, or only its own window is in the way. */
static bool flush_stream(Http2 *http2, Stream *stream) {
    size_t sent = 0;
    while (sent < stream->out.size && stream->window > 0 && http2->window > 0) {
        size_t size = stream->out.size - sent;
        if (size > http2->max_frame) size = http2->max_frame;
        if ((int64_t)size > stream->window) size = (size_t)stream->window;
        if ((int64_t)size > http2->window) size = (size_t)http2->window;
        bool last = stream->half_closed && sent + size == stream->out.size;
        memcpy(put_frame(http2, DATA, last ? END_STREAM : 0, stream->id, size), stream->out.data + sent, size);
        stream->end_sent = last;
        stream->window -= (int64_t)size;
        http2->window -= (int64_t)size;
        sent += size;
    }
    bytes_drop(&stream->out, sent);
    if (stream->half_closed && !stream->end_sent && !stream->out.size) {
        put_frame(http2, DATA, END_STREAM, stream->id, 0);
        stream->end_sent = true;
    }
    return !stream->out.size || stream->window <= 0;
}

void http2_flush(Http2 *http2) {
    size_t kept = 0;
    for (size_t i = 0; i < http2->num_dirty; i++) {
        Stream *stream = http2->dirty[i];
        if (flush_stream(http2, stream)) stream->dirty = false;
        else http2->dirty[kept++] = stream;
    }
    http2->num_dirty = kept;
}
