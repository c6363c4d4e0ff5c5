/* One thread, epoll, and sockets that are written once a turn. */
#ifndef LOOP_H
#define LOOP_H
#include <stdbool.h>

#include "bytes.h"

typedef struct Loop Loop;
typedef struct Socket Socket;

struct Socket {
    int fd;
    Loop *loop;
    Bytes in, out;
    bool dirty, waits; /* in the loop's list; waiting for room in the kernel's buffer */
    /* What arrived is at the end of `in`; takes from its front what it understood. */
    void (*received)(Socket *socket);
};

struct Loop {
    int epoll, timer;
    int64_t now; /* ns, monotonic, as of the last read */
    Socket **dirty;
    size_t num_dirty, max_dirty;
    uint64_t num_reads, num_sends;
};

int64_t clock_ns(void);

void loop_open(Loop *loop);

/* Connect a socket to host:port. */
void loop_connect(Loop *loop, Socket *socket, const char *address, void (*received)(Socket *));

/* Have the socket's `out` sent by the next loop_flush. */
void loop_mark(Socket *socket);

/* Sleep until something arrives or `wake_ns` has come; then read everything. */
void loop_wait(Loop *loop, int64_t wake_ns);

/* Send what has gathered, each socket in one call. */
void loop_flush(Loop *loop);

#endif
