/* What calls compute: against a scalar reference, against each other, and against what lies around their memory. */

#include "check.h"

enum { MOST_ROWS = 40, MOST_CLASSES = 1100 };

/* Converts to and from the 16 bits of a bfloat16, whose numbers here are exact. */
static uint16_t to_bf16(double value) {
    float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static double from_bf16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

static double from_f16(uint16_t half) {
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double size = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
    return half >> 15 ? -size : size;
}

/* Of numbers that are multiples of 1/32 below 8, which it has exactly. */
static uint16_t to_f16(double value) {
    int exponent;
    double fraction = frexp(fabs(value), &exponent);
    if (fraction == 0.0)
        return 0;
    uint16_t half = (uint16_t)((exponent + 14) << 10 | (int)((2.0 * fraction - 1.0) * 1024.0));
    half = (uint16_t)(value < 0.0 ? half | 1 << 15 : half);
    CHECK(from_f16(half) == value);
    return half;
}

static size_t size_of(uint32_t dtype) { return dtype == XENT_DTYPE_F64 ? 8 : dtype == XENT_DTYPE_F32 ? 4 : 2; }

static void store(uint32_t dtype, void *data, int i, double value) {
    if (dtype == XENT_DTYPE_F32)
        ((float *)data)[i] = (float)value;
    else if (dtype == XENT_DTYPE_F64)
        ((double *)data)[i] = value;
    else
        ((uint16_t *)data)[i] = dtype == XENT_DTYPE_F16 ? to_f16(value) : to_bf16(value);
}

static double load(uint32_t dtype, const void *data, int i) {
    if (dtype == XENT_DTYPE_F32)
        return ((const float *)data)[i];
    if (dtype == XENT_DTYPE_F64)
        return ((const double *)data)[i];
    uint16_t half = ((const uint16_t *)data)[i];
    return dtype == XENT_DTYPE_F16 ? from_f16(half) : from_bf16(half);
}

/* For gaps up to 8, and with what the reference itself rounds: two sums of as many doubles, and exponentials. */
static double tolerance_of(uint32_t dtype) {
    return dtype == XENT_DTYPE_F64 ? tolerance_f64(8.0) + (2.0 * MOST_CLASSES + 8.0) / 9007199254740992.0 : TOLERANCE;
}

/* Half a unit in the last place of what is stored, beside the error in F32. */
static int is_gradient(uint32_t dtype, double found, double expected) {
    if (dtype == XENT_DTYPE_F64)
        return relative_difference(found, expected) <= tolerance_of(dtype);
    if (dtype == XENT_DTYPE_F32)
        return relative_difference(found, expected) <= TOLERANCE;
    double rounding = dtype == XENT_DTYPE_F16 ? ldexp(1, -11) : ldexp(1, -8);
    double smallest = dtype == XENT_DTYPE_F16 ? ldexp(1, -14) : ldexp(1, -126);
    return fabs(found - expected) <= (TOLERANCE + rounding) * fabs(expected) + (dtype == XENT_DTYPE_F16 ? smallest : 0);
}

/* Loss and gradient of every dtype, with padding between rows, out of place and in place; nothing beside the columns is
 * written. */
static void gradients_are_those_of_the_reference_and_padding_stays(void) {
    const uint32_t dtypes[] = {XENT_DTYPE_F32, XENT_DTYPE_F64, XENT_DTYPE_F16, XENT_DTYPE_BF16};
    const int shapes[][3] = {{1, 1, 1}, {3, 10, 10}, {17, 10, 13}, {5, 65, 70}, {2, 1037, 1100}};
    xent_cross_entropy *ce = NULL;
    CHECK_OK(xent_cross_entropy_create(NULL, &ce));
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            uint32_t dtype = dtypes[d];
            int rows = shapes[s][0], classes = shapes[s][1], stride = shapes[s][2];
            size_t bytes = ((size_t)(rows - 1) * (size_t)stride + (size_t)classes) * size_of(dtype);
            struct guarded logits = guard_bytes(bytes), grad = guard_bytes(bytes);
            int64_t targets[MOST_ROWS];
            double expected[MOST_CLASSES], x[MOST_CLASSES], total = 0.0;
            for (int r = 0; r < rows; r++) {
                targets[r] = (r * 7 + 3) % classes;
                for (int c = 0; c < classes; c++) {
                    x[c] = number(r * classes + c);
                    store(dtype, logits.data, r * stride + c, x[c]);
                }
                total += reference_row(x, classes, (int)targets[r], expected);
            }
            xent_matrix_mut x_mut = xent_matrix_mut_of(logits.data, dtype, rows, classes);
            xent_matrix x_view = xent_matrix_of(logits.data, dtype, rows, classes);
            xent_matrix_mut dx = xent_matrix_mut_of(grad.data, dtype, rows, classes);
            x_mut.row_stride = x_view.row_stride = dx.row_stride = stride;
            xent_array y = xent_array_of(targets, XENT_DTYPE_I64, rows);

            double loss = -1, with_grad = -1, in_place = -1;
            CHECK_OK(xent_loss(ce, x_view, y, &loss));
            CHECK_OK(xent_loss_and_grad(ce, x_view, y, dx, &with_grad));
            CHECK_OK(xent_loss_and_grad_in_place(ce, x_mut, y, &in_place));
            CHECK(classes == 1 ? loss == 0.0 : relative_difference(loss, total / rows) <= tolerance_of(dtype));
            CHECK(loss == with_grad && loss == in_place);
            CHECK(memcmp(logits.data, grad.data, bytes) == 0);
            CHECK(has_canaries(&logits) && has_canaries(&grad));
            for (int r = 0; r < rows; r++) {
                for (int c = 0; c < classes; c++)
                    x[c] = number(r * classes + c);
                reference_row(x, classes, (int)targets[r], expected);
                for (int c = 0; c < classes; c++)
                    CHECK(is_gradient(dtype, load(dtype, grad.data, r * stride + c), expected[c] / rows));
                size_t padding = r + 1 < rows ? (size_t)(stride - classes) * size_of(dtype) : 0;
                CHECK(is_canary(grad.data + (size_t)(r * stride + classes) * size_of(dtype), padding));
            }
            free(logits.memory);
            free(grad.memory);
        }
    xent_cross_entropy_destroy(ce);
}

/* The same bits from targets of every type, from every backend, and with or without threads. */
static void targets_backends_and_threads_change_no_bit(void) {
    enum { ROWS = 300, CLASSES = 1000 };
    static float logits[ROWS * CLASSES], grad[ROWS * CLASSES], first[ROWS * CLASSES];
    static uint8_t u8[ROWS];
    static uint16_t u16[ROWS];
    static uint32_t u32[ROWS];
    static uint64_t u64[ROWS];
    static int32_t i32[ROWS];
    static int64_t i64[ROWS];
    for (int i = 0; i < ROWS * CLASSES; i++)
        logits[i] = (float)number(i);
    for (int r = 0; r < ROWS; r++)
        u64[r] = u32[r] = u16[r] = u8[r] = (uint8_t)(r % 256), i64[r] = i32[r] = u8[r];
    const xent_array targets[] = {
        xent_array_of(u8, XENT_DTYPE_U8, ROWS),   xent_array_of(u16, XENT_DTYPE_U16, ROWS),
        xent_array_of(u32, XENT_DTYPE_U32, ROWS), xent_array_of(u64, XENT_DTYPE_U64, ROWS),
        xent_array_of(i32, XENT_DTYPE_I32, ROWS), xent_array_of(i64, XENT_DTYPE_I64, ROWS),
    };
    double first_loss = NAN;
    int tried = 0;
    for (uint32_t backend = XENT_BACKEND_FASTEST; backend <= XENT_BACKEND_AVX512; backend++)
        for (uint32_t parallelism = XENT_PARALLELISM_RAYON; parallelism <= XENT_PARALLELISM_SERIAL; parallelism++)
            for (size_t t = 0; t < sizeof targets / sizeof *targets; t++) {
                xent_options options = xent_options_default();
                options.backend = backend;
                options.parallelism = parallelism;
                options.label_smoothing = 0.1;
                xent_cross_entropy *ce = NULL;
                xent_status status = xent_cross_entropy_create(&options, &ce);
                if (status == XENT_STATUS_BACKEND_UNAVAILABLE) {
                    CHECK(ce == NULL);
                    if (parallelism == 0 && t == 0)
                        fprintf(stderr, "%s: NOT tested\n", xent_last_error_message());
                    continue;
                }
                CHECK_OK(status);
                uint32_t chosen = xent_cross_entropy_backend(ce);
                CHECK(backend == XENT_BACKEND_FASTEST ? chosen != backend : chosen == backend);
                double loss;
                memset(grad, 0xA5, sizeof grad);
                CHECK_OK(xent_loss_and_grad(ce, xent_matrix_of(logits, XENT_DTYPE_F32, ROWS, CLASSES), targets[t],
                                            xent_matrix_mut_of(grad, XENT_DTYPE_F32, ROWS, CLASSES), &loss));
                xent_cross_entropy_destroy(ce);
                /* The portable one has no fused multiply-add on plain x86-64, and is within the bounds only. */
                if (chosen == XENT_BACKEND_PORTABLE && tried > 0) {
                    CHECK(relative_difference(loss, first_loss) <= TOLERANCE);
                    continue;
                }
                if (tried++ == 0) {
                    first_loss = loss;
                    memcpy(first, grad, sizeof first);
                }
                CHECK(loss == first_loss && memcmp(first, grad, sizeof first) == 0);
            }
    CHECK(tried > 0);
}

