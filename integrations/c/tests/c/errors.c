/* Everything that a call refuses: each with its code, a message that names the argument, and all memory as it was. */

#include <threads.h>

#include "check.h"

enum { ROWS = 3, CLASSES = 4, ELEMENTS = ROWS * CLASSES };

/* Arguments of a call that works, to be spoilt one at a time. All memory lies in one block with canaries. */
struct call {
    struct guarded memory;
    float *logits, *grad, *probabilities;
    int64_t *targets;
    float *losses;
    uint8_t *mask;
    double *loss;
    xent_summary summary;
    xent_request request;
    xent_matrix x, q;
    xent_matrix_mut dx, x_mut;
    xent_array y;
    unsigned char before[2048];
};

static xent_cross_entropy *ce;

static void *part(struct call *call, size_t *used, size_t bytes) {
    void *memory = call->memory.data + *used;
    *used += (bytes + 15) / 16 * 16;
    CHECK(*used <= call->memory.bytes);
    return memory;
}

static void begin(struct call *call) {
    size_t used = 0;
    call->memory = guard_bytes(sizeof call->before);
    call->logits = part(call, &used, ELEMENTS * sizeof(float));
    call->grad = part(call, &used, ELEMENTS * sizeof(float));
    call->probabilities = part(call, &used, ELEMENTS * sizeof(float));
    call->targets = part(call, &used, ROWS * sizeof(int64_t));
    call->losses = part(call, &used, ROWS * sizeof(float));
    call->mask = part(call, &used, ROWS);
    call->loss = part(call, &used, sizeof(double));
    for (int i = 0; i < ELEMENTS; i++)
        call->logits[i] = (float)number(i), call->probabilities[i] = 0.25F;
    for (int r = 0; r < ROWS; r++)
        call->targets[r] = r, call->mask[r] = 1;
    memcpy(call->before, call->memory.data, sizeof call->before);
    call->summary = xent_summary_default();
    call->request = xent_request_default();
    call->x = xent_matrix_of(call->logits, XENT_DTYPE_F32, ROWS, CLASSES);
    call->q = xent_matrix_of(call->probabilities, XENT_DTYPE_F32, ROWS, CLASSES);
    call->x_mut = xent_matrix_mut_of(call->logits, XENT_DTYPE_F32, ROWS, CLASSES);
    call->dx = xent_matrix_mut_of(call->grad, XENT_DTYPE_F32, ROWS, CLASSES);
    call->y = xent_array_of(call->targets, XENT_DTYPE_I64, ROWS);
}

/* The last of the calls was refused, in such words, and nothing was written. */
static void end(struct call *call, const char *words, int line) {
    if (strstr(xent_last_error_message(), words) == NULL) {
        fprintf(stderr, "line %d: \"%s\" does not say \"%s\"\n", line, xent_last_error_message(), words);
        exit(EXIT_FAILURE);
    }
    CHECK(memcmp(call->before, call->memory.data, sizeof call->before) == 0);
    CHECK(has_canaries(&call->memory));
    xent_summary untouched = xent_summary_default();
    untouched.size = call->summary.size;
    CHECK(memcmp(&untouched, &call->summary, sizeof untouched) == 0);
    free(call->memory.memory);
}

/* Each of the short forms, and run with a request, refuses what `spoil` makes of the arguments. */
#define REFUSED(spoil, status, words)                                                                        \
    do {                                                                                                     \
        struct call c;                                                                                       \
        begin(&c);                                                                                           \
        spoil;                                                                                               \
        CHECK_STATUS(xent_loss_and_grad(ce, c.x, c.y, c.dx, c.loss), status);                                \
        c.request.grad = c.dx;                                                                               \
        CHECK_STATUS(xent_run(ce, c.x, c.y, &c.request, &c.summary), status);                                \
        end(&c, words, __LINE__);                                                                            \
    } while (0)

/* A call with a request, where `spoil` belongs to the request or its summary. */
#define REQUEST_REFUSED(spoil, status, words)                                                                \
    do {                                                                                                     \
        struct call c;                                                                                       \
        begin(&c);                                                                                           \
        c.request.grad = c.dx;                                                                               \
        spoil;                                                                                               \
        CHECK_STATUS(xent_run(ce, c.x, c.y, &c.request, &c.summary), status);                                \
        end(&c, words, __LINE__);                                                                            \
    } while (0)

#define OPTIONS_REFUSED(spoil, status, words)                                                                \
    do {                                                                                                     \
        xent_options options = xent_options_default();                                                       \
        xent_cross_entropy *none = NULL;                                                                     \
        spoil;                                                                                               \
        CHECK_STATUS(xent_cross_entropy_create(&options, &none), status);                                    \
        CHECK(none == NULL && strstr(xent_last_error_message(), words) != NULL);                             \
    } while (0)

static void *misaligned(void *pointer) { return (unsigned char *)pointer + 1; }

