/* Stands in for Triton's ONNX Runtime back end, which is published in containers only: hands each batch of requests, with the
 * states that Triton's core adds, to the process at the socket $STAND_IN, and its answers and new states back to the core.
 * The declarations follow tritonbackend.h (triton-inference-server/core); what they point to is the core's own.
 *
 *     cc -shared -fPIC -o onnxruntime/libtriton_onnxruntime.so triton_backend.c
 *
 * A number is 4 bytes, a size or an axis 8, both of this machine. To the process: the number of requests; of each the number of
 * inputs; of each input its name, kind, axes and bytes. From it: of each request the number of outputs; of each whether it is a
 * state, then likewise.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

typedef void Error;

Error *TRITONBACKEND_RequestInputCount(void *request, uint32_t *count);
Error *TRITONBACKEND_RequestInputByIndex(void *request, uint32_t index, void **input);
Error *TRITONBACKEND_InputProperties(void *input, const char **name, int *kind, const int64_t **shape, uint32_t *axes,
                                     uint64_t *size, uint32_t *buffers);
Error *TRITONBACKEND_InputBuffer(void *input, uint32_t index, const void **buffer, uint64_t *size, int *memory, int64_t *id);
Error *TRITONBACKEND_ResponseNew(void **response, void *request);
Error *TRITONBACKEND_ResponseOutput(void *response, void **output, const char *name, int kind, const int64_t *shape,
                                    uint32_t axes);
Error *TRITONBACKEND_OutputBuffer(void *output, void **buffer, uint64_t size, int *memory, int64_t *id);
Error *TRITONBACKEND_ResponseSend(void *response, uint32_t flags, Error *error);
Error *TRITONBACKEND_RequestRelease(void *request, uint32_t flags);
Error *TRITONBACKEND_StateNew(void **state, void *request, const char *name, int kind, const int64_t *shape, uint32_t axes);
Error *TRITONBACKEND_StateBuffer(void *state, void **buffer, uint64_t size, int *memory, int64_t *id);
Error *TRITONBACKEND_StateUpdate(void *state);
const char *TRITONSERVER_ErrorMessage(Error *error);

static int wire = -1;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static void check(Error *error) {
    if (error) {
        fprintf(stderr, "stand-in: %s\n", TRITONSERVER_ErrorMessage(error));
        abort();
    }
}

static void put(const void *data, size_t size) {
    for (ssize_t done; size; data = (const char *)data + done, size -= done)
        if ((done = write(wire, data, size)) <= 0) abort();
}

static void get(void *data, size_t size) {
    for (ssize_t done; size; data = (char *)data + done, size -= done)
        if ((done = read(wire, data, size)) <= 0) abort();
}

static void put_number(uint32_t number) { put(&number, 4); }

static uint32_t get_number(void) {
    uint32_t number;
    get(&number, 4);
    return number;
}

static void connect_once(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (wire >= 0) return;
    strncpy(address.sun_path, getenv("STAND_IN"), sizeof address.sun_path - 1);
    wire = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(wire, (struct sockaddr *)&address, sizeof address)) abort();
}

static void send_request(void *request) {
    uint32_t count, axes, buffers;
    check(TRITONBACKEND_RequestInputCount(request, &count));
    put_number(count);
    for (uint32_t index = 0; index < count; index++) {
        void *input;
        const char *name;
        const int64_t *shape;
        int kind;
        uint64_t size;
        check(TRITONBACKEND_RequestInputByIndex(request, index, &input));
        check(TRITONBACKEND_InputProperties(input, &name, &kind, &shape, &axes, &size, &buffers));
        put_number(strlen(name));
        put(name, strlen(name));
        put_number(kind);
        put_number(axes);
        put(shape, 8 * axes);
        put(&size, 8);
        for (uint32_t part = 0; part < buffers; part++) {
            const void *data;
            int memory = 0;
            int64_t id = 0;
            check(TRITONBACKEND_InputBuffer(input, part, &data, &size, &memory, &id));
            put(data, size);
        }
    }
}

static void answer_request(void *request) {
    void *response;
    check(TRITONBACKEND_ResponseNew(&response, request));
    for (uint32_t count = get_number(); count; count--) {
        uint32_t is_state = get_number(), length = get_number(), axes;
        char name[256] = {0};
        int64_t shape[8], id = 0;
        int kind, memory = 0;
        uint64_t size;
        void *made, *data;
        get(name, length);
        kind = get_number();
        axes = get_number();
        get(shape, 8 * axes);
        get(&size, 8);
        if (is_state) {
            check(TRITONBACKEND_StateNew(&made, request, name, kind, shape, axes));
            check(TRITONBACKEND_StateBuffer(made, &data, size, &memory, &id));
            get(data, size);
            check(TRITONBACKEND_StateUpdate(made));
        } else {
            check(TRITONBACKEND_ResponseOutput(response, &made, name, kind, shape, axes));
            check(TRITONBACKEND_OutputBuffer(made, &data, size, &memory, &id));
            get(data, size);
        }
    }
    check(TRITONBACKEND_ResponseSend(response, 1, NULL));
    check(TRITONBACKEND_RequestRelease(request, 1));
}

Error *TRITONBACKEND_ModelInstanceExecute(void *instance, void **requests, const uint32_t count) {
    (void)instance;
    pthread_mutex_lock(&one_at_a_time);
    connect_once();
    put_number(count);
    for (uint32_t index = 0; index < count; index++) send_request(requests[index]);
    for (uint32_t index = 0; index < count; index++) answer_request(requests[index]);
    pthread_mutex_unlock(&one_at_a_time);
    return NULL;
}