/* Every output and input of a request. */
static void a_request_has_every_output(void) {
    enum { ROWS = 3, CLASSES = 4 };
    float logits[ROWS * CLASSES] = {1, 2, 3, 0, 4, 1, 1, 0, 0, 0, 0, 0};
    int32_t targets[ROWS] = {1, 0, -7};
    float losses[ROWS], lse[ROWS], log_p[ROWS], entropies[ROWS], best_p[ROWS];
    int64_t best[ROWS];
    uint64_t ranks[ROWS];
    float p[ROWS * CLASSES], ln_p[ROWS * CLASSES], grad[ROWS * CLASSES], expected[ROWS * CLASSES] = {0};
    double row[CLASSES], row_grad[CLASSES], row_losses[2], denominator = 5.0, scale = 2.0;
    float weights[ROWS] = {1.0F, 0.5F, 3.0F};
    for (int r = 0; r < 2; r++) {
        for (int c = 0; c < CLASSES; c++)
            row[c] = logits[r * CLASSES + c];
        row_losses[r] = reference_row(row, CLASSES, targets[r], row_grad);
        for (int c = 0; c < CLASSES; c++)
            expected[r * CLASSES + c] = (float)(row_grad[c] * weights[r] * scale / denominator);
    }

    xent_options options = xent_options_default();
    options.ignore_index = -7;
    xent_cross_entropy *ce = NULL;
    CHECK_OK(xent_cross_entropy_create(&options, &ce));
    xent_matrix x = xent_matrix_of(logits, XENT_DTYPE_F32, ROWS, CLASSES);
    xent_array y = xent_array_of(targets, XENT_DTYPE_I32, ROWS);
    xent_request request = xent_request_default();
    request.row_weights = xent_array_of(weights, XENT_DTYPE_F32, ROWS);
    request.upstream_scalar = &scale;
    request.denominator = &denominator;
    request.grad = xent_matrix_mut_of(grad, XENT_DTYPE_F32, ROWS, CLASSES);
    request.losses = xent_array_mut_of(losses, XENT_DTYPE_F32, ROWS);
    request.lse = xent_array_mut_of(lse, XENT_DTYPE_F32, ROWS);
    request.target_log_probabilities = xent_array_mut_of(log_p, XENT_DTYPE_F32, ROWS);
    request.entropies = xent_array_mut_of(entropies, XENT_DTYPE_F32, ROWS);
    request.argmax = xent_array_mut_of(best, XENT_DTYPE_I64, ROWS);
    request.argmax_probabilities = xent_array_mut_of(best_p, XENT_DTYPE_F32, ROWS);
    request.target_ranks = xent_array_mut_of(ranks, XENT_DTYPE_U64, ROWS);
    request.probabilities = xent_matrix_mut_of(p, XENT_DTYPE_F32, ROWS, CLASSES);
    request.log_probabilities = xent_matrix_mut_of(ln_p, XENT_DTYPE_F32, ROWS, CLASSES);
    xent_summary summary = xent_summary_default();
    CHECK_OK(xent_run(ce, x, y, &request, &summary));

    CHECK(summary.size == sizeof summary && summary.counted == 2 && summary.correct == 1 && summary.z_loss == 0.0);
    CHECK(summary.weight == 1.5);
    CHECK(relative_difference(summary.loss, (row_losses[0] + 0.5 * row_losses[1]) / denominator) <= TOLERANCE);
    for (int r = 0; r < 2; r++) {
        double entropy = 0.0;
        CHECK(relative_difference(losses[r], row_losses[r] * weights[r]) <= TOLERANCE);
        CHECK(relative_difference(log_p[r], -row_losses[r]) <= TOLERANCE);
        CHECK(relative_difference(lse[r], row_losses[r] + logits[r * CLASSES + targets[r]]) <= TOLERANCE);
        for (int c = 0; c < CLASSES; c++) {
            CHECK(relative_difference(p[r * CLASSES + c], exp(ln_p[r * CLASSES + c])) <= TOLERANCE);
            entropy -= p[r * CLASSES + c] * (double)ln_p[r * CLASSES + c];
            CHECK(relative_difference(grad[r * CLASSES + c], expected[r * CLASSES + c]) <= TOLERANCE);
        }
        CHECK(relative_difference(entropies[r], entropy) <= TOLERANCE);
        CHECK(best_p[r] == p[r * CLASSES + best[r]]);
    }
    CHECK(best[0] == 2 && best[1] == 0 && best[2] == -1);
    CHECK(ranks[0] == 1 && ranks[1] == 0 && ranks[2] == UINT64_MAX);
    CHECK(losses[2] == 0.0F && lse[2] == 0.0F && memcmp(grad + 2 * CLASSES, expected + 2 * CLASSES, 16) == 0);

    /* Added to what is there; a mask in place of the ignored index; an upstream gradient of each row. */
    uint8_t mask[ROWS] = {1, 1, 0};
    float upstream[ROWS] = {0.5F, 1.0F, 9.0F};
    xent_request more = xent_request_default();
    more.loss_mask = xent_array_of(mask, XENT_DTYPE_U8, ROWS);
    more.upstream = xent_array_of(upstream, XENT_DTYPE_F32, ROWS);
    more.grad = xent_matrix_mut_of(grad, XENT_DTYPE_F32, ROWS, CLASSES);
    more.accumulate = 1;
    targets[2] = 1000;
    memset(grad, 0, sizeof grad);
    CHECK_OK(xent_run(ce, x, y, &more, &summary));
    CHECK_OK(xent_run(ce, x, y, &more, &summary));
    for (int c = 0; c < CLASSES; c++)
        CHECK(relative_difference(grad[c], expected[c] * denominator / scale) <= TOLERANCE);

    /* In another dtype. */
    uint16_t half[ROWS * CLASSES];
    more.accumulate = 0;
    more.grad = xent_matrix_mut_of(half, XENT_DTYPE_BF16, ROWS, CLASSES);
    CHECK_OK(xent_run(ce, x, y, &more, &summary));
    for (int c = 0; c < CLASSES; c++)
        CHECK(relative_difference((float)load(XENT_DTYPE_BF16, half, c), expected[c] * denominator / scale / 2) <= 1.0 / 256);
    CHECK(half[2 * CLASSES] == 0);

    /* In place, what takes the place of the logits is the gradient. */
    float in_place[ROWS * CLASSES];
    memcpy(in_place, logits, sizeof in_place);
    xent_request losses_alone = xent_request_default();
    losses_alone.loss_mask = more.loss_mask;
    losses_alone.losses = xent_array_mut_of(losses, XENT_DTYPE_F32, ROWS);
    CHECK_OK(xent_run_in_place(ce, xent_matrix_mut_of(in_place, XENT_DTYPE_F32, ROWS, CLASSES), y, &losses_alone,
                               &summary));
    CHECK_STATUS(xent_run(ce, x, y, NULL, &summary), XENT_STATUS_TARGET_OUT_OF_RANGE);
    for (int c = 0; c < CLASSES; c++)
        CHECK(relative_difference(in_place[c], expected[c] * denominator / scale / 2) <= TOLERANCE);
    xent_cross_entropy_destroy(ce);
}