static void pointers_and_sizes(void) {
    REFUSED(c.x.data = NULL, XENT_STATUS_NULL_POINTER, "logits is null");
    REFUSED(c.y.data = NULL, XENT_STATUS_NULL_POINTER, "targets is null");
    REFUSED(c.dx.data = NULL, XENT_STATUS_NULL_POINTER, "grad is null");
    REFUSED(c.x.data = misaligned(c.logits), XENT_STATUS_MISALIGNED, "logits at");
    REFUSED(c.y.data = misaligned(c.targets), XENT_STATUS_MISALIGNED, "targets at");
    REFUSED(c.dx.data = misaligned(c.grad), XENT_STATUS_MISALIGNED, "grad at");
    REFUSED(c.x.rows = -1, XENT_STATUS_NEGATIVE_SIZE, "logits");
    REFUSED(c.x.cols = INT64_MIN, XENT_STATUS_NEGATIVE_SIZE, "logits");
    REFUSED(c.dx.row_stride = -CLASSES, XENT_STATUS_NEGATIVE_SIZE, "grad");
    REFUSED(c.y.len = -1, XENT_STATUS_NEGATIVE_SIZE, "targets");
    REFUSED(c.x.row_stride = INT64_MAX, XENT_STATUS_SIZE_OVERFLOW, "");
    REFUSED((c.x.rows = INT64_MAX, c.x.row_stride = 4), XENT_STATUS_SIZE_OVERFLOW, "");
    REFUSED(c.dx.rows = INT64_MAX / CLASSES, XENT_STATUS_SIZE_OVERFLOW, "grad");
    REFUSED(c.y.len = INT64_MAX, XENT_STATUS_SIZE_OVERFLOW, "targets");
    /* The end of the address space. */
    REFUSED((c.y.data = (void *)(UINTPTR_MAX - 31), c.y.len = 5), XENT_STATUS_SIZE_OVERFLOW, "targets");
    REFUSED(c.x.row_stride = CLASSES - 1, XENT_STATUS_STRIDE_TOO_SMALL, "row_stride is 3");
    REFUSED(c.x.row_stride = 0, XENT_STATUS_STRIDE_TOO_SMALL, "row_stride is 0");
    REFUSED(c.dx.row_stride = CLASSES - 1, XENT_STATUS_STRIDE_TOO_SMALL, "row_stride is 3");
    REFUSED((c.x.cols = 0, c.dx.cols = 0), XENT_STATUS_NO_CLASSES, "no classes");

    struct call c;
    begin(&c);
    CHECK_STATUS(xent_loss(NULL, c.x, c.y, c.loss), XENT_STATUS_NULL_POINTER);
    CHECK_STATUS(xent_loss(ce, c.x, c.y, NULL), XENT_STATUS_NULL_POINTER);
    CHECK_STATUS(xent_loss(ce, c.x, c.y, misaligned(c.loss)), XENT_STATUS_MISALIGNED);
    CHECK_STATUS(xent_run(ce, c.x, c.y, NULL, NULL), XENT_STATUS_NULL_POINTER);
    CHECK_STATUS(xent_run_in_place(NULL, c.x_mut, c.y, NULL, &c.summary), XENT_STATUS_NULL_POINTER);
    CHECK(xent_cross_entropy_backend(NULL) == XENT_BACKEND_FASTEST);
    CHECK_STATUS(xent_cross_entropy_create(NULL, NULL), XENT_STATUS_NULL_POINTER);
    end(&c, "cross_entropy is null", __LINE__);
}

static void overlaps(void) {
    REFUSED(c.dx.data = c.logits, XENT_STATUS_OVERLAP, "overlaps");
    REFUSED(c.dx.data = c.logits + ELEMENTS - 1, XENT_STATUS_OVERLAP, "logits overlaps grad");
    REFUSED(c.dx.data = c.targets, XENT_STATUS_OVERLAP, "targets overlaps grad");
    /* One matrix beside the other, in the same rows: the padding of one is the other's. */
    REFUSED((c.x.cols = c.dx.cols = 2, c.dx.row_stride = c.x.row_stride, c.dx.data = c.logits + 2),
            XENT_STATUS_OVERLAP, "logits overlaps grad");
    REQUEST_REFUSED(c.request.losses = xent_array_mut_of(c.grad, XENT_DTYPE_F32, ROWS), XENT_STATUS_OVERLAP,
                    "grad overlaps losses");
    REQUEST_REFUSED((c.request.losses = xent_array_mut_of(c.losses, XENT_DTYPE_F32, ROWS),
                     c.request.lse = xent_array_mut_of(c.losses + 1, XENT_DTYPE_F32, ROWS)),
                    XENT_STATUS_OVERLAP, "lse overlaps losses");
    REQUEST_REFUSED((c.request.row_weights = xent_array_of(c.losses, XENT_DTYPE_F32, ROWS),
                     c.request.losses = xent_array_mut_of(c.losses, XENT_DTYPE_F32, ROWS)),
                    XENT_STATUS_OVERLAP, "losses overlaps row_weights");
    REQUEST_REFUSED(c.request.losses = xent_array_mut_of(&c.summary.loss, XENT_DTYPE_F32, ROWS),
                    XENT_STATUS_OVERLAP, "losses overlaps xent_summary");
    REQUEST_REFUSED(c.request.losses = xent_array_mut_of(&c.request.grad, XENT_DTYPE_F32, ROWS), XENT_STATUS_OVERLAP,
                    "losses overlaps xent_request");
    struct call c;
    begin(&c);
    CHECK_STATUS(xent_loss(ce, c.x, c.y, (double *)c.logits), XENT_STATUS_OVERLAP);
    xent_planes_request planes = xent_planes_request_default();
    planes.losses = xent_array_mut_of(&planes, XENT_DTYPE_F32, 1);
    CHECK_STATUS(xent_run_planes(ce, xent_planes_of(c.logits, XENT_DTYPE_F32, 1, CLASSES, 1),
                                 xent_array_of(c.targets, XENT_DTYPE_I64, 1), &planes, &c.summary),
                 XENT_STATUS_OVERLAP);
    xent_shards split = xent_shards_of(c.y, CLASSES);
    CHECK_STATUS(xent_shards_summarise(ce, &split, c.x, 0, xent_array_mut_of(&split, XENT_DTYPE_ROW_STATE, 1)),
                 XENT_STATUS_OVERLAP);
    CHECK_STATUS(xent_softmax(c.x, c.x_mut, NULL), XENT_STATUS_OVERLAP);
    xent_row_state states[3];
    memset(states, 0, sizeof states);
    CHECK_STATUS(xent_row_states_merge(xent_array_mut_of(states, XENT_DTYPE_ROW_STATE, 2),
                                       xent_array_of(states + 1, XENT_DTYPE_ROW_STATE, 2)),
                 XENT_STATUS_OVERLAP);
    end(&c, "states overlaps others", __LINE__);

    /* What is only read may be the same memory: rows that are their own weights. */
    begin(&c);
    xent_request request = xent_request_default();
    request.row_weights = xent_array_of(c.probabilities, XENT_DTYPE_F32, ROWS);
    CHECK_OK(xent_run_probabilities(ce, c.x, c.q, &request, &c.summary));
    free(c.memory.memory);
}

