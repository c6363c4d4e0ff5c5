#include "session_messages.h"

#include <string.h>

/* Field numbers of protos/carryover/v1/carryover.proto. */
enum { REQUEST_COMMANDS = 1, COMMAND_REQUEST_ID = 1, COMMAND_OPEN = 2, COMMAND_STEP = 3 };
enum { OPEN_MODEL = 1, MODEL_NAME = 1, STEP_SESSION_ID = 1, STEP_TOKEN_IDS = 3, STEP_NUM_TOP = 4 };
enum { RESPONSE_EVENTS = 1, REQUEST_ID = 1, OPENED = 2, STEPPED = 3, ERROR = 5, EXPIRED = 10 };
enum { SESSION_ID = 1, STEPPED_OUTPUTS = 2, OUTPUT_TOKEN_IDS = 1 };
enum { ERROR_CODE = 1, ERROR_REASON, ERROR_MESSAGE, ERROR_RETRY_AFTER_S, ERROR_SESSION_ID, ERROR_SESSION_ENDED = 7 };

static void put_command(Bytes *request, uint64_t request_id, uint32_t action, const Bytes *body) {
    static Bytes command;
    command.size = 0;
    put_uint(&command, COMMAND_REQUEST_ID, request_id);
    put_bytes(&command, action, body->data, body->size);
    put_bytes(request, REQUEST_COMMANDS, command.data, command.size);
}

void put_open(Bytes *request, uint64_t request_id, const char *model) {
    static Bytes name, body;
    name.size = body.size = 0;
    put_bytes(&name, MODEL_NAME, model, strlen(model));
    put_bytes(&body, OPEN_MODEL, name.data, name.size);
    put_command(request, request_id, COMMAND_OPEN, &body);
}

void put_step(Bytes *request, uint64_t request_id, const char *session_id, size_t id_size, const uint32_t *tokens, size_t num_tokens) {
    static Bytes packed, body;
    packed.size = body.size = 0;
    for (size_t i = 0; i < num_tokens; i++) put_varint(&packed, tokens[i]);
    put_bytes(&body, STEP_SESSION_ID, session_id, id_size);
    put_bytes(&body, STEP_TOKEN_IDS, packed.data, packed.size);
    put_uint(&body, STEP_NUM_TOP, 1);
    put_command(request, request_id, COMMAND_STEP, &body);
}

static void read_body(SessionEvent *event, Reader body) {
    Field field;
    while (read_field(&body, &field)) {
        if (event->kind == EVENT_ERROR) {
            if (field.number == ERROR_CODE) event->code = (int)field.value;
            if (field.number == ERROR_REASON) event->reason = field.bytes;
            if (field.number == ERROR_MESSAGE) event->message = field.bytes;
            if (field.number == ERROR_SESSION_ID) event->session_id = field.bytes;
            if (field.number == ERROR_SESSION_ENDED) event->session_ended = field.value;
            if (field.number == ERROR_RETRY_AFTER_S) memcpy(&event->retry_after_s, &field.value, sizeof(float));
        } else if (field.number == SESSION_ID) {
            event->session_id = field.bytes;
        } else if (event->kind == EVENT_STEPPED && field.number == STEPPED_OUTPUTS) {
            event->num_outputs++;
        }
    }
}

bool read_event(Reader *response, SessionEvent *event) {
    Field field;
    do {
        if (!read_field(response, &field)) return false;
    } while (field.number != RESPONSE_EVENTS || field.type != DELIMITED);
    Reader reader = field.bytes;
    *event = (SessionEvent){.kind = EVENT_OTHER};
    while (read_field(&reader, &field)) {
        if (field.number == REQUEST_ID) {
            event->request_id = field.value;
            continue;
        }
        if (field.type != DELIMITED) continue;
        event->kind = field.number == OPENED    ? EVENT_OPENED
                      : field.number == STEPPED ? EVENT_STEPPED
                      : field.number == ERROR   ? EVENT_ERROR
                      : field.number == EXPIRED ? EVENT_EXPIRED
                                                : EVENT_OTHER;
        if (event->kind == EVENT_STEPPED) event->stepped = field.bytes;
        if (event->kind != EVENT_OTHER) read_body(event, field.bytes);
    }
    return true;
}

void read_outputs(const SessionEvent *event, uint32_t *best) {
    Reader stepped = event->stepped;
    Field field, inner;
    while (read_field(&stepped, &field)) {
        if (field.number != STEPPED_OUTPUTS || field.type != DELIMITED) continue;
        bool found = false;
        while (!found && read_field(&field.bytes, &inner)) {
            if (inner.number != OUTPUT_TOKEN_IDS) continue;
            *best = (uint32_t)(inner.type == DELIMITED ? read_varint(&inner.bytes) : inner.value);
            found = true;
        }
        if (!found) die("expected the best token of each step, got an output without");
        best++;
    }
}