/* The gradient of doubles as floats: each number is that of doubles, rounded once. */
static void a_gradient_of_doubles_as_floats(void) {
    enum { ROWS = 2, CLASSES = 3 };
    const double logits[ROWS * CLASSES] = {0.1, -2.7, 1.3, 4.0, 0.7, 3.9};
    const uint8_t targets[ROWS] = {1, 0};
    double grad[ROWS * CLASSES];
    float rounded[ROWS * CLASSES];
    xent_cross_entropy *ce = NULL;
    CHECK_OK(xent_cross_entropy_create(NULL, &ce));
    xent_matrix x = xent_matrix_of(logits, XENT_DTYPE_F64, ROWS, CLASSES);
    xent_array y = xent_array_of(targets, XENT_DTYPE_U8, ROWS);
    xent_request request = xent_request_default();
    xent_summary summary = xent_summary_default(), of_floats = xent_summary_default();
    request.grad = xent_matrix_mut_of(grad, XENT_DTYPE_F64, ROWS, CLASSES);
    CHECK_OK(xent_run(ce, x, y, &request, &summary));
    request.grad = xent_matrix_mut_of(rounded, XENT_DTYPE_F32, ROWS, CLASSES);
    CHECK_OK(xent_run(ce, x, y, &request, &of_floats));
    CHECK(of_floats.loss == summary.loss);
    for (int i = 0; i < ROWS * CLASSES; i++)
        CHECK(rounded[i] == (float)grad[i]);
    xent_cross_entropy_destroy(ce);
}

/* A gap of 700 leaves exp(-700) in a double, everywhere; and what has one number for each row is a double as well. */
static void a_confident_row_of_doubles(void) {
    enum { ROWS = 2, CLASSES = 2 };
    const double tiny = 9.859676543759770857e-305, close = tolerance_f64(700.0);
    const double logits[ROWS * CLASSES] = {0, -700, 1, 5}, upstream[ROWS] = {0.5, 2.0};
    const uint8_t targets[ROWS] = {0, 7};
    double grad[ROWS * CLASSES], in_place[ROWS * CLASSES], p[ROWS * CLASSES], ln_p[ROWS * CLASSES];
    double losses[ROWS], lse[ROWS], log_p[ROWS], entropies[ROWS], best_p[ROWS], loss;
    int64_t best[ROWS], ranks[ROWS];
    xent_options options = xent_options_default();
    options.ignore_index = 7;
    xent_cross_entropy *ce = NULL;
    CHECK_OK(xent_cross_entropy_create(&options, &ce));
    xent_matrix x = xent_matrix_of(logits, XENT_DTYPE_F64, ROWS, CLASSES);
    xent_array y = xent_array_of(targets, XENT_DTYPE_U8, ROWS);
    xent_request request = xent_request_default();
    request.upstream = xent_array_of(upstream, XENT_DTYPE_F64, ROWS);
    request.grad = xent_matrix_mut_of(grad, XENT_DTYPE_F64, ROWS, CLASSES);
    request.losses = xent_array_mut_of(losses, XENT_DTYPE_F64, ROWS);
    request.lse = xent_array_mut_of(lse, XENT_DTYPE_F64, ROWS);
    request.target_log_probabilities = xent_array_mut_of(log_p, XENT_DTYPE_F64, ROWS);
    request.entropies = xent_array_mut_of(entropies, XENT_DTYPE_F64, ROWS);
    request.argmax = xent_array_mut_of(best, XENT_DTYPE_I64, ROWS);
    request.argmax_probabilities = xent_array_mut_of(best_p, XENT_DTYPE_F64, ROWS);
    request.target_ranks = xent_array_mut_of(ranks, XENT_DTYPE_I64, ROWS);
    request.probabilities = xent_matrix_mut_of(p, XENT_DTYPE_F64, ROWS, CLASSES);
    request.log_probabilities = xent_matrix_mut_of(ln_p, XENT_DTYPE_F64, ROWS, CLASSES);
    xent_summary summary = xent_summary_default();
    CHECK_OK(xent_run(ce, x, y, &request, &summary));
    /* Measured against `tiny` itself: `relative_difference` takes it for 0. */
    CHECK(summary.counted == 1 && summary.correct == 1 && fabs(summary.loss / tiny - 1.0) <= close);
    CHECK(losses[0] == summary.loss && losses[1] == 0.0 && fabs(log_p[0] / -tiny - 1.0) <= close);
    CHECK(fabs(lse[0] / tiny - 1.0) <= close && best_p[0] == 1.0 && best[0] == 0 && best[1] == -1 && ranks[0] == 0);
    CHECK(fabs(entropies[0] / (701.0 * tiny) - 1.0) <= close);
    CHECK(p[0] == 1.0 && fabs(p[1] / tiny - 1.0) <= close && fabs(ln_p[0] / -tiny - 1.0) <= close && ln_p[1] == -700.0);
    CHECK(fabs(grad[0] / (-0.5 * tiny) - 1.0) <= close && grad[1] == -grad[0] && grad[2] == 0.0 && grad[3] == 0.0);

    CHECK_OK(xent_loss(ce, x, y, &loss));
    CHECK(loss == summary.loss);
    memcpy(in_place, logits, sizeof in_place);
    CHECK_OK(xent_loss_and_grad_in_place(ce, xent_matrix_mut_of(in_place, XENT_DTYPE_F64, ROWS, CLASSES), y, &loss));
    CHECK(loss == summary.loss && fabs(in_place[1] / tiny - 1.0) <= close && in_place[0] == -in_place[1]);
    xent_cross_entropy_destroy(ce);

    double q[ROWS * CLASSES], dx[ROWS * CLASSES];
    CHECK_OK(xent_softmax(x, xent_matrix_mut_of(q, XENT_DTYPE_F64, ROWS, CLASSES), NULL));
    CHECK(q[0] == 1.0 && fabs(q[1] / tiny - 1.0) <= close);
    CHECK_OK(xent_softmax_backward(xent_matrix_of(q, XENT_DTYPE_F64, ROWS, CLASSES), x,
                                   xent_matrix_mut_of(dx, XENT_DTYPE_F64, ROWS, CLASSES), NULL));
    CHECK(fabs(dx[1] / (-700.0 * tiny) - 1.0) <= close);
    CHECK_OK(xent_log_softmax(x, xent_matrix_mut_of(q, XENT_DTYPE_F64, ROWS, CLASSES), NULL));
    CHECK(fabs(q[0] / -tiny - 1.0) <= close && q[1] == -700.0);
}