/* Logits of double where there are none. */
static void doubles(void) {
    struct call c;
    begin(&c);
    const xent_matrix x = xent_matrix_of(c.logits, XENT_DTYPE_F64, 1, CLASSES);
    c.y.len = 1;
    xent_row_state state;
    const xent_array_mut of_floats = xent_array_mut_of(&state, XENT_DTYPE_ROW_STATE, 1);
    CHECK_OK(xent_row_states_clear(of_floats));
    const xent_shards shards = xent_shards_of(c.y, CLASSES);
    CHECK_STATUS(xent_shards_summarise(ce, &shards, x, 0, of_floats), XENT_STATUS_DTYPE);
    end(&c, "states is 11 instead of 12", __LINE__);

    /* Probabilities as targets are doubles where the logits are, and not elsewhere. */
    begin(&c);
    c.q.rows = 1;
    c.x = xent_matrix_of(c.logits, XENT_DTYPE_F64, 1, CLASSES);
    CHECK_STATUS(xent_run_probabilities(ce, c.x, c.q, NULL, &c.summary), XENT_STATUS_DTYPE);
    c.x_mut = xent_matrix_mut_of(c.logits, XENT_DTYPE_F64, 1, CLASSES);
    CHECK_STATUS(xent_run_probabilities_in_place(ce, c.x_mut, c.q, NULL, &c.summary), XENT_STATUS_DTYPE);
    end(&c, "target_probabilities is 1", __LINE__);
    begin(&c);
    c.q = xent_matrix_of(c.probabilities, XENT_DTYPE_F64, 1, CLASSES);
    c.x.rows = 1;
    CHECK_STATUS(xent_run_probabilities(ce, c.x, c.q, NULL, &c.summary), XENT_STATUS_DTYPE);
    end(&c, "target_probabilities is 2", __LINE__);

    /* What has one number for each row is a double where the logits are. */
    begin(&c);
    c.y.len = 1;
    c.request.losses = xent_array_mut_of(c.losses, XENT_DTYPE_F32, 1);
    c.x = xent_matrix_of(c.logits, XENT_DTYPE_F64, 1, CLASSES);
    CHECK_STATUS(xent_run(ce, c.x, c.y, &c.request, &c.summary), XENT_STATUS_DTYPE);
    end(&c, "losses is 1", __LINE__);
}

static void dtypes(void) {
    REFUSED(c.x.dtype = 0, XENT_STATUS_DTYPE, "logits is 0");
    REFUSED(c.x.dtype = 77, XENT_STATUS_DTYPE, "logits is 77");
    REFUSED(c.x.dtype = XENT_DTYPE_I32, XENT_STATUS_DTYPE, "logits is 9");
    REFUSED(c.dx.dtype = XENT_DTYPE_I32, XENT_STATUS_DTYPE, "grad is 9");
    REFUSED(c.dx.dtype = XENT_DTYPE_F64, XENT_STATUS_DTYPE, "grad is 2");
    REFUSED(c.y.dtype = XENT_DTYPE_F32, XENT_STATUS_DTYPE, "targets is 1");
    REQUEST_REFUSED(c.request.losses = xent_array_mut_of(c.losses, XENT_DTYPE_F64, 1), XENT_STATUS_DTYPE, "losses is 2");
    REQUEST_REFUSED(c.request.argmax = xent_array_mut_of(c.losses, XENT_DTYPE_I32, ROWS), XENT_STATUS_DTYPE,
                    "argmax is 9");
    REQUEST_REFUSED(c.request.loss_mask = xent_array_of(c.mask, XENT_DTYPE_I32, 0), XENT_STATUS_DTYPE, "loss_mask");
    struct call c;
    begin(&c);
    c.q.dtype = XENT_DTYPE_BF16;
    CHECK_STATUS(xent_run_probabilities(ce, c.x, c.q, NULL, &c.summary), XENT_STATUS_DTYPE);
    end(&c, "target_probabilities", __LINE__);
    doubles();
}

