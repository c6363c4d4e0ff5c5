/* What http2.c and its frames are made of. Source: RFC 9113, sections 4 and 6 */
#ifndef FRAMES_H
#define FRAMES_H
#include "http2.h"

enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8, PRIORITISED = 32 };
enum { HEADER_TABLE_SIZE = 1, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE };
enum { CANCEL = 8 }; /* an error code */
enum { FRAME_HEADER = 9, MESSAGE_HEADER = 5, DEFAULT_WINDOW = 65535, OUR_WINDOW = 1 << 30 };

uint32_t get32(const uint8_t *at); /* big-endian */
void put32(uint8_t *at, uint32_t value);
void put_setting(uint8_t *at, uint16_t name, uint32_t value);

/* Append a frame's header to what will be sent and return where its payload goes. */
uint8_t *put_frame(Http2 *http2, uint8_t type, uint8_t flags, uint32_t stream, size_t size);

/* Have the next http2_flush look at the stream. */
void mark_stream(Stream *stream);

#endif