/* Every option is handed on: each gives the value that its formula has. */
static void options_change_the_loss_as_they_say(void) {
    const float logits[2] = {1, 2};
    const uint8_t target[1] = {1};
    const float weight[2] = {3.0F, 2.0F};
    const int64_t ignored[2] = {5, 1};
    const double loss_1 = 0.31326168751822286, loss_0 = 1.3132616875182228, lse = 2.3132616875182228;
    double found;
    const xent_matrix x = xent_matrix_of(logits, XENT_DTYPE_F32, 1, 2);
    const xent_array y = xent_array_of(target, XENT_DTYPE_U8, 1);
    for (int option = 0; option < 13; option++) {
        xent_options options = xent_options_default();
        double expected = loss_1;
        switch (option) {
        case 0:
            break;
        case 1:
            options.weight = xent_array_of(weight, XENT_DTYPE_F32, 2);
            options.reduction = XENT_REDUCTION_SUM;
            expected = 2.0 * loss_1;
            break;
        case 2:
            options.ignore_index = 1;
            expected = NAN;
            break;
        case 3:
            options.ignore_indices = xent_array_of(ignored, XENT_DTYPE_I64, 2);
            options.empty_mean = XENT_EMPTY_MEAN_ZERO;
            expected = 0.0;
            break;
        case 4:
            options.label_smoothing = 0.2;
            expected = 0.9 * loss_1 + 0.1 * loss_0;
            break;
        case 5:
            options.label_smoothing = 0.2;
            options.smoothing = XENT_SMOOTHING_OTHER_CLASSES;
            expected = 0.8 * loss_1 + 0.2 * loss_0;
            break;
        case 6:
            options.z_loss = 0.5;
            expected = loss_1 + 0.5 * lse * lse;
            break;
        case 7:
            options.focal_gamma = 2.0;
            expected = loss_1 * pow(1.0 - exp(-loss_1), 2.0);
            break;
        case 8: /* Not null, but none: nothing is ignored. */
            options.ignore_index = 1;
            options.ignore_indices = xent_array_of(ignored, XENT_DTYPE_I64, 0);
            break;
        case 9:
            options.label_smoothing = 0.2;
            options.smoothing = XENT_SMOOTHING_LIVE_CLASSES;
            expected = 0.9 * loss_1 + 0.1 * loss_0;
            break;
        case 10:
            options.logit_scale = 0.5;
            expected = log1p(exp(0.5 - 1.0));
            break;
        case 11:
            options.softcap = 2.0;
            expected = log1p(exp(2.0 * tanh(0.5) - 2.0 * tanh(1.0)));
            break;
        case 12: /* Of a program that was compiled before the two were there: what lies behind is not read. */
            options.size = offsetof(xent_options, logit_scale);
            options.logit_scale = options.softcap = NAN;
            break;
        }
        xent_cross_entropy *ce = NULL;
        CHECK_OK(xent_cross_entropy_create(&options, &ce));
        CHECK_OK(xent_loss(ce, x, y, &found));
        CHECK(isnan(expected) ? isnan(found)
                              : found == expected || relative_difference(found, expected) <= TOLERANCE);
        xent_cross_entropy_destroy(ce);
    }
}

/* A target that is certain, as a class and as probabilities, is the same target. */
static void probabilities_as_targets(void) {
    float logits[8] = {1, 2, 3, 4, 0.5F, 0.25F, -1, 2}, q[8] = {0, 0, 1, 0, 1, 0, 0, 0}, grad[8], in_place[8], other[8];
    uint8_t targets[2] = {2, 0};
    double loss;
    xent_cross_entropy *ce = NULL;
    CHECK_OK(xent_cross_entropy_create(NULL, &ce));
    xent_matrix x = xent_matrix_of(logits, XENT_DTYPE_F32, 2, 4), p = xent_matrix_of(q, XENT_DTYPE_F32, 2, 4);
    CHECK_OK(xent_loss_and_grad(ce, x, xent_array_of(targets, XENT_DTYPE_U8, 2),
                                xent_matrix_mut_of(other, XENT_DTYPE_F32, 2, 4), &loss));
    xent_request request = xent_request_default();
    request.grad = xent_matrix_mut_of(grad, XENT_DTYPE_F32, 2, 4);
    xent_summary summary = xent_summary_default();
    CHECK_OK(xent_run_probabilities(ce, x, p, &request, &summary));
    memcpy(in_place, logits, sizeof in_place);
    CHECK(relative_difference(summary.loss, loss) <= TOLERANCE);
    CHECK_OK(xent_run_probabilities_in_place(ce, xent_matrix_mut_of(in_place, XENT_DTYPE_F32, 2, 4), p, NULL, &summary));
    for (int i = 0; i < 8; i++)
        CHECK(relative_difference(grad[i], other[i]) <= TOLERANCE && grad[i] == in_place[i]);
    xent_cross_entropy_destroy(ce);
}

/* The same of doubles, to more digits. */
static void probabilities_of_doubles_as_targets(void) {
    double logits[8] = {1, 2, 3, 4, 0.5, 0.25, -1, 2}, q[8] = {0, 0, 1, 0, 1, 0, 0, 0}, grad[8], in_place[8], other[8];
    uint8_t targets[2] = {2, 0};
    double loss;
    xent_cross_entropy *ce = NULL;
    CHECK_OK(xent_cross_entropy_create(NULL, &ce));
    xent_matrix x = xent_matrix_of(logits, XENT_DTYPE_F64, 2, 4), p = xent_matrix_of(q, XENT_DTYPE_F64, 2, 4);
    CHECK_OK(xent_loss_and_grad(ce, x, xent_array_of(targets, XENT_DTYPE_U8, 2),
                                xent_matrix_mut_of(other, XENT_DTYPE_F64, 2, 4), &loss));
    xent_request request = xent_request_default();
    request.grad = xent_matrix_mut_of(grad, XENT_DTYPE_F64, 2, 4);
    xent_summary summary = xent_summary_default();
    CHECK_OK(xent_run_probabilities(ce, x, p, &request, &summary));
    memcpy(in_place, logits, sizeof in_place);
    CHECK(relative_difference(summary.loss, loss) <= 1e-14);
    CHECK_OK(xent_run_probabilities_in_place(ce, xent_matrix_mut_of(in_place, XENT_DTYPE_F64, 2, 4), p, NULL, &summary));
    for (int i = 0; i < 8; i++)
        CHECK(relative_difference(grad[i], other[i]) <= 1e-14 && grad[i] == in_place[i]);
    xent_cross_entropy_destroy(ce);
}