static void shapes_and_values(void) {
    double number = 0.0;
    REFUSED(c.dx.rows = ROWS - 1, XENT_STATUS_SHAPE_MISMATCH, "grad is 2 x 4");
    REFUSED(c.dx.cols = CLASSES - 1, XENT_STATUS_SHAPE_MISMATCH, "grad is 3 x 3");
    REFUSED(c.y.len = ROWS - 1, XENT_STATUS_LENGTH_MISMATCH, "targets has 2");
    REFUSED((c.targets[1] = CLASSES, memcpy(c.before, c.memory.data, sizeof c.before)),
            XENT_STATUS_TARGET_OUT_OF_RANGE, "row 1 is 4");
    REFUSED((c.targets[2] = -1, memcpy(c.before, c.memory.data, sizeof c.before)),
            XENT_STATUS_TARGET_OUT_OF_RANGE, "row 2 is -1");
    REQUEST_REFUSED(c.request.losses = xent_array_mut_of(c.losses, XENT_DTYPE_F32, ROWS - 1),
                    XENT_STATUS_LENGTH_MISMATCH, "losses has 2");
    REQUEST_REFUSED(c.request.losses = xent_array_mut_of(NULL, XENT_DTYPE_F32, ROWS), XENT_STATUS_NULL_POINTER,
                    "losses is null");
    REQUEST_REFUSED((c.mask[1] = 2, memcpy(c.before, c.memory.data, sizeof c.before),
                     c.request.loss_mask = xent_array_of(c.mask, XENT_DTYPE_U8, ROWS)),
                    XENT_STATUS_INVALID_LOSS_MASK, "row 1 is 2");
    REQUEST_REFUSED((c.losses[2] = -1, memcpy(c.before, c.memory.data, sizeof c.before),
                     c.losses[0] = c.losses[1] = 1, memcpy(c.before, c.memory.data, sizeof c.before),
                     c.request.row_weights = xent_array_of(c.losses, XENT_DTYPE_F32, ROWS)),
                    XENT_STATUS_INVALID_ROW_WEIGHT, "row 2 is -1");
    REQUEST_REFUSED((number = INFINITY, c.request.upstream_scalar = &number), XENT_STATUS_INVALID_UPSTREAM_SCALAR, "inf");
    REQUEST_REFUSED((number = 0.0, c.request.denominator = &number), XENT_STATUS_INVALID_DENOMINATOR, "denominator is 0");
    REQUEST_REFUSED(c.request.denominator = misaligned(&number), XENT_STATUS_MISALIGNED, "denominator at");
    REQUEST_REFUSED(c.request.accumulate = 2, XENT_STATUS_INVALID_ENUM, "accumulate is 2");
    REQUEST_REFUSED((c.request.accumulate = 1, c.request.grad = (xent_matrix_mut){0}), XENT_STATUS_NULL_POINTER,
                    "accumulate is 1, but grad is null");
    REQUEST_REFUSED(c.request.reserved = 1, XENT_STATUS_INVALID_ENUM, "reserved is 1");

    struct call c;
    begin(&c);
    c.request.grad = c.dx;
    CHECK_STATUS(xent_run_in_place(ce, c.x_mut, c.y, &c.request, &c.summary), XENT_STATUS_GRAD_TWICE);
    xent_request ranks = xent_request_default();
    ranks.target_ranks = xent_array_mut_of(c.targets, XENT_DTYPE_I64, ROWS);
    CHECK_STATUS(xent_run_probabilities(ce, c.x, c.q, &ranks, &c.summary), XENT_STATUS_NEEDS_CLASSES);
    c.probabilities[5] = -0.5F;
    memcpy(c.before, c.memory.data, sizeof c.before);
    CHECK_STATUS(xent_run_probabilities(ce, c.x, c.q, NULL, &c.summary), XENT_STATUS_INVALID_TARGET_PROBABILITY);
    end(&c, "row 1, column 1 is -0.5", __LINE__);
}

static void options(void) {
    const float weights[2] = {1.0F, -1.0F};
    OPTIONS_REFUSED(options.label_smoothing = 1.5, XENT_STATUS_INVALID_LABEL_SMOOTHING, "1.5");
    OPTIONS_REFUSED(options.z_loss = -1, XENT_STATUS_INVALID_Z_LOSS, "-1");
    OPTIONS_REFUSED(options.focal_gamma = NAN, XENT_STATUS_INVALID_FOCAL_GAMMA, "NaN");
    OPTIONS_REFUSED(options.logit_scale = -2, XENT_STATUS_INVALID_LOGIT_SCALE, "logit_scale is -2");
    OPTIONS_REFUSED(options.logit_scale = NAN, XENT_STATUS_INVALID_LOGIT_SCALE, "NaN");
    OPTIONS_REFUSED(options.softcap = -30, XENT_STATUS_INVALID_SOFTCAP, "softcap is -30");
    OPTIONS_REFUSED(options.weight = xent_array_of(weights, XENT_DTYPE_F32, 2), XENT_STATUS_INVALID_WEIGHT, "class 1");
    OPTIONS_REFUSED(options.weight = xent_array_of(weights, XENT_DTYPE_F64, 1), XENT_STATUS_DTYPE, "weight");
    OPTIONS_REFUSED(options.weight.len = 3, XENT_STATUS_DTYPE, "weight");
    OPTIONS_REFUSED(options.ignore_indices = xent_array_of(NULL, XENT_DTYPE_I64, 3), XENT_STATUS_NULL_POINTER, "ignore");
    OPTIONS_REFUSED(options.reduction = 9, XENT_STATUS_INVALID_ENUM, "reduction is 9");
    OPTIONS_REFUSED(options.smoothing = 9, XENT_STATUS_INVALID_ENUM, "smoothing is 9");
    OPTIONS_REFUSED(options.empty_mean = 9, XENT_STATUS_INVALID_ENUM, "empty_mean is 9");
    OPTIONS_REFUSED(options.backend = 9, XENT_STATUS_INVALID_ENUM, "backend is 9");
    OPTIONS_REFUSED(options.parallelism = 9, XENT_STATUS_INVALID_ENUM, "parallelism is 9");
    OPTIONS_REFUSED(options.reserved = 9, XENT_STATUS_INVALID_ENUM, "reserved is 9");
    xent_softmax_options softmax = xent_softmax_options_default();
    float x[2] = {0, 0};
    softmax.backend = 9;
    CHECK_STATUS(xent_softmax_in_place(xent_matrix_mut_of(x, XENT_DTYPE_F32, 1, 2), &softmax), XENT_STATUS_INVALID_ENUM);
    softmax = xent_softmax_options_default();
    softmax.parallelism = 9;
    CHECK_STATUS(xent_softmax_in_place(xent_matrix_mut_of(x, XENT_DTYPE_F32, 1, 2), &softmax), XENT_STATUS_INVALID_ENUM);
    softmax.size = 0;
    CHECK_STATUS(xent_softmax_in_place(xent_matrix_mut_of(x, XENT_DTYPE_F32, 1, 2), &softmax), XENT_STATUS_STRUCT_SIZE);
    CHECK(x[0] == 0 && x[1] == 0);
}

