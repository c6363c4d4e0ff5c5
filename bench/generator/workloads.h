/* What the program can do; each prints one JSON object on stdout. */
#ifndef WORKLOADS_H
#define WORKLOADS_H
#include "options.h"

/* Step sessions over bidirectional streams. */
void run_sessions(const Options *options);

/* Unary and server-streaming gRPC calls from a file of messages. */
void run_grpc(const Options *options);

/* Tag requests from a file over bidirectional streams. */
void run_tags(const Options *options);

/* Requests of the Open Inference Protocol from a file over bidirectional streams. */
void run_infer_stream(const Options *options);

/* HTTP/1.1 POST from a file of bodies. */
void run_http(const Options *options);

#endif