/* A vocabulary in three shards: loss, outputs and gradient of whole rows, of every dtype. The states go through bytes. */
static void shards_have_the_loss_and_gradient_of_whole_rows(void) {
    enum { ROWS = 5, COUNTED = 4, CLASSES = 900, SHARDS = 3, EACH = CLASSES / SHARDS };
    const uint32_t dtypes[] = {XENT_DTYPE_F32, XENT_DTYPE_F64, XENT_DTYPE_F16, XENT_DTYPE_BF16};
    static double logits[ROWS * CLASSES], whole[ROWS * CLASSES], grad[ROWS * CLASSES], sum[ROWS * CLASSES];
    static float in_other[ROWS * CLASSES];
    int64_t targets[ROWS] = {0, 450, 899, -100, 7};
    double losses[ROWS], lse[ROWS], log_p[ROWS], found[ROWS], twice[ROWS];
    xent_row_state_f64 of_shards[ROWS], of_one[ROWS], of_chunks[ROWS];
    uint8_t bytes[ROWS * XENT_ROW_STATE_F64_BYTES + 1];
    xent_cross_entropy *ce = NULL;
    CHECK_OK(xent_cross_entropy_create(NULL, &ce));
    xent_array y = xent_array_of(targets, XENT_DTYPE_I64, ROWS);
    for (int d = 0; d < 4; d++) {
        const uint32_t dtype = dtypes[d], per_row = dtype == XENT_DTYPE_F64 ? XENT_DTYPE_F64 : XENT_DTYPE_F32;
        const uint32_t state = dtype == XENT_DTYPE_F64 ? XENT_DTYPE_ROW_STATE_F64 : XENT_DTYPE_ROW_STATE;
        const size_t state_bytes = dtype == XENT_DTYPE_F64 ? XENT_ROW_STATE_F64_BYTES : XENT_ROW_STATE_BYTES;
        for (int i = 0; i < ROWS * CLASSES; i++)
            store(dtype, logits, i, number(i));
        for (int r = 0; r < ROWS; r++)
            store(per_row, twice, r, 2.0);
        xent_request request = xent_request_default();
        request.grad = xent_matrix_mut_of(whole, dtype, ROWS, CLASSES);
        request.losses = xent_array_mut_of(losses, per_row, ROWS);
        request.lse = xent_array_mut_of(lse, per_row, ROWS);
        request.target_log_probabilities = xent_array_mut_of(log_p, per_row, ROWS);
        xent_summary summary = xent_summary_default(), merged = xent_summary_default();
        CHECK_OK(xent_run(ce, xent_matrix_of(logits, dtype, ROWS, CLASSES), y, &request, &summary));

        xent_shards shards = xent_shards_of(y, CLASSES);
        const xent_array states = xent_array_of(of_shards, state, ROWS), others = xent_array_of(of_one, state, ROWS);
        const xent_array_mut states_mut = xent_array_mut_of(of_shards, state, ROWS);
        const xent_array_mut others_mut = xent_array_mut_of(of_one, state, ROWS);
        const xent_array_mut chunks_mut = xent_array_mut_of(of_chunks, state, ROWS);
        CHECK_OK(xent_row_states_clear(states_mut));
        CHECK_OK(xent_row_states_clear(chunks_mut));
        for (int shard = 0; shard < SHARDS; shard++) {
            xent_matrix columns = xent_matrix_of((char *)logits + shard * EACH * size_of(dtype), dtype, ROWS, EACH);
            columns.row_stride = CLASSES;
            memset(of_one, 0xA5, sizeof of_one);
            CHECK_OK(xent_shards_summarise(ce, &shards, columns, shard * EACH, others_mut));
            CHECK_OK(xent_row_states_merge(states_mut, others));
            CHECK_OK(xent_shards_accumulate(ce, &shards, columns, shard * EACH, chunks_mut));
            if (shard == 0)
                CHECK_STATUS(xent_shards_finish(ce, &shards, states, &merged), XENT_STATUS_INCOMPLETE_STATE);
        }
        CHECK(memcmp(of_shards, of_chunks, ROWS * state_bytes) == 0);
        bytes[ROWS * state_bytes] = 0xA5;
        const int64_t len = (int64_t)(ROWS * state_bytes);
        CHECK_OK(xent_row_states_to_bytes(states, xent_array_mut_of(bytes, XENT_DTYPE_U8, len)));
        memset(of_shards, 0, sizeof of_shards);
        CHECK_OK(xent_row_states_from_bytes(xent_array_of(bytes, XENT_DTYPE_U8, len), states_mut));
        CHECK(bytes[len] == 0xA5 && memcmp(of_shards, of_chunks, ROWS * state_bytes) == 0);

        const double tolerance = tolerance_of(per_row);
        const xent_array_mut to_found = xent_array_mut_of(found, per_row, ROWS);
        CHECK_OK(xent_shards_finish(ce, &shards, states, &merged));
        CHECK(relative_difference(merged.loss, summary.loss) <= tolerance && merged.counted == COUNTED);
        CHECK_OK(xent_shards_losses(ce, &shards, states, to_found, &merged));
        for (int r = 0; r < ROWS; r++)
            CHECK(relative_difference(load(per_row, found, r), load(per_row, losses, r)) <= tolerance);
        CHECK_OK(xent_shards_lse(ce, &shards, states, to_found));
        for (int r = 0; r < ROWS; r++)
            CHECK(relative_difference(load(per_row, found, r), load(per_row, lse, r)) <= tolerance);
        CHECK_OK(xent_shards_target_log_probabilities(ce, &shards, states, to_found));
        for (int r = 0; r < ROWS; r++)
            CHECK(relative_difference(load(per_row, found, r), load(per_row, log_p, r)) <= tolerance);

        memset(sum, 0, sizeof sum);
        for (int shard = 0; shard < SHARDS; shard++) {
            const size_t offset = shard * EACH * size_of(dtype);
            xent_matrix columns = xent_matrix_of((char *)logits + offset, dtype, ROWS, EACH);
            xent_matrix_mut to = xent_matrix_mut_of((char *)grad + offset, dtype, ROWS, EACH);
            xent_matrix_mut add_to = xent_matrix_mut_of((char *)sum + offset, dtype, ROWS, EACH);
            xent_matrix_mut overwritten = xent_matrix_mut_of((char *)logits + offset, dtype, ROWS, EACH);
            columns.row_stride = to.row_stride = add_to.row_stride = overwritten.row_stride = CLASSES;
            CHECK_OK(xent_shards_grad(ce, &shards, columns, shard * EACH, states, to));
            CHECK_OK(xent_shards_accumulate_grad(ce, &shards, columns, shard * EACH, states, add_to));
            /* In another dtype, written and then added to: twice the gradient. */
            xent_matrix_mut other_to = xent_matrix_mut_of(in_other + shard * EACH, XENT_DTYPE_F32, ROWS, EACH);
            other_to.row_stride = CLASSES;
            CHECK_OK(xent_shards_grad(ce, &shards, columns, shard * EACH, states, other_to));
            CHECK_OK(xent_shards_accumulate_grad(ce, &shards, columns, shard * EACH, states, other_to));
            /* The gradient of each row's own loss, times two: a power of two more than the mean's. */
            shards.upstream = xent_array_of(twice, per_row, ROWS);
            CHECK_OK(xent_shards_grad_in_place(ce, &shards, overwritten, shard * EACH, states));
            shards.upstream = xent_array_of(NULL, per_row, 0);
        }
        for (int i = 0; i < ROWS * CLASSES; i++) {
            const double element = load(dtype, grad, i);
            CHECK(is_gradient(dtype, element, load(dtype, whole, i)) && element == load(dtype, sum, i));
            CHECK(is_gradient(dtype, load(dtype, logits, i) / (2 * COUNTED), element));
            CHECK(is_gradient(dtype == XENT_DTYPE_F64 ? XENT_DTYPE_F32 : dtype, 2 * element, in_other[i]));
        }
    }
    xent_cross_entropy_destroy(ce);
}

/* Softmax and its logarithm, forward and backward, out of place and in place. */
/* A scale of 2 is exact: as logits of twice the size, with twice the gradient. */
static void scaled_doubles(void) {
    double logits[6] = {1, 2, 3, 2, 1, 0.5}, twice[6], grad[6], expected[6], loss, of_twice;
    uint8_t targets[2] = {2, 0};
    for (int i = 0; i < 6; i++)
        twice[i] = 2.0 * logits[i];
    xent_options options = xent_options_default();
    xent_cross_entropy *plain = NULL, *scaled = NULL;
    options.logit_scale = 2.0;
    CHECK_OK(xent_cross_entropy_create(NULL, &plain));
    CHECK_OK(xent_cross_entropy_create(&options, &scaled));
    xent_array y = xent_array_of(targets, XENT_DTYPE_U8, 2);
    CHECK_OK(xent_loss_and_grad(scaled, xent_matrix_of(logits, XENT_DTYPE_F64, 2, 3), y,
                                xent_matrix_mut_of(grad, XENT_DTYPE_F64, 2, 3), &loss));
    CHECK_OK(xent_loss_and_grad(plain, xent_matrix_of(twice, XENT_DTYPE_F64, 2, 3), y,
                                xent_matrix_mut_of(expected, XENT_DTYPE_F64, 2, 3), &of_twice));
    CHECK(loss == of_twice);
    for (int i = 0; i < 6; i++)
        CHECK(grad[i] == 2.0 * expected[i]);
    xent_cross_entropy_destroy(plain);
    xent_cross_entropy_destroy(scaled);
}