/* What two matrices of logits are for a loss, three are for a backward pass: y, upstream and grad. */
static void softmax_functions(void) {
    float y[2] = {0.5F, 0.5F}, upstream[2] = {1, 2}, grad[3] = {7, 7, 7};
    const xent_matrix p = xent_matrix_of(y, XENT_DTYPE_F32, 1, 2), up = xent_matrix_of(upstream, XENT_DTYPE_F32, 1, 2);
    const xent_matrix_mut to = xent_matrix_mut_of(grad, XENT_DTYPE_F32, 1, 2);
    xent_matrix other = p;
    other.dtype = 99;
    CHECK_STATUS(xent_softmax_backward(other, up, to, NULL), XENT_STATUS_DTYPE);
    CHECK(strstr(xent_last_error_message(), "the dtype of probabilities is 99") != NULL);
    CHECK_STATUS(xent_log_softmax_backward(other, up, to, NULL), XENT_STATUS_DTYPE);
    CHECK(strstr(xent_last_error_message(), "the dtype of log_probabilities is 99") != NULL);
    CHECK_STATUS(xent_log_softmax(other, to, NULL), XENT_STATUS_DTYPE);
    other.dtype = XENT_DTYPE_F64;
    other.data = NULL;
    CHECK_STATUS(xent_softmax_backward(p, other, to, NULL), XENT_STATUS_DTYPE);
    other.dtype = XENT_DTYPE_F32;
    CHECK_STATUS(xent_softmax_backward(p, other, to, NULL), XENT_STATUS_NULL_POINTER);
    CHECK_STATUS(xent_softmax(other, to, NULL), XENT_STATUS_NULL_POINTER);
    xent_matrix_mut shape = to;
    shape.rows = 2, shape.cols = 1, shape.row_stride = 1;
    CHECK_STATUS(xent_softmax(p, shape, NULL), XENT_STATUS_SHAPE_MISMATCH);
    CHECK_STATUS(xent_log_softmax(p, shape, NULL), XENT_STATUS_SHAPE_MISMATCH);
    CHECK_STATUS(xent_softmax_backward(p, up, shape, NULL), XENT_STATUS_SHAPE_MISMATCH);
    CHECK_STATUS(xent_log_softmax_backward(p, up, shape, NULL), XENT_STATUS_SHAPE_MISMATCH);
    CHECK_STATUS(xent_softmax_backward_in_place(p, shape, NULL), XENT_STATUS_SHAPE_MISMATCH);
    CHECK_STATUS(xent_log_softmax_backward_in_place(p, shape, NULL), XENT_STATUS_SHAPE_MISMATCH);
    /* Rows of no columns have no elements, however far apart. */
    shape.data = NULL, shape.cols = 0, shape.row_stride = 4;
    CHECK_STATUS(xent_softmax_in_place(shape, NULL), XENT_STATUS_NO_CLASSES);
    CHECK_STATUS(xent_log_softmax_in_place(shape, NULL), XENT_STATUS_NO_CLASSES);
    shape = to;
    shape.data = misaligned(grad);
    CHECK_STATUS(xent_softmax(p, shape, NULL), XENT_STATUS_MISALIGNED);
    CHECK(grad[0] == 7 && grad[1] == 7 && grad[2] == 7);
}

/* Programs that were compiled with another version of the header. */
static void structs_of_other_versions(void) {
    OPTIONS_REFUSED(options.size = 0, XENT_STATUS_STRUCT_SIZE, "xent_options_default()");
    OPTIONS_REFUSED(options.size = offsetof(xent_options, logit_scale) - 1, XENT_STATUS_STRUCT_SIZE,
                    "xent_options_default()");
    OPTIONS_REFUSED(options.size = SIZE_MAX, XENT_STATUS_STRUCT_SIZE, "xent_options_default()");
    REQUEST_REFUSED(c.request.size = 0, XENT_STATUS_STRUCT_SIZE, "xent_request_default()");
    REQUEST_REFUSED(c.summary.size = 0, XENT_STATUS_STRUCT_SIZE, "xent_summary_default()");

    struct {
        xent_options options;
        unsigned char later[24];
    } longer = {xent_options_default(), {0}};
    xent_cross_entropy *made = NULL;
    longer.options.size = sizeof longer;
    CHECK_OK(xent_cross_entropy_create(&longer.options, &made));
    xent_cross_entropy_destroy(made);
    made = NULL;
    longer.later[7] = 1;
    CHECK_STATUS(xent_cross_entropy_create(&longer.options, &made), XENT_STATUS_STRUCT_SIZE);
    CHECK(made == NULL);

    /* Of a longer summary, what this version knows is written. */
    struct {
        xent_summary summary;
        double later;
    } summary = {xent_summary_default(), 7.0};
    summary.summary.size = sizeof summary;
    struct call c;
    begin(&c);
    CHECK_OK(xent_run(ce, c.x, c.y, NULL, &summary.summary));
    CHECK(summary.summary.counted == ROWS && summary.later == 7.0 && summary.summary.size == sizeof summary);
    free(c.memory.memory);
}

