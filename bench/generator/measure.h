/* What a run is measured by: phases, bins of time, and the generator's own CPU time. */
#ifndef MEASURE_H
#define MEASURE_H
#include <stdbool.h>

#include "histogram.h"

enum { MAX_PHASES = 16, MAX_CODES = 16 };

typedef struct {
    double rate;        /* messages/s that arrive; 0: closed loop */
    int64_t begin, end; /* ns */
    uint64_t offered, answered, units, refused, failed;
    Histogram latency, first, refusal;
    double cpu_s; /* of this program */
} Phase;

/* By when things happened, but for the latencies of an open loop: by when the message was meant to be sent. */
typedef struct {
    uint32_t offered, answered, refused, failed;
    Histogram latency;
} Bin;

typedef struct {
    Phase phases[MAX_PHASES];
    int num_phases, current; /* -1 while warming up */
    bool open_loop;
    int64_t origin, warmup_ns, bin_ns;
    Bin *bins;
    int num_bins;
    double cpu_at_begin;
    int codes[MAX_CODES];
    uint64_t code_counts[MAX_CODES];
    char first_failure[256];
} Measure;

/* Add a phase that follows the others; times are set by measure_begin. */
void measure_phase(Measure *measure, double rate, double seconds);

/* Start the clock: the warm-up, then the phases. */
void measure_begin(Measure *measure, int64_t now);

/* Take the CPU time where a phase ends; whether the last one is over. */
bool measure_turn(Measure *measure, int64_t now);

/* When the next phase begins or the last one ends, for who sleeps; INT64_MAX once all are over. */
int64_t measure_boundary(const Measure *measure);

/* A message arrived (open loop) or was sent (closed loop). */
void measure_offered(Measure *measure, int64_t intended);

/* Its answer is here. `units` is what it was about (steps, calls); `first` when the first part came, or 0. */
void measure_answered(Measure *measure, int64_t intended, int64_t now, uint64_t units, int64_t first);

/* The server had no room for it. */
void measure_refused(Measure *measure, int64_t intended, int64_t now);

/* It failed otherwise. */
void measure_failed(Measure *measure, int64_t intended, int64_t now, int code, const char *message);

/* When the next message arrives in an open loop, after one at `after` (0: the first); INT64_MAX: never. */
int64_t measure_next_arrival(const Measure *measure, int64_t after, uint64_t *random);

/* The members "phases", "bins", "errors", ... of a JSON object, without braces. */
void measure_print(const Measure *measure, FILE *file);

/* A string as JSON. */
void print_string(const char *text, FILE *file);

#endif