/* From doubles: for the mean of plain rows, p_i (v_i - p . v) / rows. */
static void second_derivatives_are_those_of_the_softmax(void) {
    enum { ROWS = 3, CLASSES = 5, ELEMENTS = ROWS * CLASSES };
    float logits[ELEMENTS], direction[ELEMENTS], product[ELEMENTS], in_place[ELEMENTS], diagonal[ELEMENTS],
        hessian[ELEMENTS], grad[ELEMENTS], derivatives[ROWS];
    uint8_t targets[ROWS] = {4, 0, 2};
    double derivative, along = 0.0, of_rows = 0.0, loss;
    for (int i = 0; i < ELEMENTS; i++)
        logits[i] = (float)number(i), direction[i] = in_place[i] = (float)number(3 * i + 1);
    xent_matrix x = xent_matrix_of(logits, XENT_DTYPE_F32, ROWS, CLASSES);
    xent_matrix v = xent_matrix_of(direction, XENT_DTYPE_F32, ROWS, CLASSES);
    xent_array y = xent_array_of(targets, XENT_DTYPE_U8, ROWS), none = xent_array_of(NULL, XENT_DTYPE_F32, 0);
    xent_array_mut each = xent_array_mut_of(derivatives, XENT_DTYPE_F32, ROWS), no_each = {NULL, 0, none.dtype};
    xent_cross_entropy *ce = NULL;
    CHECK_OK(xent_cross_entropy_create(NULL, &ce));
    CHECK_OK(xent_hessian_vector_product(ce, x, y, NULL, v, xent_matrix_mut_of(product, XENT_DTYPE_F32, ROWS, CLASSES)));
    CHECK_OK(xent_hessian_vector_product_in_place(ce, x, y, NULL,
                                                  xent_matrix_mut_of(in_place, XENT_DTYPE_F32, ROWS, CLASSES)));
    CHECK_OK(xent_gauss_newton_diagonal(ce, x, y, NULL, xent_matrix_mut_of(diagonal, XENT_DTYPE_F32, ROWS, CLASSES)));
    CHECK_OK(xent_hessian_diagonal(ce, x, y, NULL, xent_matrix_mut_of(hessian, XENT_DTYPE_F32, ROWS, CLASSES)));
    CHECK_OK(xent_loss_and_grad(ce, x, y, xent_matrix_mut_of(grad, XENT_DTYPE_F32, ROWS, CLASSES), &loss));
    for (int r = 0; r < ROWS; r++) {
        double p[CLASSES], sum = 0.0, p_v = 0.0, largest = 0.0;
        for (int c = 0; c < CLASSES; c++)
            p[c] = exp(logits[r * CLASSES + c]), sum += p[c];
        for (int c = 0; c < CLASSES; c++) {
            p[c] /= sum;
            p_v += p[c] * direction[r * CLASSES + c];
            largest = fmax(largest, fabs(direction[r * CLASSES + c]));
        }
        for (int c = 0; c < CLASSES; c++) {
            int i = r * CLASSES + c;
            /* Differences of the direction and its mean cancel: the error is relative to what is subtracted. */
            CHECK(fabs(product[i] - p[c] * (direction[i] - p_v) / ROWS) <= TOLERANCE * p[c] * 2.0 * largest / ROWS);
            CHECK(in_place[i] == product[i] && hessian[i] == diagonal[i]);
            CHECK(relative_difference(diagonal[i], p[c] * (1.0 - p[c]) / ROWS) <= 2.0 * TOLERANCE);
            along += (double)grad[i] * direction[i];
        }
    }
    CHECK_OK(xent_jvp(ce, x, y, NULL, v, each, &derivative));
    for (int r = 0; r < ROWS; r++)
        of_rows += derivatives[r];
    CHECK(fabs(derivative - along) <= TOLERANCE * 16.0 && fabs(of_rows / ROWS - derivative) <= TOLERANCE * 16.0);
    double again = 0.0;
    CHECK_OK(xent_jvp(ce, x, y, NULL, v, no_each, &again));
    CHECK(again == derivative);
    /* The inputs of a request count. */
    double twice = 2.0;
    xent_request request = xent_request_default();
    request.upstream_scalar = &twice;
    CHECK_OK(xent_jvp(ce, x, y, &request, v, no_each, &again));
    CHECK(again == 2.0 * derivative);
    xent_cross_entropy_destroy(ce);
}

/* Of every dtype: the product with a direction that is 1 in the first class, (1 - p) p there and -p q elsewhere. */
static void second_derivatives_have_the_dtype_of_the_logits(void) {
    enum { CLASSES = 5 };
    const uint32_t dtypes[] = {XENT_DTYPE_F32, XENT_DTYPE_F64, XENT_DTYPE_F16, XENT_DTYPE_BF16};
    const uint8_t targets[1] = {4};
    xent_array y = xent_array_of(targets, XENT_DTYPE_U8, 1);
    xent_cross_entropy *ce = NULL;
    CHECK_OK(xent_cross_entropy_create(NULL, &ce));
    for (int d = 0; d < 4; d++) {
        double logits[CLASSES], direction[CLASSES], product[CLASSES], p[CLASSES], sum = 0.0, derivative, of_row[1];
        uint32_t dtype = dtypes[d], per_row = dtype == XENT_DTYPE_F64 ? XENT_DTYPE_F64 : XENT_DTYPE_F32;
        for (int c = 0; c < CLASSES; c++) {
            store(dtype, logits, c, number(c));
            store(dtype, direction, c, c == 0);
            p[c] = exp(number(c)), sum += p[c];
        }
        xent_matrix x = xent_matrix_of(logits, dtype, 1, CLASSES), v = xent_matrix_of(direction, dtype, 1, CLASSES);
        CHECK_OK(xent_hessian_vector_product(ce, x, y, NULL, v, xent_matrix_mut_of(product, dtype, 1, CLASSES)));
        double first = p[0] / sum;
        CHECK(is_gradient(dtype, load(dtype, product, 0), first * (1.0 - first)));
        for (int c = 1; c < CLASSES; c++)
            CHECK(is_gradient(dtype, load(dtype, product, c), -first * p[c] / sum));
        CHECK_OK(xent_jvp(ce, x, y, NULL, v, xent_array_mut_of(of_row, per_row, 1), &derivative));
        CHECK(relative_difference(derivative, first) <= tolerance_of(dtype));
        CHECK(relative_difference(load(per_row, of_row, 0), first) <= tolerance_of(dtype));
    }
    xent_cross_entropy_destroy(ce);
}