static void shards(void) {
    struct call c;
    begin(&c);
    xent_row_state states[ROWS], before[ROWS];
    uint8_t bytes[ROWS * XENT_ROW_STATE_BYTES];
    const xent_array whole = xent_array_of(states, XENT_DTYPE_ROW_STATE, ROWS);
    const xent_array_mut to = xent_array_mut_of(states, XENT_DTYPE_ROW_STATE, ROWS);
    CHECK_OK(xent_row_states_clear(to));
    memcpy(before, states, sizeof before);
    xent_shards good = xent_shards_of(c.y, CLASSES), bad = good;
    CHECK_STATUS(xent_shards_summarise(ce, NULL, c.x, 0, to), XENT_STATUS_NULL_POINTER);
    CHECK_STATUS(xent_shards_summarise(NULL, &good, c.x, 0, to), XENT_STATUS_NULL_POINTER);
    CHECK_STATUS(xent_shards_summarise(ce, &good, c.x, -1, to), XENT_STATUS_NEGATIVE_SIZE);
    CHECK_STATUS(xent_shards_summarise(ce, &good, c.x, 1, to), XENT_STATUS_COLUMNS_OUT_OF_RANGE);
    CHECK_STATUS(xent_shards_summarise(ce, &good, c.x, INT64_MAX, to), XENT_STATUS_COLUMNS_OUT_OF_RANGE);
    xent_array_mut not_to = to;
    not_to.data = NULL;
    CHECK_STATUS(xent_shards_summarise(ce, &good, c.x, 0, not_to), XENT_STATUS_NULL_POINTER);
    not_to.data = misaligned(states);
    CHECK_STATUS(xent_shards_summarise(ce, &good, c.x, 0, not_to), XENT_STATUS_MISALIGNED);
    not_to = to;
    not_to.len = -1;
    CHECK_STATUS(xent_shards_summarise(ce, &good, c.x, 0, not_to), XENT_STATUS_NEGATIVE_SIZE);
    CHECK_STATUS(xent_row_states_clear(not_to), XENT_STATUS_NEGATIVE_SIZE);
    not_to.len = ROWS - 1;
    CHECK_STATUS(xent_shards_summarise(ce, &good, c.x, 0, not_to), XENT_STATUS_LENGTH_MISMATCH);
    xent_row_state others[ROWS];
    CHECK_OK(xent_row_states_clear(xent_array_mut_of(others, XENT_DTYPE_ROW_STATE, ROWS)));
    CHECK_STATUS(xent_row_states_merge(not_to, xent_array_of(others, XENT_DTYPE_ROW_STATE, ROWS)),
                 XENT_STATUS_LENGTH_MISMATCH);
    not_to = to;
    not_to.dtype = XENT_DTYPE_F64;
    CHECK_STATUS(xent_row_states_clear(not_to), XENT_STATUS_DTYPE);
    CHECK_STATUS(xent_shards_summarise(ce, &good, c.x, 0, not_to), XENT_STATUS_DTYPE);
    CHECK_STATUS(xent_row_states_merge(to, xent_array_of(others, XENT_DTYPE_ROW_STATE_F64, 1)), XENT_STATUS_DTYPE);
    CHECK_STATUS(xent_row_states_to_bytes(whole, xent_array_mut_of(bytes, XENT_DTYPE_U8, sizeof bytes - 1)),
                 XENT_STATUS_LENGTH_MISMATCH);
    CHECK_STATUS(xent_row_states_to_bytes(whole, xent_array_mut_of(states, XENT_DTYPE_U8, sizeof bytes)),
                 XENT_STATUS_OVERLAP);
    CHECK_STATUS(xent_row_states_from_bytes(xent_array_of(bytes, XENT_DTYPE_U8, 8), to), XENT_STATUS_LENGTH_MISMATCH);
    CHECK_STATUS(xent_row_states_from_bytes(xent_array_of(bytes, XENT_DTYPE_U32, 8), to), XENT_STATUS_DTYPE);
    bad.classes = -1;
    CHECK_STATUS(xent_shards_summarise(ce, &bad, c.x, 0, to), XENT_STATUS_NEGATIVE_SIZE);
    bad = good;
    bad.size = 8;
    CHECK_STATUS(xent_shards_summarise(ce, &bad, c.x, 0, to), XENT_STATUS_STRUCT_SIZE);
    CHECK(strstr(xent_last_error_message(), "xent_shards_of()") != NULL);
    bad = good;
    bad.targets.len = 2;
    CHECK_STATUS(xent_shards_accumulate(ce, &bad, c.x, 0, to), XENT_STATUS_LENGTH_MISMATCH);
    CHECK(memcmp(before, states, sizeof states) == 0);
    CHECK_STATUS(xent_shards_finish(ce, &good, whole, &c.summary), XENT_STATUS_INCOMPLETE_STATE);
    CHECK_STATUS(xent_shards_grad(ce, &good, c.x, 0, whole, c.dx), XENT_STATUS_INCOMPLETE_STATE);
    CHECK_STATUS(xent_shards_grad_in_place(ce, &good, c.x_mut, 0, whole), XENT_STATUS_INCOMPLETE_STATE);
    CHECK_OK(xent_shards_summarise(ce, &good, c.x, 0, to));
    CHECK_STATUS(xent_shards_grad(ce, &good, c.x, 0, whole, c.x_mut), XENT_STATUS_OVERLAP);
    CHECK_STATUS(xent_shards_lse(ce, &good, whole, xent_array_mut_of(c.losses, XENT_DTYPE_F32, 1)),
                 XENT_STATUS_LENGTH_MISMATCH);
    CHECK_STATUS(xent_shards_losses(ce, &good, whole, xent_array_mut_of(c.losses, XENT_DTYPE_F64, ROWS), &c.summary),
                 XENT_STATUS_DTYPE);
    end(&c, "losses", __LINE__);
}

