/* The command line. */
#ifndef OPTIONS_H
#define OPTIONS_H
#include "hpack.h"
#include "measure.h"

typedef struct {
    const char *address; /* host:port */
    const char *model, *method, *path, *content_type, *templates, *responses;
    const char *metadata[MAX_METADATA + 1]; /* "name:value", ended by NULL */
    long connections, sessions, streams, steps, coalesce, vocabulary, first_token, check, check_steps, hold, opening;
    long callers, sequences, keep, seed, num_metadata;
    double seconds, warmup_s, bin_s, drain_s, rate;
    const char *phases;
} Options;

/* Read the arguments after the name of the workload; what is wrong ends the program. */
Options options_read(int count, char **arguments);

/* The phases that were asked for. */
Measure options_measure(const Options *options);

#endif