/* (N, C, P) is as (N P, C): the same losses and gradients, transposed; with strides nothing else is written. */
static void planes_are_transposed_rows(void) {
    enum { IMAGES = 2, CLASSES = 5, POSITIONS = 19, ROWS = IMAGES * POSITIONS, ELEMENTS = ROWS * CLASSES };
    enum { CLASS_STRIDE = POSITIONS + 2, IMAGE_STRIDE = CLASSES * CLASS_STRIDE + 3, REACH = 2 * IMAGE_STRIDE };
    static float rows[ELEMENTS], planes[ELEMENTS], padded[REACH], grad[ELEMENTS], in_place[ELEMENTS], of_rows[ELEMENTS],
        padded_grad[REACH], p[ELEMENTS];
    int32_t targets[ROWS];
    float losses[ROWS], lse[ROWS], row_losses[ROWS], row_lse[ROWS], log_p[ROWS], best[ROWS];
    int64_t argmax[ROWS], row_argmax[ROWS];
    for (int i = 0; i < REACH; i++)
        padded[i] = NAN, padded_grad[i] = 7.0F;
    for (int n = 0; n < IMAGES; n++)
        for (int c = 0; c < CLASSES; c++)
            for (int at = 0; at < POSITIONS; at++) {
                float x = (float)number((n * CLASSES + c) * POSITIONS + at);
                planes[(n * CLASSES + c) * POSITIONS + at] = rows[(n * POSITIONS + at) * CLASSES + c] = x;
                padded[n * IMAGE_STRIDE + c * CLASS_STRIDE + at] = x;
            }
    for (int r = 0; r < ROWS; r++)
        targets[r] = r == 3 ? -100 : r % CLASSES;
    memcpy(in_place, planes, sizeof in_place);
    double loss, again, strided;
    xent_cross_entropy *ce = NULL;
    CHECK_OK(xent_cross_entropy_create(NULL, &ce));
    xent_array y = xent_array_of(targets, XENT_DTYPE_I32, ROWS);
    xent_planes x = xent_planes_of(planes, XENT_DTYPE_F32, IMAGES, CLASSES, POSITIONS);
    CHECK_OK(xent_loss_and_grad_planes(ce, x, y, xent_planes_mut_of(grad, XENT_DTYPE_F32, IMAGES, CLASSES, POSITIONS), &loss));
    CHECK_OK(xent_loss_planes(ce, x, y, &again));
    CHECK(again == loss);
    CHECK_OK(xent_loss_and_grad_planes_in_place(
        ce, xent_planes_mut_of(in_place, XENT_DTYPE_F32, IMAGES, CLASSES, POSITIONS), y, &again));
    CHECK(again == loss && memcmp(grad, in_place, sizeof grad) == 0);

    xent_planes with_padding = {padded, IMAGES, CLASSES, POSITIONS, IMAGE_STRIDE, CLASS_STRIDE, XENT_DTYPE_F32};
    xent_planes_mut to_padding = {padded_grad, IMAGES, CLASSES, POSITIONS, IMAGE_STRIDE, CLASS_STRIDE, XENT_DTYPE_F32};
    CHECK_OK(xent_loss_and_grad_planes(ce, with_padding, y, to_padding, &strided));
    CHECK(strided == loss);
    int written = 0;
    for (int i = 0; i < REACH; i++)
        written += padded_grad[i] != 7.0F;
    CHECK(written == ELEMENTS && padded_grad[IMAGE_STRIDE + CLASS_STRIDE + 4] == grad[6 * POSITIONS + 4]);

    xent_planes_request request = xent_planes_request_default();
    request.losses = xent_array_mut_of(losses, XENT_DTYPE_F32, ROWS);
    request.lse = xent_array_mut_of(lse, XENT_DTYPE_F32, ROWS);
    request.argmax = xent_array_mut_of(argmax, XENT_DTYPE_I64, ROWS);
    request.target_log_probabilities = xent_array_mut_of(log_p, XENT_DTYPE_F32, ROWS);
    request.argmax_probabilities = xent_array_mut_of(best, XENT_DTYPE_F32, ROWS);
    request.probabilities = xent_planes_mut_of(p, XENT_DTYPE_F32, IMAGES, CLASSES, POSITIONS);
    xent_request row_request = xent_request_default();
    row_request.losses = xent_array_mut_of(row_losses, XENT_DTYPE_F32, ROWS);
    row_request.lse = xent_array_mut_of(row_lse, XENT_DTYPE_F32, ROWS);
    row_request.argmax = xent_array_mut_of(row_argmax, XENT_DTYPE_I64, ROWS);
    row_request.grad = xent_matrix_mut_of(of_rows, XENT_DTYPE_F32, ROWS, CLASSES);
    xent_summary summary = xent_summary_default(), row_summary = xent_summary_default();
    CHECK_OK(xent_run_planes(ce, x, y, &request, &summary));
    CHECK_OK(xent_run(ce, xent_matrix_of(rows, XENT_DTYPE_F32, ROWS, CLASSES), y, &row_request, &row_summary));
    CHECK(summary.loss == loss && summary.counted == ROWS - 1 && summary.correct == row_summary.correct);
    CHECK(relative_difference(loss, row_summary.loss) <= TOLERANCE);
    for (int r = 0; r < ROWS; r++) {
        CHECK(relative_difference(losses[r], row_losses[r]) <= TOLERANCE && argmax[r] == row_argmax[r]);
        CHECK(relative_difference(lse[r], row_lse[r]) <= TOLERANCE && log_p[r] == -losses[r]);
        for (int c = 0; c < CLASSES; c++) {
            int at = (r / POSITIONS * CLASSES + c) * POSITIONS + r % POSITIONS;
            CHECK(relative_difference(grad[at], of_rows[r * CLASSES + c]) <= TOLERANCE);
            CHECK(argmax[r] != c || p[at] == best[r]);
        }
    }
    CHECK_OK(xent_run_planes_in_place(ce, xent_planes_mut_of(planes, XENT_DTYPE_F32, IMAGES, CLASSES, POSITIONS), y, NULL,
                                      &summary));
    CHECK(summary.loss == loss && memcmp(grad, planes, sizeof grad) == 0);
    xent_cross_entropy_destroy(ce);
}

/* Planes of every dtype, few classes and many: the gradient of the reference, also in place. */
static void planes_of_every_dtype_have_their_gradient(void) {
    enum { POSITIONS = 19, MOST = 200 };
    const uint32_t dtypes[] = {XENT_DTYPE_F32, XENT_DTYPE_F64, XENT_DTYPE_F16, XENT_DTYPE_BF16};
    const int class_counts[] = {3, MOST};
    xent_cross_entropy *ce = NULL;
    CHECK_OK(xent_cross_entropy_create(NULL, &ce));
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
        for (size_t s = 0; s < sizeof class_counts / sizeof *class_counts; s++) {
            uint32_t dtype = dtypes[d], per_row = dtype == XENT_DTYPE_F64 ? XENT_DTYPE_F64 : XENT_DTYPE_F32;
            int classes = class_counts[s];
            size_t bytes = (size_t)(classes * POSITIONS) * size_of(dtype);
            struct guarded logits = guard_bytes(bytes), grad = guard_bytes(bytes);
            int64_t targets[POSITIONS];
            double expected[MOST], x[MOST], losses[POSITIONS], loss = -1, in_place = -1;
            for (int p = 0; p < POSITIONS; p++) {
                targets[p] = (p * 7 + 3) % classes;
                for (int c = 0; c < classes; c++)
                    store(dtype, logits.data, c * POSITIONS + p, number(p * classes + c));
            }
            xent_planes planes = xent_planes_of(logits.data, dtype, 1, classes, POSITIONS);
            xent_array y = xent_array_of(targets, XENT_DTYPE_I64, POSITIONS);
            xent_planes_request request = xent_planes_request_default();
            request.losses = xent_array_mut_of(losses, per_row, POSITIONS);
            request.grad = xent_planes_mut_of(grad.data, dtype, 1, classes, POSITIONS);
            xent_summary summary = xent_summary_default();
            CHECK_OK(xent_run_planes(ce, planes, y, &request, &summary));
            CHECK_OK(xent_loss_planes(ce, planes, y, &loss));
            CHECK_OK(xent_loss_and_grad_planes_in_place(
                ce, xent_planes_mut_of(logits.data, dtype, 1, classes, POSITIONS), y, &in_place));
            CHECK(loss == summary.loss && loss == in_place && memcmp(logits.data, grad.data, bytes) == 0);
            CHECK(has_canaries(&logits) && has_canaries(&grad));
            for (int p = 0; p < POSITIONS; p++) {
                for (int c = 0; c < classes; c++)
                    x[c] = number(p * classes + c);
                double of_row = reference_row(x, classes, (int)targets[p], expected);
                CHECK(relative_difference(load(per_row, losses, p), of_row) <= tolerance_of(per_row));
                for (int c = 0; c < classes; c++)
                    CHECK(is_gradient(dtype, load(dtype, grad.data, c * POSITIONS + p), expected[c] / POSITIONS));
            }
            free(logits.memory);
            free(grad.memory);
        }
    xent_cross_entropy_destroy(ce);
}

