#include "calls.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    const uint8_t *data;
    size_t size;
} Message;

typedef struct {
    const Options *options;
    const Transport *transport;
    Measure measure;
    Bytes file, responses;
    Message *messages;
    uint32_t num_messages, next_number, in_flight, most_in_flight;
    uint32_t *idle, num_idle; /* callers, closed loop */
    uint32_t *turns;          /* calls of each caller so far */
    Call *free;
    int64_t arrival; /* the next that was not sent, open loop */
    uint64_t random;
} Run;

static Run run; /* the callbacks' */

static uint32_t get32(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void put32(Bytes *bytes, uint32_t value) {
    uint8_t at[] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
    bytes_append(bytes, at, sizeof at);
}

static void read_messages(const char *path) {
    FILE *file = path ? fopen(path, "rb") : NULL;
    if (!file) die("--templates: expected a file of messages, got %s", path ? path : "nothing");
    size_t got;
    do {
        uint8_t *room = bytes_extend(&run.file, 1 << 16);
        got = fread(room, 1, 1 << 16, file);
        run.file.size -= (1 << 16) - got;
    } while (got);
    fclose(file);
    size_t count = 0;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) run.messages = allocate(count, sizeof(Message));
        count = 0;
        for (size_t at = 0; at < run.file.size; count++) {
            size_t left = run.file.size - at, size = left >= 4 ? get32(run.file.data + at) : left;
            if (left < 4 || size > left - 4) die("--templates: %s ends within message %zu", path, count);
            if (pass) run.messages[count] = (Message){run.file.data + at + 4, size};
            at += 4 + size;
        }
    }
    run.num_messages = (uint32_t)count;
    if (!count) die("--templates: expected at least one message in %s", path);
}

/* Which message a call sends: the next of all, or with --sequences the next of the caller's own, over and over. */
static uint32_t choose(uint32_t caller, uint32_t number) {
    if (!run.options->sequences) return number % run.num_messages;
    uint32_t each = run.num_messages / (uint32_t)run.options->callers;
    return caller * each + run.turns[caller] % each;
}

static bool send_call(uint32_t caller, int64_t intended) {
    Call *call = run.free;
    if (call) run.free = call->next;
    else call = allocate(1, sizeof *call);
    Bytes parts = call->parts;
    parts.size = 0;
    *call = (Call){.number = run.next_number, .caller = caller, .intended = intended, .parts = parts};
    call->message = choose(caller, call->number);
    call->kept = call->number < (uint32_t)run.options->keep;
    const Message *message = &run.messages[call->message];
    if (!run.transport->send(call, message->data, message->size)) {
        call->next = run.free;
        run.free = call;
        return false;
    }
    run.next_number++;
    run.turns[caller]++;
    if (++run.in_flight > run.most_in_flight) run.most_in_flight = run.in_flight;
    return true;
}

void call_part(Call *call, const uint8_t *data, size_t size, int64_t now) {
    if (!call->first) call->first = now;
    call->num_parts++;
    if (!call->kept) return;
    put32(&call->parts, (uint32_t)size);
    bytes_append(&call->parts, data, size);
}

void call_end(Call *call, int code, const char *text, int64_t now) {
    if (run.transport->good(code)) measure_answered(&run.measure, call->intended, now, 1, call->first);
    else if (run.transport->refused(code)) measure_refused(&run.measure, call->intended, now);
    else measure_failed(&run.measure, call->intended, now, code, text);
    if (call->kept) {
        const uint32_t head[] = {call->number, call->caller, call->message, (uint32_t)code, call->num_parts};
        for (size_t i = 0; i < sizeof head / sizeof *head; i++) put32(&run.responses, head[i]);
        bytes_append(&run.responses, call->parts.data, call->parts.size);
    }
    run.in_flight--;
    if (!run.measure.open_loop) run.idle[run.num_idle++] = call->caller;
    call->next = run.free;
    run.free = call;
}

/* Send what is due; when to wake up at the latest. */
static int64_t turn(int64_t now) {
    bool over = measure_turn(&run.measure, now);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < run.num_idle && !over; i++) {
        if (send_call(run.idle[i], now)) measure_offered(&run.measure, now);
        else run.idle[kept++] = run.idle[i];
    }
    if (!over) run.num_idle = kept;
    int64_t wake = measure_boundary(&run.measure);
    while (run.arrival <= now) { /* also those that are late for the end */
        if (!send_call(run.next_number % (uint32_t)run.options->callers, run.arrival)) return wake; /* until one is free */
        measure_offered(&run.measure, run.arrival);
        run.arrival = measure_next_arrival(&run.measure, run.arrival, &run.random);
    }
    return run.arrival < wake ? run.arrival : wake;
}

static void prepare(const Options *options, const Transport *transport) {
    run = (Run){.options = options, .transport = transport, .measure = options_measure(options)};
    run.random = (uint64_t)options->seed * 0x9E3779B97F4A7C15ULL | 1;
    read_messages(options->templates);
    if (options->sequences && run.measure.open_loop) die("--sequences: expected a closed loop, got arrivals");
    if (options->sequences && run.num_messages % (uint32_t)options->callers) {
        die("--sequences: expected as many messages for each of %ld callers, got %u in all", options->callers, run.num_messages);
    }
    run.idle = allocate((size_t)options->callers, sizeof(uint32_t));
    run.turns = allocate((size_t)options->callers, sizeof(uint32_t));
    for (uint32_t i = 0; !run.measure.open_loop && i < (uint32_t)options->callers; i++) run.idle[run.num_idle++] = i;
}

/* Messages that arrived and found nothing free for as long as we waited are lost, not forgotten. */
static uint32_t count_unsent(void) {
    uint32_t unsent = 0;
    for (; run.arrival < run.measure.phases[run.measure.num_phases - 1].end; unsent++) {
        measure_offered(&run.measure, run.arrival);
        run.arrival = measure_next_arrival(&run.measure, run.arrival, &run.random);
    }
    return unsent;
}

static void save_responses(const char *path) {
    if (!path) return;
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(run.responses.data, 1, run.responses.size, file) != run.responses.size || fclose(file)) {
        die("--responses: %s cannot be written", path);
    }
}

void run_calls(const Options *options, const Transport *transport) {
    prepare(options, transport);
    Loop loop = {0};
    loop_open(&loop);
    transport->connect(&loop, options);
    measure_begin(&run.measure, loop.now);
    run.arrival = measure_next_arrival(&run.measure, 0, &run.random);
    int64_t deadline = INT64_MAX; /* of what is in flight when time is up */
    for (;;) {
        int64_t wake = turn(loop.now);
        transport->flush();
        loop_flush(&loop);
        if (run.measure.current == run.measure.num_phases) {
            if (deadline == INT64_MAX) deadline = loop.now + (int64_t)(options->drain_s * 1e9);
            if (!run.in_flight || loop.now >= deadline) break;
            wake = deadline;
        }
        loop_wait(&loop, wake);
    }
    save_responses(options->responses);
    printf("{\"callers\": %ld, \"calls\": %u, \"unsent\": %u, \"unanswered\": %u, \"most_in_flight\": %u, ", options->callers, run.next_number,
           count_unsent(), run.in_flight, run.most_in_flight);
    printf("\"reads\": %llu, \"sends\": %llu,\n", (unsigned long long)loop.num_reads, (unsigned long long)loop.num_sends);
    measure_print(&run.measure, stdout);
    puts("}");
}
