/* gRPC over HTTP/2 cleartext, the client's side, as little as is needed. Source: RFC 9113 and
   https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md */
#ifndef HTTP2_H
#define HTTP2_H
#include "hpack.h"
#include "loop.h"

typedef struct Http2 Http2;
typedef struct Stream Stream;

struct Stream {
    Http2 *connection;
    uint32_t id;
    int64_t window; /* bytes that the server still takes */
    size_t unacknowledged;
    Bytes in, out; /* half a message that arrived; messages that were not put into frames yet */
    bool dirty, half_closed, end_sent;
    Answer answer;
    void *owner;
    Stream *next; /* in its bucket, or of the free ones */
};

enum { STREAM_BUCKETS = 1024 };

struct Http2 {
    Socket socket; /* first: a Socket * is an Http2 * */
    const char *authority;
    bool ready; /* the server's settings have come */
    uint32_t next_id, num_streams, max_streams;
    int64_t window, initial_window;
    size_t max_frame, unacknowledged;
    Bytes block;           /* a header block in several frames */
    uint32_t block_stream; /* whose it is, or 0 */
    bool block_ends;
    Stream *buckets[STREAM_BUCKETS], *free;
    Stream **dirty;
    size_t num_dirty, max_dirty;
    void (*on_message)(Stream *stream, const uint8_t *data, size_t size);
    /* The stream is over and forgotten when this returns; `status` is a google.rpc.Code or STATUS_UNREADABLE. */
    void (*on_end)(Stream *stream, int status, const char *message);
};

/* Connect; calls may be made once `ready`. */
void http2_connect(Http2 *http2, Loop *loop, const char *address);

/* Connect several and wait until all are ready. */
void http2_connect_all(Http2 *connections, long count, Loop *loop, const char *address,
                       void (*on_message)(Stream *, const uint8_t *, size_t), void (*on_end)(Stream *, int, const char *));

/* Begin a call: its headers are sent with the next flush. */
Stream *http2_call(Http2 *http2, const char *path, const char *const *metadata, void *owner);

/* Queue one gRPC message, uncompressed. */
void http2_send(Stream *stream, const void *message, size_t size);

/* Nothing more will be sent on the stream. */
void http2_half_close(Stream *stream);

/* Put what was queued into frames, as far as the server's windows allow. */
void http2_flush(Http2 *http2);

#endif
