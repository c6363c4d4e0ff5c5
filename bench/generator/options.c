#include "options.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"

static long read_long(const char *name, const char *text) {
    char *end;
    long value = strtol(text, &end, 10);
    if (!*text || *end || value < 0) die("%s: expected a whole number of at least 0, got %s", name, text);
    return value;
}

static double read_double(const char *name, const char *text, char **rest) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || !(value >= 0) || (!rest && *end)) die("%s: expected a number of at least 0, got %s", name, text);
    if (rest) *rest = end;
    return value;
}

Options options_read(int count, char **arguments) {
    Options options = {.model = "", .content_type = "application/json", .connections = 1, .sessions = 1, .streams = 1,
                       .steps = 1, .coalesce = 1, .first_token = 4, .check_steps = 64, .opening = 256, .callers = 1,
                       .seed = 1, .seconds = 5, .warmup_s = 1, .bin_s = 1, .drain_s = 10};
    const struct {
        const char *name, **text;
        long *number;
        double *real;
    } known[] = {
        {"--address", &options.address, 0, 0},
        {"--model", &options.model, 0, 0},
        {"--method", &options.method, 0, 0},
        {"--path", &options.path, 0, 0},
        {"--content-type", &options.content_type, 0, 0},
        {"--templates", &options.templates, 0, 0},
        {"--responses", &options.responses, 0, 0},
        {"--phases", &options.phases, 0, 0},
        {"--connections", 0, &options.connections, 0},
        {"--sessions", 0, &options.sessions, 0},
        {"--streams", 0, &options.streams, 0},
        {"--steps", 0, &options.steps, 0},
        {"--coalesce", 0, &options.coalesce, 0},
        {"--vocabulary", 0, &options.vocabulary, 0},
        {"--first-token", 0, &options.first_token, 0},
        {"--check", 0, &options.check, 0},
        {"--check-steps", 0, &options.check_steps, 0},
        {"--hold", 0, &options.hold, 0},
        {"--opening", 0, &options.opening, 0},
        {"--callers", 0, &options.callers, 0},
        {"--sequences", 0, &options.sequences, 0},
        {"--keep", 0, &options.keep, 0},
        {"--seed", 0, &options.seed, 0},
        {"--seconds", 0, 0, &options.seconds},
        {"--warmup", 0, 0, &options.warmup_s},
        {"--bin", 0, 0, &options.bin_s},
        {"--drain", 0, 0, &options.drain_s},
        {"--rate", 0, 0, &options.rate},
    };
    for (int i = 0; i < count; i += 2) {
        const char *name = arguments[i], *value = i + 1 < count ? arguments[i + 1] : NULL;
        if (!value) die("%s: expected a value", name);
        if (!strcmp(name, "--metadata")) {
            if (options.num_metadata == MAX_METADATA) die("--metadata: expected at most %d", MAX_METADATA);
            options.metadata[options.num_metadata++] = value;
            continue;
        }
        size_t k = 0, num_known = sizeof known / sizeof *known;
        while (k < num_known && strcmp(known[k].name, name)) k++;
        if (k == num_known) die("unknown option %s", name);
        if (known[k].text) *known[k].text = value;
        if (known[k].number) *known[k].number = read_long(name, value);
        if (known[k].real) *known[k].real = read_double(name, value, NULL);
    }
    if (!options.address) die("--address: expected host:port");
    if (!options.connections || !options.sessions || !options.streams || !options.steps || !options.callers || !options.opening) {
        die("--connections, --sessions, --streams, --steps, --callers and --opening: expected at least 1");
    }
    if (options.bin_s <= 0) die("--bin: expected more than 0 seconds");
    return options;
}

Measure options_measure(const Options *options) {
    Measure measure = {.warmup_ns = (int64_t)(options->warmup_s * 1e9), .bin_ns = (int64_t)(options->bin_s * 1e9)};
    if (!options->phases) {
        measure_phase(&measure, options->rate, options->seconds);
        return measure;
    }
    for (char *at = (char *)options->phases;; at++) {
        double rate = read_double("--phases", at, &at);
        if (*at++ != ':' || rate <= 0) die("--phases: expected rate:seconds,... with rates above 0, got %s", options->phases);
        measure_phase(&measure, rate, read_double("--phases", at, &at));
        if (!*at) return measure;
        if (*at != ',') die("--phases: expected rate:seconds,..., got %s", options->phases);
    }
}
