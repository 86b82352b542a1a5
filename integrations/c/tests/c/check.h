/* What the test programs have in common: checks that say where they failed, a scalar reference, and canaries. */
#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xent.h>

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, __func__, #condition);                    \
            exit(EXIT_FAILURE);                                                                              \
        }                                                                                                    \
    } while (0)

#define CHECK_STATUS(call, expected)                                                                         \
    do {                                                                                                     \
        xent_status status_ = (call);                                                                          \
        if (status_ != (expected)) {                                                                           \
            fprintf(stderr, "%s:%d: %s: status %d instead of %d (%s)\n", __FILE__, __LINE__, __func__, (int)status_, \
                    (int)(expected), xent_last_error_message());                                             \
            exit(EXIT_FAILURE);                                                                              \
        }                                                                                                    \
    } while (0)

#define CHECK_OK(call) CHECK_STATUS(call, XENT_STATUS_OK)

/* The largest relative error that the contract allows a gradient in F32, (|d| + D + 4) / 2^24, with the gap d of a
 * logit and the mean gap D of the row as large as they can be before the gradient is 0. */
static const double TOLERANCE = (88.0 + 88.0 + 4.0) / 16777216.0;

/* The same in F64, for logits whose gaps are at most `gap`: (2 gap + 4) / 2^53, with a divisor another 8 / 2^53. */
static inline double tolerance_f64(double gap) { return (2.0 * gap + 4.0 + 8.0) / 9007199254740992.0; }

static inline double relative_difference(double found, double expected) {
    double difference = fabs(found - expected) / fmax(fabs(expected), 1.2e-38);
    return isnan(difference) ? INFINITY : difference;
}

/* The loss of a row of plain cross-entropy, and its gradient. */
static inline double reference_row(const double *x, int classes, int target, double *grad) {
    double max = x[0], sum = 0.0;
    for (int c = 1; c < classes; c++)
        max = fmax(max, x[c]);
    for (int c = 0; c < classes; c++)
        sum += exp(x[c] - max);
    double others = 0.0;
    for (int c = 0; c < classes; c++) {
        grad[c] = exp(x[c] - max) / sum;
        if (c != target)
            others += grad[c];
    }
    grad[target] = -others;
    return log(sum) + max - x[target];
}

/* Numbers that a bfloat16 has exactly, from -4 to 3.96875. */
static inline double number(int i) { return (double)((i * 37 + i / 7 * 11) % 255 - 128) / 32.0; }

/* Memory with CANARY bytes of 0xA5 on either side, and inside. */
enum { CANARY = 256 };

struct guarded {
    unsigned char *memory, *data;
    size_t bytes;
};

static inline struct guarded guard_bytes(size_t bytes) {
    struct guarded guarded = {malloc(bytes + 2 * CANARY), NULL, bytes};
    CHECK(guarded.memory != NULL);
    memset(guarded.memory, 0xA5, bytes + 2 * CANARY);
    guarded.data = guarded.memory + CANARY;
    return guarded;
}

static inline int is_canary(const unsigned char *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (from[i] != 0xA5)
            return 0;
    return 1;
}

static inline int has_canaries(const struct guarded *guarded) {
    return is_canary(guarded->memory, CANARY) && is_canary(guarded->data + guarded->bytes, CANARY);
}

#endif