/* Divergence and gradient from doubles; nothing where student and teacher agree. */
static void a_student_is_drawn_to_its_teacher(void) {
    enum { ROWS = 2, CLASSES = 4, ELEMENTS = ROWS * CLASSES };
    const uint32_t dtypes[] = {XENT_DTYPE_F32, XENT_DTYPE_F64, XENT_DTYPE_F16, XENT_DTYPE_BF16};
    for (int dtype = 0; dtype < 4; dtype++) {
        double memory[4][ELEMENTS];
        unsigned char *student = (unsigned char *)memory[0], *teacher = (unsigned char *)memory[1];
        unsigned char *grad = (unsigned char *)memory[2], *in_place = (unsigned char *)memory[3];
        double expected = 0.0, expected_grad[ELEMENTS], temperature = 2.0;
        for (int i = 0; i < ELEMENTS; i++) {
            store(dtypes[dtype], student, i, number(i));
            store(dtypes[dtype], teacher, i, number(5 * i + 2));
        }
        memcpy(in_place, student, sizeof memory[0]);
        for (int r = 0; r < ROWS; r++) {
            double x[CLASSES], t[CLASSES], sum_x = 0.0, sum_t = 0.0;
            for (int c = 0; c < CLASSES; c++) {
                x[c] = exp(number(r * CLASSES + c) / temperature), sum_x += x[c];
                t[c] = exp(number(5 * (r * CLASSES + c) + 2) / temperature), sum_t += t[c];
            }
            for (int c = 0; c < CLASSES; c++) {
                double p = x[c] / sum_x, q = t[c] / sum_t;
                expected += temperature * temperature * q * log(q / p) / ROWS;
                expected_grad[r * CLASSES + c] = temperature * (p - q) / ROWS;
            }
        }
        xent_distillation_options options = xent_distillation_options_default();
        options.temperature = temperature;
        xent_distillation *distillation = NULL;
        CHECK_OK(xent_distillation_create(&options, &distillation));
        xent_matrix x = xent_matrix_of(student, dtypes[dtype], ROWS, CLASSES);
        xent_matrix t = xent_matrix_of(teacher, dtypes[dtype], ROWS, CLASSES);
        xent_request request = xent_request_default();
        request.grad = xent_matrix_mut_of(grad, dtypes[dtype], ROWS, CLASSES);
        xent_summary summary = xent_summary_default(), again = xent_summary_default();
        CHECK_OK(xent_distillation_run(distillation, x, t, &request, &summary));
        CHECK(relative_difference(summary.loss, expected) <= tolerance_of(dtypes[dtype]) && summary.counted == ROWS);
        xent_matrix_mut x_mut = xent_matrix_mut_of(in_place, dtypes[dtype], ROWS, CLASSES);
        CHECK_OK(xent_distillation_run_in_place(distillation, x_mut, t, NULL, &again));
        CHECK(again.loss == summary.loss && memcmp(in_place, grad, ELEMENTS * size_of(dtypes[dtype])) == 0);
        for (int i = 0; i < ELEMENTS; i++)
            CHECK(is_gradient(dtypes[dtype], load(dtypes[dtype], grad, i), expected_grad[i]));
        CHECK_OK(xent_distillation_run(distillation, t, t, &request, &again));
        CHECK(again.loss == 0.0 && load(dtypes[dtype], grad, 0) == 0.0);
        xent_distillation_destroy(distillation);
    }
    xent_distillation_destroy(NULL);
}

static void softmax_forward_and_backward(void) {
    enum { ROWS = 3, CLASSES = 33 };
    float x[ROWS * CLASSES], p[ROWS * CLASSES], ln_p[ROWS * CLASSES], g[ROWS * CLASSES], to[ROWS * CLASSES];
    for (int i = 0; i < ROWS * CLASSES; i++)
        x[i] = (float)number(i), g[i] = (float)number(i + 5);
#define MATRIX(data) xent_matrix_of(data, XENT_DTYPE_F32, ROWS, CLASSES)
#define MATRIX_MUT(data) xent_matrix_mut_of(data, XENT_DTYPE_F32, ROWS, CLASSES)
    xent_softmax_options serial = xent_softmax_options_default();
    serial.parallelism = XENT_PARALLELISM_SERIAL;
    CHECK_OK(xent_softmax(MATRIX(x), MATRIX_MUT(p), NULL));
    CHECK_OK(xent_log_softmax(MATRIX(x), MATRIX_MUT(ln_p), &serial));
    memcpy(to, x, sizeof to);
    CHECK_OK(xent_softmax_in_place(MATRIX_MUT(to), &serial));
    CHECK(memcmp(to, p, sizeof to) == 0);
    memcpy(to, x, sizeof to);
    CHECK_OK(xent_log_softmax_in_place(MATRIX_MUT(to), NULL));
    CHECK(memcmp(to, ln_p, sizeof to) == 0);

    float from_p[ROWS * CLASSES], from_ln_p[ROWS * CLASSES];
    CHECK_OK(xent_softmax_backward(MATRIX(p), MATRIX(g), MATRIX_MUT(from_p), NULL));
    CHECK_OK(xent_log_softmax_backward(MATRIX(ln_p), MATRIX(g), MATRIX_MUT(from_ln_p), NULL));
    memcpy(to, g, sizeof to);
    CHECK_OK(xent_softmax_backward_in_place(MATRIX(p), MATRIX_MUT(to), NULL));
    CHECK(memcmp(to, from_p, sizeof to) == 0);
    memcpy(to, g, sizeof to);
    CHECK_OK(xent_log_softmax_backward_in_place(MATRIX(ln_p), MATRIX_MUT(to), NULL));
    CHECK(memcmp(to, from_ln_p, sizeof to) == 0);
    for (int r = 0; r < ROWS; r++) {
        double row[CLASSES], grad[CLASSES], dot = 0.0, total = 0.0;
        for (int c = 0; c < CLASSES; c++)
            row[c] = x[r * CLASSES + c];
        double loss = reference_row(row, CLASSES, 0, grad);
        CHECK(relative_difference(ln_p[r * CLASSES], -loss) <= TOLERANCE);
        grad[0] = exp(-loss);
        for (int c = 0; c < CLASSES; c++) {
            CHECK(relative_difference(p[r * CLASSES + c], grad[c]) <= TOLERANCE);
            dot += grad[c] * g[r * CLASSES + c];
            total += g[r * CLASSES + c];
        }
        /* The products cancel: errors are measured against what is subtracted, numbers up to 4. */
        for (int c = 0; c < CLASSES; c++) {
            double size = 4.0 + fabs(dot);
            CHECK(fabs(from_p[r * CLASSES + c] - grad[c] * (g[r * CLASSES + c] - dot)) <= TOLERANCE * size);
            size = 4.0 + fabs(total);
            CHECK(fabs(from_ln_p[r * CLASSES + c] - (g[r * CLASSES + c] - grad[c] * total)) <= TOLERANCE * size);
        }
    }
}

/* No rows, no elements, null where there is nothing. */
static void empty_batches_are_no_error(void) {
    double loss = -1;
    xent_options options = xent_options_default();
    options.reduction = XENT_REDUCTION_SUM;
    xent_cross_entropy *mean = NULL, *sum = NULL;
    CHECK_OK(xent_cross_entropy_create(NULL, &mean));
    CHECK_OK(xent_cross_entropy_create(&options, &sum));
    xent_matrix none = xent_matrix_of(NULL, XENT_DTYPE_F32, 0, 10);
    xent_array no_targets = xent_array_of(NULL, XENT_DTYPE_I64, 0);
    CHECK_OK(xent_loss_and_grad(sum, none, no_targets, xent_matrix_mut_of(NULL, XENT_DTYPE_F32, 0, 10), &loss));
    CHECK(loss == 0.0);
    CHECK_OK(xent_loss(mean, none, no_targets, &loss));
    CHECK(isnan(loss));
    CHECK_OK(xent_softmax(none, xent_matrix_mut_of(NULL, XENT_DTYPE_F32, 0, 10), NULL));
    CHECK_OK(xent_row_states_clear(xent_array_mut_of(NULL, XENT_DTYPE_ROW_STATE, 0)));
    xent_cross_entropy_destroy(mean);
    xent_cross_entropy_destroy(sum);
    xent_cross_entropy_destroy(NULL);
}

int main(void) {
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", XENT_VERSION_MAJOR, XENT_VERSION_MINOR, XENT_VERSION_PATCH);
    CHECK(strcmp(version, xent_version()) == 0);
    gradients_are_those_of_the_reference_and_padding_stays();
    targets_backends_and_threads_change_no_bit();
    a_request_has_every_output();
    a_gradient_of_doubles_as_floats();
    a_confident_row_of_doubles();
    options_change_the_loss_as_they_say();
    probabilities_as_targets();
    probabilities_of_doubles_as_targets();
    shards_have_the_loss_and_gradient_of_whole_rows();
    scaled_doubles();
    second_derivatives_are_those_of_the_softmax();
    second_derivatives_have_the_dtype_of_the_logits();
    planes_are_transposed_rows();
    planes_of_every_dtype_have_their_gradient();
    a_student_is_drawn_to_its_teacher();
    softmax_forward_and_backward();
    empty_batches_are_no_error();
    printf("results: passed\n");
    return EXIT_SUCCESS;
}