static void second_derivatives(void) {
    struct call c;
    begin(&c);
    xent_matrix v = c.q;
    xent_array_mut each = xent_array_mut_of(c.losses, XENT_DTYPE_F32, ROWS), wrong = each;
    CHECK_STATUS(xent_hessian_vector_product(NULL, c.x, c.y, NULL, v, c.dx), XENT_STATUS_NULL_POINTER);
    CHECK_STATUS(xent_hessian_vector_product(ce, c.x, c.y, NULL, v, c.x_mut), XENT_STATUS_OVERLAP);
    CHECK_STATUS(xent_hessian_vector_product_in_place(ce, c.x, c.y, NULL, c.x_mut), XENT_STATUS_OVERLAP);
    v.rows = 1;
    CHECK_STATUS(xent_hessian_vector_product(ce, c.x, c.y, NULL, v, c.dx), XENT_STATUS_SHAPE_MISMATCH);
    CHECK(strstr(xent_last_error_message(), "direction") != NULL);
    v = c.q;
    v.dtype = XENT_DTYPE_F64;
    CHECK_STATUS(xent_jvp(ce, c.x, c.y, NULL, v, each, c.loss), XENT_STATUS_DTYPE);
    CHECK_STATUS(xent_jvp(ce, c.x, c.y, NULL, c.q, each, NULL), XENT_STATUS_NULL_POINTER);
    wrong.len = 2;
    CHECK_STATUS(xent_jvp(ce, c.x, c.y, NULL, c.q, wrong, c.loss), XENT_STATUS_LENGTH_MISMATCH);
    c.request.size = 0;
    CHECK_STATUS(xent_gauss_newton_diagonal(ce, c.x, c.y, &c.request, c.dx), XENT_STATUS_STRUCT_SIZE);
    c.request = xent_request_default();
    c.dx.cols = 2, c.dx.row_stride = 4;
    CHECK_STATUS(xent_hessian_diagonal(ce, c.x, c.y, NULL, c.dx), XENT_STATUS_SHAPE_MISMATCH);
    c.y.dtype = 99;
    CHECK_STATUS(xent_gauss_newton_diagonal(ce, c.x, c.y, NULL, c.dx), XENT_STATUS_DTYPE);
    end(&c, "targets is 99", __LINE__);
}

static void planes(void) {
    struct call c;
    begin(&c);
    /* One image of three positions. */
    xent_planes good = xent_planes_of(c.logits, XENT_DTYPE_F32, 1, CLASSES, ROWS), x = good;
    xent_planes_mut good_grad = xent_planes_mut_of(c.grad, XENT_DTYPE_F32, 1, CLASSES, ROWS), dx = good_grad;
    CHECK_STATUS(xent_loss_planes(NULL, x, c.y, c.loss), XENT_STATUS_NULL_POINTER);
    CHECK_STATUS(xent_loss_planes(ce, x, c.y, NULL), XENT_STATUS_NULL_POINTER);
    x.data = NULL;
    CHECK_STATUS(xent_loss_planes(ce, x, c.y, c.loss), XENT_STATUS_NULL_POINTER);
    x = good, x.data = misaligned(c.logits);
    CHECK_STATUS(xent_loss_planes(ce, x, c.y, c.loss), XENT_STATUS_MISALIGNED);
    x = good, x.images = -1;
    CHECK_STATUS(xent_loss_planes(ce, x, c.y, c.loss), XENT_STATUS_NEGATIVE_SIZE);
    x = good, x.images = INT64_MAX, x.image_stride = 4;
    CHECK_STATUS(xent_loss_planes(ce, x, c.y, c.loss), XENT_STATUS_SIZE_OVERFLOW);
    x = xent_planes_of(c.logits, XENT_DTYPE_F32, 1, INT64_MAX, INT64_MAX);
    CHECK_STATUS(xent_loss_planes(ce, x, c.y, c.loss), XENT_STATUS_NEGATIVE_SIZE);
    x = good, x.dtype = XENT_DTYPE_U8;
    CHECK_STATUS(xent_loss_planes(ce, x, c.y, c.loss), XENT_STATUS_DTYPE);
    x = good, x.positions = 2;
    CHECK_STATUS(xent_loss_planes(ce, x, c.y, c.loss), XENT_STATUS_LENGTH_MISMATCH);
    dx.class_stride = 1;
    CHECK_STATUS(xent_loss_and_grad_planes(ce, good, c.y, dx, c.loss), XENT_STATUS_STRIDE_TOO_SMALL);
    dx = good_grad, dx.classes = 2;
    CHECK_STATUS(xent_loss_and_grad_planes(ce, good, c.y, dx, c.loss), XENT_STATUS_SHAPE_MISMATCH);
    dx = good_grad, dx.dtype = XENT_DTYPE_F16;
    CHECK_STATUS(xent_loss_and_grad_planes(ce, good, c.y, dx, c.loss), XENT_STATUS_DTYPE);
    dx = good_grad, dx.data = c.logits;
    CHECK_STATUS(xent_loss_and_grad_planes(ce, good, c.y, dx, c.loss), XENT_STATUS_OVERLAP);
    xent_planes_request request = xent_planes_request_default();
    request.size = 0;
    CHECK_STATUS(xent_run_planes(ce, good, c.y, &request, &c.summary), XENT_STATUS_STRUCT_SIZE);
    request = xent_planes_request_default();
    request.grad = good_grad;
    dx = xent_planes_mut_of(c.logits, XENT_DTYPE_F32, 1, CLASSES, ROWS);
    CHECK_STATUS(xent_run_planes_in_place(ce, dx, c.y, &request, &c.summary), XENT_STATUS_GRAD_TWICE);
    request.losses = xent_array_mut_of(c.losses, XENT_DTYPE_F32, 1);
    CHECK_STATUS(xent_run_planes(ce, good, c.y, &request, &c.summary), XENT_STATUS_LENGTH_MISMATCH);
    c.targets[1] = CLASSES;
    memcpy(c.before, c.memory.data, sizeof c.before);
    CHECK_STATUS(xent_loss_and_grad_planes(ce, good, c.y, good_grad, c.loss), XENT_STATUS_TARGET_OUT_OF_RANGE);
    end(&c, "row 1 is 4", __LINE__);
}

