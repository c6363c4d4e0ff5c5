#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 256 << 10, MAX_EVENTS = 256 };

int64_t clock_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void watch(const Loop *loop, int operation, int fd, uint32_t events, void *owner) {
    struct epoll_event event = {.events = events, .data.ptr = owner};
    if (epoll_ctl(loop->epoll, operation, fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

void loop_open(Loop *loop) {
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (loop->epoll < 0 || loop->timer < 0) die("epoll or timerfd: %s", strerror(errno));
    watch(loop, EPOLL_CTL_ADD, loop->timer, EPOLLIN, NULL);
    loop->now = clock_ns();
}

void loop_connect(Loop *loop, Socket *socket_, const char *address, void (*received)(Socket *)) {
    const char *colon = strrchr(address, ':');
    char host[256];
    if (!colon || (size_t)(colon - address) >= sizeof host) die("expected --address host:port, got %s", address);
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = 0;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int failure = getaddrinfo(host, colon + 1, &hints, &found);
    if (failure) die("%s: %s", address, gai_strerror(failure));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen)) die("connect to %s: %s", address, strerror(errno));
    freeaddrinfo(found);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)) die("fcntl: %s", strerror(errno));
    socket_->fd = fd;
    socket_->loop = loop;
    socket_->received = received;
    watch(loop, EPOLL_CTL_ADD, fd, EPOLLIN, socket_);
}

void loop_mark(Socket *socket) {
    Loop *loop = socket->loop;
    if (socket->dirty) return;
    if (loop->num_dirty == loop->max_dirty) {
        loop->max_dirty = loop->max_dirty ? 2 * loop->max_dirty : 64;
        loop->dirty = realloc(loop->dirty, loop->max_dirty * sizeof(Socket *));
        if (!loop->dirty) die("out of memory");
    }
    socket->dirty = true;
    loop->dirty[loop->num_dirty++] = socket;
}

static void receive(Loop *loop, Socket *socket) {
    static uint8_t chunk[CHUNK];
    for (;;) {
        ssize_t size = recv(socket->fd, chunk, CHUNK, 0);
        if (size == 0) die("the server closed the connection");
        if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (size < 0) die("recv: %s", strerror(errno));
        bytes_append(&socket->in, chunk, (size_t)size);
        loop->num_reads++;
        loop->now = clock_ns();
        socket->received(socket);
        if (size < CHUNK) return; /* epoll tells of the rest */
    }
}

void loop_wait(Loop *loop, int64_t wake_ns) {
    struct epoll_event events[MAX_EVENTS];
    int timeout = -1;
    if (wake_ns <= clock_ns()) {
        timeout = 0;
    } else {
        struct itimerspec when = {.it_value = {wake_ns / 1000000000, wake_ns % 1000000000}};
        timerfd_settime(loop->timer, TFD_TIMER_ABSTIME, &when, NULL);
    }
    int count = epoll_wait(loop->epoll, events, MAX_EVENTS, timeout);
    if (count < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
    loop->now = clock_ns();
    for (int i = 0; i < count; i++) {
        Socket *socket = events[i].data.ptr;
        if (!socket) {
            uint64_t expirations;
            if (read(loop->timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) die("timerfd: %s", strerror(errno));
            continue;
        }
        if (events[i].events & EPOLLOUT) {
            socket->waits = false;
            watch(loop, EPOLL_CTL_MOD, socket->fd, EPOLLIN, socket);
            loop_mark(socket);
        }
        if (events[i].events & ~(uint32_t)EPOLLOUT) receive(loop, socket);
    }
}

void loop_flush(Loop *loop) {
    for (size_t i = 0; i < loop->num_dirty; i++) {
        Socket *socket = loop->dirty[i];
        socket->dirty = false;
        if (socket->waits || !socket->out.size) continue;
        ssize_t sent = send(socket->fd, socket->out.data, socket->out.size, MSG_NOSIGNAL);
        loop->num_sends++;
        if (sent < 0 && errno != EAGAIN && errno != EINTR) die("send: %s", strerror(errno));
        bytes_drop(&socket->out, sent > 0 ? (size_t)sent : 0);
        if (socket->out.size) {
            socket->waits = true;
            watch(loop, EPOLL_CTL_MOD, socket->fd, EPOLLIN | EPOLLOUT, socket);
        }
    }
    loop->num_dirty = 0;
}
