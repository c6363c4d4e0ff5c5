#include "measure.h"

#include <math.h>
#include <string.h>
#include <sys/resource.h>

#include "bytes.h"

static double cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void measure_phase(Measure *measure, double rate, double seconds) {
    if (measure->num_phases == MAX_PHASES) die("expected at most %d phases", MAX_PHASES);
    Phase *phase = &measure->phases[measure->num_phases++];
    phase->rate = rate;
    phase->end = (int64_t)(seconds * 1e9);
    measure->open_loop = measure->phases[0].rate > 0;
}

void measure_begin(Measure *measure, int64_t now) {
    measure->origin = now;
    measure->current = -1;
    int64_t at = now + measure->warmup_ns;
    for (int i = 0; i < measure->num_phases; i++) {
        Phase *phase = &measure->phases[i];
        phase->begin = at;
        phase->end = at += phase->end;
    }
    measure->num_bins = (int)((at - now + measure->bin_ns - 1) / measure->bin_ns);
    measure->bins = allocate((size_t)measure->num_bins, sizeof *measure->bins);
}

int64_t measure_boundary(const Measure *measure) {
    if (measure->current == measure->num_phases) return INT64_MAX;
    return measure->current < 0 ? measure->phases[0].begin : measure->phases[measure->current].end;
}

bool measure_turn(Measure *measure, int64_t now) {
    while (measure->current < measure->num_phases) {
        Phase *phase = measure->current < 0 ? NULL : &measure->phases[measure->current];
        if (now < (phase ? phase->end : measure->phases[0].begin)) return false;
        double cpu = cpu_s();
        if (phase) phase->cpu_s = cpu - measure->cpu_at_begin;
        measure->cpu_at_begin = cpu;
        measure->current++;
    }
    return true;
}

static Phase *phase_at(Measure *measure, int64_t when) {
    for (int i = 0; i < measure->num_phases; i++) {
        Phase *phase = &measure->phases[i];
        if (when >= phase->begin && when < phase->end) return phase;
    }
    static Phase outside; /* warming up, or over */
    return &outside;
}

static Bin *bin_at(Measure *measure, int64_t when) {
    static Bin outside;
    int64_t index = (when - measure->origin) / measure->bin_ns;
    return index >= 0 && index < measure->num_bins ? &measure->bins[index] : &outside;
}

void measure_offered(Measure *measure, int64_t intended) {
    phase_at(measure, intended)->offered++;
    bin_at(measure, intended)->offered++;
}

void measure_answered(Measure *measure, int64_t intended, int64_t now, uint64_t units, int64_t first) {
    int64_t when = measure->open_loop ? intended : now;
    Phase *then = phase_at(measure, now), *whose = phase_at(measure, when);
    then->answered++;
    then->units += units;
    bin_at(measure, now)->answered++;
    histogram_add(&whose->latency, now - intended);
    if (first) histogram_add(&whose->first, first - intended);
    histogram_add(&bin_at(measure, when)->latency, now - intended);
}

void measure_refused(Measure *measure, int64_t intended, int64_t now) {
    Phase *phase = phase_at(measure, measure->open_loop ? intended : now);
    phase->refused++;
    histogram_add(&phase->refusal, now - intended);
    bin_at(measure, now)->refused++;
}

void measure_failed(Measure *measure, int64_t intended, int64_t now, int code, const char *message) {
    phase_at(measure, measure->open_loop ? intended : now)->failed++;
    bin_at(measure, now)->failed++;
    if (!measure->first_failure[0]) snprintf(measure->first_failure, sizeof measure->first_failure, "%s", message);
    for (int i = 0; i < MAX_CODES; i++) {
        if (measure->code_counts[i] && measure->codes[i] != code) continue;
        measure->codes[i] = code;
        measure->code_counts[i]++;
        return;
    }
}

int64_t measure_next_arrival(const Measure *measure, int64_t after, uint64_t *random) {
    if (!measure->open_loop) return INT64_MAX;
    double at = after ? (double)(after - measure->origin) : 0;
    /* xorshift64*; Source: Vigna 2016, https://doi.org/10.1145/2845077 */
    *random ^= *random >> 12, *random ^= *random << 25, *random ^= *random >> 27;
    double gap = -log(((double)((*random * 0x2545F4914F6CDD1DULL) >> 11) + 1) / 9007199254740993.0); /* exponential */
    /* The rate changes where a phase ends: what is left of the gap is stretched accordingly. */
    for (int i = 0; i < measure->num_phases; i++) {
        const Phase *phase = &measure->phases[i];
        double end = (double)(phase->end - measure->origin), reach = at + gap / phase->rate * 1e9;
        if (at >= end) continue;
        if (reach < end) return measure->origin + (int64_t)reach;
        gap -= (end - at) / 1e9 * phase->rate;
        at = end;
    }
    return INT64_MAX;
}

void print_string(const char *text, FILE *file) {
    fputc('"', file);
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at == '"' || *at == '\\') fprintf(file, "\\%c", *at);
        else if (*at < 0x20 || *at >= 0x7f) fprintf(file, "\\u%04x", *at);
        else fputc(*at, file);
    }
    fputc('"', file);
}

static void print_phase(const Phase *phase, FILE *file) {
    double seconds = (double)(phase->end - phase->begin) / 1e9;
    fprintf(file, "{\"seconds\": %.6f, \"rate\": %.3f, \"offered\": %llu, \"answered\": %llu, \"units\": %llu, ", seconds,
            phase->rate, (unsigned long long)phase->offered, (unsigned long long)phase->answered,
            (unsigned long long)phase->units);
    fprintf(file, "\"refused\": %llu, \"failed\": %llu, \"answered_per_s\": %.3f, \"units_per_s\": %.3f, ",
            (unsigned long long)phase->refused, (unsigned long long)phase->failed, (double)phase->answered / seconds,
            (double)phase->units / seconds);
    fprintf(file, "\"cpu_s\": %.3f, \"cpu_share\": %.4f, \"latency_ms\": ", phase->cpu_s, phase->cpu_s / seconds);
    histogram_print(&phase->latency, file);
    fputs(", \"first_ms\": ", file);
    histogram_print(&phase->first, file);
    fputs(", \"refusal_ms\": ", file);
    histogram_print(&phase->refusal, file);
    fputc('}', file);
}

void measure_print(const Measure *measure, FILE *file) {
    fprintf(file, "\"open_loop\": %s, \"warmup_s\": %.3f, \"phases\": [", measure->open_loop ? "true" : "false",
            (double)measure->warmup_ns / 1e9);
    for (int i = 0; i < measure->num_phases; i++) {
        if (i) fputs(", ", file);
        print_phase(&measure->phases[i], file);
    }
    fprintf(file, "],\n\"bin_s\": %.6f, \"bins\": [", (double)measure->bin_ns / 1e9);
    for (int i = 0; i < measure->num_bins; i++) {
        const Bin *bin = &measure->bins[i];
        fprintf(file, "%s{\"offered\": %u, \"answered\": %u, \"refused\": %u, \"failed\": %u, \"latency_ms\": ", i ? ", " : "",
                bin->offered, bin->answered, bin->refused, bin->failed);
        histogram_print(&bin->latency, file);
        fputc('}', file);
    }
    fputs("],\n\"failures\": {", file);
    for (int i = 0; i < MAX_CODES && measure->code_counts[i]; i++) {
        fprintf(file, "%s\"%d\": %llu", i ? ", " : "", measure->codes[i], (unsigned long long)measure->code_counts[i]);
    }
    fputs("}, \"first_failure\": ", file);
    print_string(measure->first_failure, file);
}