static void distillation(void) {
    struct call c;
    begin(&c);
    xent_distillation_options options = xent_distillation_options_default();
    xent_distillation *made = NULL;
    options.temperature = 0.0;
    CHECK_STATUS(xent_distillation_create(&options, &made), XENT_STATUS_INVALID_TEMPERATURE);
    options = xent_distillation_options_default();
    options.reduction = 7;
    CHECK_STATUS(xent_distillation_create(&options, &made), XENT_STATUS_INVALID_ENUM);
    options.size = 3;
    CHECK_STATUS(xent_distillation_create(&options, &made), XENT_STATUS_STRUCT_SIZE);
    CHECK_STATUS(xent_distillation_create(NULL, NULL), XENT_STATUS_NULL_POINTER);
    CHECK(made == NULL);
    CHECK_OK(xent_distillation_create(NULL, &made));
    CHECK_STATUS(xent_distillation_run(NULL, c.x, c.q, NULL, &c.summary), XENT_STATUS_NULL_POINTER);
    CHECK_STATUS(xent_distillation_run(made, c.x, c.q, NULL, NULL), XENT_STATUS_NULL_POINTER);
    CHECK_STATUS(xent_distillation_run_in_place(made, c.x_mut, c.x, NULL, &c.summary), XENT_STATUS_OVERLAP);
    xent_matrix teacher = c.q;
    teacher.rows = 2;
    CHECK_STATUS(xent_distillation_run(made, c.x, teacher, NULL, &c.summary), XENT_STATUS_SHAPE_MISMATCH);
    teacher = c.q;
    teacher.dtype = 99;
    CHECK_STATUS(xent_distillation_run(made, c.x, teacher, NULL, &c.summary), XENT_STATUS_DTYPE);
    CHECK(strstr(xent_last_error_message(), "the dtype of teacher is 99") != NULL);
    teacher.dtype = XENT_DTYPE_BF16;
    CHECK_STATUS(xent_distillation_run(made, c.x, teacher, NULL, &c.summary), XENT_STATUS_DTYPE);
    c.request.grad = c.dx;
    CHECK_STATUS(xent_distillation_run_in_place(made, c.x_mut, c.q, &c.request, &c.summary), XENT_STATUS_GRAD_TWICE);
    c.request = xent_request_default();
    c.request.probabilities = c.dx;
    CHECK_STATUS(xent_distillation_run(made, c.x, c.q, &c.request, &c.summary), XENT_STATUS_NOT_OF_DISTILLATION);
    end(&c, "probabilities", __LINE__);
    xent_distillation_destroy(made);
}

static int other_thread(void *message) {
    CHECK(strcmp(xent_last_error_message(), "") == 0);
    CHECK_STATUS(xent_loss(NULL, xent_matrix_of(NULL, 1, 0, 0), xent_array_of(NULL, 1, 0), NULL), XENT_STATUS_NULL_POINTER);
    CHECK(xent_last_error_message() != (const char *)message);
    return 0;
}

/* Each thread has its own message, which a call that works leaves alone. */
static void messages(void) {
    thrd_t thread;
    char before[512];
    double loss;
    float x[1] = {0};
    uint8_t y[1] = {0};
    CHECK_STATUS(xent_loss(ce, xent_matrix_of(x, 99, 1, 1), xent_array_of(y, XENT_DTYPE_U8, 1), &loss), XENT_STATUS_DTYPE);
    strcpy(before, xent_last_error_message());
    CHECK(thrd_create(&thread, other_thread, (void *)(uintptr_t)xent_last_error_message()) == thrd_success);
    CHECK(thrd_join(thread, NULL) == thrd_success);
    CHECK_OK(xent_loss(ce, xent_matrix_of(x, XENT_DTYPE_F32, 1, 1), xent_array_of(y, XENT_DTYPE_U8, 1), &loss));
    CHECK(strcmp(before, xent_last_error_message()) == 0);
    for (int status = 0; status <= XENT_STATUS_NOT_OF_DISTILLATION; status++)
        CHECK(strcmp(xent_status_message(status), "unknown status") != 0);
    CHECK(strcmp(xent_status_message(XENT_STATUS_NOT_OF_DISTILLATION + 1), "unknown status") == 0);
    CHECK(strcmp(xent_status_message(-1), "unknown status") == 0);
}

int main(void) {
    CHECK_OK(xent_cross_entropy_create(NULL, &ce));
    pointers_and_sizes();
    overlaps();
    dtypes();
    shapes_and_values();
    options();
    softmax_functions();
    structs_of_other_versions();
    shards();
    second_derivatives();
    planes();
    distillation();
    messages();
    xent_cross_entropy_destroy(ce);
    printf("errors: passed\n");
    return EXIT_SUCCESS;
}
