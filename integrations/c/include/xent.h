/* xent: fused softmax cross-entropy on CPUs. The C interface.
 *
 * Generated from the sources of the crate xent-c by `XENT_RENEW_HEADER=1 cargo test -p xent-c --test header`.
 *
 *     float logits[6] = {1, 2, 3, 2, 1, 0.5f}, grad[6];
 *     int64_t targets[2] = {2, 0};
 *     double loss;
 *     xent_options options = xent_options_default();
 *     options.label_smoothing = 0.1;
 *     xent_cross_entropy *ce = NULL;
 *     xent_status status = xent_cross_entropy_create(&options, &ce);
 *     if (status == XENT_STATUS_OK)
 *         status = xent_loss_and_grad(ce, xent_matrix_of(logits, XENT_DTYPE_F32, 2, 3),
 *                                     xent_array_of(targets, XENT_DTYPE_I64, 2),
 *                                     xent_matrix_mut_of(grad, XENT_DTYPE_F32, 2, 3), &loss);
 *     if (status != XENT_STATUS_OK)
 *         fprintf(stderr, "%s\n", xent_last_error_message());
 *     xent_cross_entropy_destroy(ce);
 *
 * A call checks its arguments before it writes anything, allocates nothing but what threads need (none with
 * XENT_PARALLELISM_SERIAL), and tells what is wrong by its status and by xent_last_error_message(). It cannot check one thing, which is the caller's promise: a pointer that is not
 * null points to as many elements as the sizes beside it say, which nobody writes during the call, nor reads if
 * the call writes them. A matrix reaches from its first element to its last: what lies between its rows belongs to
 * it in this respect, though it is not touched.
 *
 * Structs that may grow have their size in front; a function that ends in _default or _of fills it in. A program
 * that was compiled with an earlier header works with a later library, and with an earlier library as long as it
 * sets nothing that this one does not know: else a call returns XENT_STATUS_STRUCT_SIZE.
 *
 * Any number of threads may call at once, with one xent_cross_entropy or several. */
#ifndef XENT_H
#define XENT_H


#include <stddef.h>
#include <stdint.h>
#include <string.h>

/**
 * The version of this header: compare with `xent_version()`, that of the library.
 */
#define XENT_VERSION_MAJOR 0

/**
 * See `XENT_VERSION_MAJOR`.
 */
#define XENT_VERSION_MINOR 1

/**
 * See `XENT_VERSION_MAJOR`.
 */
#define XENT_VERSION_PATCH 0

/**
 * The size of a `xent_row_state` as bytes.
 */
#define XENT_ROW_STATE_BYTES 56

/**
 * The size of a `xent_row_state_f64` as bytes.
 */
#define XENT_ROW_STATE_F64_BYTES 96

/**
 * What became of a call. A call that returns anything but `XENT_STATUS_OK` has written nothing, `XENT_STATUS_PANIC`
 * apart. Later versions may have more codes.
 */
enum xent_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It worked.
     */
    XENT_STATUS_OK = 0,
    /**
     * A pointer is null that may not be.
     */
    XENT_STATUS_NULL_POINTER = 1,
    /**
     * A pointer is not a multiple of its elements' alignment.
     */
    XENT_STATUS_MISALIGNED = 2,
    /**
     * A number of rows, columns or elements, or a stride, is negative.
     */
    XENT_STATUS_NEGATIVE_SIZE = 3,
    /**
     * A size is more than an address space can hold.
     */
    XENT_STATUS_SIZE_OVERFLOW = 4,
    /**
     * Memory that is written overlaps other memory of the same call. A matrix reaches from its first element to its
     * last, with what lies between its rows.
     */
    XENT_STATUS_OVERLAP = 5,
    /**
     * The `size` of a struct is none that this library knows: the struct is not initialised; or it is of a later
     * version and sets what this one does not know.
     */
    XENT_STATUS_STRUCT_SIZE = 6,
    /**
     * The dtype is unknown, or not one that this argument may have.
     */
    XENT_STATUS_DTYPE = 7,
    /**
     * The value of an option is not one of its enum.
     */
    XENT_STATUS_INVALID_ENUM = 8,
    /**
     * The row stride is less than the number of columns; or a plane or an image that is written reaches into the next.
     */
    XENT_STATUS_STRIDE_TOO_SMALL = 9,
    /**
     * A matrix has another shape than the logits.
     */
    XENT_STATUS_SHAPE_MISMATCH = 10,
    /**
     * An array has another length than the logits have rows, or classes.
     */
    XENT_STATUS_LENGTH_MISMATCH = 11,
    /**
     * There are rows, but no classes.
     */
    XENT_STATUS_NO_CLASSES = 12,
    /**
     * A target is neither a class nor an ignored index.
     */
    XENT_STATUS_TARGET_OUT_OF_RANGE = 13,
    /**
     * A class weight is negative or not finite.
     */
    XENT_STATUS_INVALID_WEIGHT = 14,
    /**
     * The label smoothing is not between 0 and 1.
     */
    XENT_STATUS_INVALID_LABEL_SMOOTHING = 15,
    /**
     * The coefficient of the z-loss is negative or not finite.
     */
    XENT_STATUS_INVALID_Z_LOSS = 16,
    /**
     * The focusing parameter of the focal loss is negative or not finite.
     */
    XENT_STATUS_INVALID_FOCAL_GAMMA = 17,
    /**
     * A target's probability is negative, above `FLT_MAX` or not a number.
     */
    XENT_STATUS_INVALID_TARGET_PROBABILITY = 18,
    /**
     * An output or an option needs the class of each row, but targets are probabilities.
     */
    XENT_STATUS_NEEDS_CLASSES = 19,
    /**
     * A row's weight is negative or not finite.
     */
    XENT_STATUS_INVALID_ROW_WEIGHT = 20,
    /**
     * `upstream_scalar` is not finite.
     */
    XENT_STATUS_INVALID_UPSTREAM_SCALAR = 21,
    /**
     * `denominator` is not finite and above 0.
     */
    XENT_STATUS_INVALID_DENOMINATOR = 22,
    /**
     * A byte of the loss mask is neither 0 nor 1.
     */
    XENT_STATUS_INVALID_LOSS_MASK = 23,
    /**
     * A shard reaches past the last class.
     */
    XENT_STATUS_COLUMNS_OUT_OF_RANGE = 24,
    /**
     * A row's state is not that of all its columns, each of them once.
     */
    XENT_STATUS_INCOMPLETE_STATE = 25,
    /**
     * A call in place was given another gradient to write as well.
     */
    XENT_STATUS_GRAD_TWICE = 26,
    /**
     * This CPU lacks the instruction set that was asked for.
     */
    XENT_STATUS_BACKEND_UNAVAILABLE = 27,
    /**
     * The logit scale is not above 0, or no normal number of `float`.
     */
    XENT_STATUS_INVALID_LOGIT_SCALE = 28,
    /**
     * The softcap is not above 0, or it or the logit scale divided by it is no normal number of `float`.
     */
    XENT_STATUS_INVALID_SOFTCAP = 29,
    /**
     * The temperature is not between 1e-37 and 1e37.
     */
    XENT_STATUS_INVALID_TEMPERATURE = 30,
    /**
     * An output that a distillation does not have.
     */
    XENT_STATUS_NOT_OF_DISTILLATION = 31,
    /**
     * An error that has no code of its own yet: see the message.
     */
    XENT_STATUS_OTHER = 254,
    /**
     * A defect of the library. What the call writes is in an unknown state; the process may go on.
     */
    XENT_STATUS_PANIC = 255,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum xent_status xent_status;
#else
typedef int32_t xent_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The type of the elements of a matrix or an array. Structs have it as a `uint32_t`.
 */
enum xent_dtype
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * `float`.
     */
    XENT_DTYPE_F32 = 1,
    /**
     * `double`.
     */
    XENT_DTYPE_F64 = 2,
    /**
     * IEEE 754 binary16.
     */
    XENT_DTYPE_F16 = 3,
    /**
     * bfloat16: the upper half of a `float`.
     */
    XENT_DTYPE_BF16 = 4,
    /**
     * `uint8_t`.
     */
    XENT_DTYPE_U8 = 5,
    /**
     * `uint16_t`.
     */
    XENT_DTYPE_U16 = 6,
    /**
     * `uint32_t`.
     */
    XENT_DTYPE_U32 = 7,
    /**
     * `uint64_t`.
     */
    XENT_DTYPE_U64 = 8,
    /**
     * `int32_t`.
     */
    XENT_DTYPE_I32 = 9,
    /**
     * `int64_t`.
     */
    XENT_DTYPE_I64 = 10,
    /**
     * `xent_row_state`.
     */
    XENT_DTYPE_ROW_STATE = 11,
    /**
     * `xent_row_state_f64`.
     */
    XENT_DTYPE_ROW_STATE_F64 = 12,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum xent_dtype xent_dtype;
#else
typedef uint32_t xent_dtype;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How the rows' losses become one. For PyTorch's "none", ask for `losses` in a request.
 */
enum xent_reduction
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Their sum, divided by the sum of the class weights of the targets that count: without weights, by their number.
     */
    XENT_REDUCTION_MEAN = 0,
    /**
     * Their sum.
     */
    XENT_REDUCTION_SUM = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum xent_reduction xent_reduction;
#else
typedef uint32_t xent_reduction;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Which classes label smoothing spreads over.
 */
enum xent_smoothing
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * All of them, as in PyTorch.
     */
    XENT_SMOOTHING_ALL_CLASSES = 0,
    /**
     * All but the target, as in Megatron-LM.
     */
    XENT_SMOOTHING_OTHER_CLASSES = 1,
    /**
     * Those with a logit above -inf.
     */
    XENT_SMOOTHING_LIVE_CLASSES = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum xent_smoothing xent_smoothing;
#else
typedef uint32_t xent_smoothing;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What the mean is where no row counts. The gradient is 0 either way.
 */
enum xent_empty_mean
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * NaN, as in PyTorch.
     */
    XENT_EMPTY_MEAN_NAN = 0,
    /**
     * 0.
     */
    XENT_EMPTY_MEAN_ZERO = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum xent_empty_mean xent_empty_mean;
#else
typedef uint32_t xent_empty_mean;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The instruction set of a call. It changes no bit of the result on CPUs with fused multiply-add.
 */
enum xent_backend
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The fastest that this CPU has.
     */
    XENT_BACKEND_FASTEST = 0,
    /**
     * What the library was compiled for.
     */
    XENT_BACKEND_PORTABLE = 1,
    /**
     * AVX2, FMA and F16C.
     */
    XENT_BACKEND_AVX2 = 2,
    /**
     * AVX-512 F, VL and BW.
     */
    XENT_BACKEND_AVX512 = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum xent_backend xent_backend;
#else
typedef uint32_t xent_backend;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Whether a call may use several threads. It changes no bit of the result.
 */
enum xent_parallelism
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The process's pool of one thread for each CPU, or as many as the environment variable `RAYON_NUM_THREADS` says at
     * the first call; where there is enough work for more than one. Threads survive no fork: a child of a process that has
     * made such a call takes `XENT_PARALLELISM_SERIAL`, or waits for ever.
     */
    XENT_PARALLELISM_RAYON = 0,
    /**
     * The calling thread alone.
     */
    XENT_PARALLELISM_SERIAL = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum xent_parallelism xent_parallelism;
#else
typedef uint32_t xent_parallelism;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A softmax cross-entropy with its options. Any number of threads may use it at once, for different outputs.
 */
typedef struct xent_cross_entropy xent_cross_entropy;

/**
 * The Kullback-Leibler divergence of a student's softmax from a teacher's at a temperature, with its options. Any number
 * of threads may use it at once, for different outputs.
 */
typedef struct xent_distillation xent_distillation;

/**
 * Neighbouring elements that are only read. By `xent_array_of`.
 */
typedef struct xent_array {
    /**
     * The first element. It may be null where there are no elements.
     */
    const void *data;
    /**
     * The number of elements.
     */
    int64_t len;
    /**
     * An `xent_dtype`.
     */
    uint32_t dtype;
} xent_array;

/**
 * The options of a loss, by PyTorch's names. By `xent_options_default`; later versions may add fields.
 */
typedef struct xent_options {
    /**
     * `sizeof(xent_options)`.
     */
    size_t size;
    /**
     * One for each class, `XENT_DTYPE_F32`, finite and not negative; copied. Default: left out, all 1.
     */
    struct xent_array weight;
    /**
     * Rows with this target do not count, and their logits are not read. Default: -100.
     */
    int64_t ignore_index;
    /**
     * If it is not left out, it takes the place of `ignore_index`: several of them, `XENT_DTYPE_I64`; copied. With data
     * that is not null and a length of 0, no row is ignored.
     */
    struct xent_array ignore_indices;
    /**
     * The share of the target distribution that is spread over the classes, from 0 to 1. Default: 0.
     */
    double label_smoothing;
    /**
     * The coefficient z of the z-loss z lse^2, finite and not negative. Default: 0.
     */
    double z_loss;
    /**
     * The focusing parameter of the focal loss, finite and not negative. Default: 0, the plain loss.
     */
    double focal_gamma;
    /**
     * An `xent_reduction`. Default: the mean.
     */
    uint32_t reduction;
    /**
     * An `xent_smoothing`. Default: all classes.
     */
    uint32_t smoothing;
    /**
     * An `xent_empty_mean`. Default: NaN.
     */
    uint32_t empty_mean;
    /**
     * An `xent_backend`. Default: the fastest.
     */
    uint32_t backend;
    /**
     * An `xent_parallelism`. Default: threads.
     */
    uint32_t parallelism;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * What logits are multiplied by before the softmax, above 0, rounded to `float` unless logits are
     * `XENT_DTYPE_F64`. Default: 0, which stands for 1.
     */
    double logit_scale;
    /**
     * The cap s of logits before the softmax, which become s tanh(x / s), after the scale; above 0, rounded to `float`
     * unless logits are `XENT_DTYPE_F64`. Default: 0, which stands for none.
     */
    double softcap;
} xent_options;

/**
 * A row-major matrix that is only read: `rows` rows of `cols` neighbouring elements each, the rows `row_stride`
 * elements apart. What lies between one row's last column and the next row's first is not read. By `xent_matrix_of`.
 */
typedef struct xent_matrix {
    /**
     * The first element. It may be null where there are no elements.
     */
    const void *data;
    /**
     * The number of rows.
     */
    int64_t rows;
    /**
     * The number of columns.
     */
    int64_t cols;
    /**
     * Elements (not bytes) from the start of one row to the start of the next: `cols`, or more.
     */
    int64_t row_stride;
    /**
     * An `xent_dtype`.
     */
    uint32_t dtype;
} xent_matrix;

/**
 * A row-major matrix that is written; otherwise as `xent_matrix`. What lies between its rows is not written, but no
 * other thread may write it during the call. By `xent_matrix_mut_of`.
 */
typedef struct xent_matrix_mut {
    /**
     * The first element. It may be null where there are no elements.
     */
    void *data;
    /**
     * The number of rows.
     */
    int64_t rows;
    /**
     * The number of columns.
     */
    int64_t cols;
    /**
     * Elements (not bytes) from the start of one row to the start of the next: `cols`, or more.
     */
    int64_t row_stride;
    /**
     * An `xent_dtype`.
     */
    uint32_t dtype;
} xent_matrix_mut;

/**
 * Neighbouring elements that are written. By `xent_array_mut_of`.
 */
typedef struct xent_array_mut {
    /**
     * The first element. It may be null where there are no elements.
     */
    void *data;
    /**
     * The number of elements.
     */
    int64_t len;
    /**
     * An `xent_dtype`.
     */
    uint32_t dtype;
} xent_array_mut;

/**
 * Inputs and outputs of one call, each of them optional: what is left out has null data and no size. By
 * `xent_request_default`; later versions may add fields.
 *
 * For rows x C logits x of some dtype, matrices have the same dtype, but `grad` may also be of `XENT_DTYPE_F32`,
 * `XENT_DTYPE_F16` or `XENT_DTYPE_BF16`. Arrays have one number for each row, of `XENT_DTYPE_F32`, or `XENT_DTYPE_F64`
 * where the logits are that. Indices are `XENT_DTYPE_I64` (-1 for none) or `XENT_DTYPE_U64` (`UINT64_MAX` for none); where
 * pointers have 32 bits, `I32` or `U32`.
 */
typedef struct xent_request {
    /**
     * `sizeof(xent_request)`.
     */
    size_t size;
    /**
     * Input: rows, `XENT_DTYPE_U8` of 0 and 1: which rows count.
     */
    struct xent_array loss_mask;
    /**
     * Input: rows, `XENT_DTYPE_F32`, finite and not negative: multiply loss and gradient of each row.
     */
    struct xent_array row_weights;
    /**
     * Input: rows: the gradient of row r is `upstream[r]` times that of its own loss, without a reduction.
     */
    struct xent_array upstream;
    /**
     * Input: multiplies the gradient. Finite. Null for 1.
     */
    const double *upstream_scalar;
    /**
     * Input: what the sum of losses is divided by, in place of the reduction's own divisor. Finite and above 0. Null for
     * none.
     */
    const double *denominator;
    /**
     * Output, rows x C: the derivative of the reduced loss with respect to the logits.
     */
    struct xent_matrix_mut grad;
    /**
     * 1 adds the gradient to what `grad` holds, which then must be there; 0 writes it.
     */
    uint32_t accumulate;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * Output, rows: the loss of each row, before the reduction.
     */
    struct xent_array_mut losses;
    /**
     * Output, rows: ln(sum_c exp(x_c)), with x the logits, scaled and capped if the loss has a `logit_scale` or a
     * `softcap`; so it is below.
     */
    struct xent_array_mut lse;
    /**
     * Output, rows: x_y - lse, for the target y.
     */
    struct xent_array_mut target_log_probabilities;
    /**
     * Output, rows: sum_c p_c (lse - x_c), in nats.
     */
    struct xent_array_mut entropies;
    /**
     * Output, rows, indices: the first class with the largest logit; none for an ignored row.
     */
    struct xent_array_mut argmax;
    /**
     * Output, rows: the largest probability.
     */
    struct xent_array_mut argmax_probabilities;
    /**
     * Output, rows, indices: how many classes come before the target; none for an ignored row.
     */
    struct xent_array_mut target_ranks;
    /**
     * Output, rows x C: the softmax.
     */
    struct xent_matrix_mut probabilities;
    /**
     * Output, rows x C: the logarithm of the softmax.
     */
    struct xent_matrix_mut log_probabilities;
} xent_request;

/**
 * The numbers that every call has at hand when it is done. By `xent_summary_default`; later versions may add fields.
 */
typedef struct xent_summary {
    /**
     * `sizeof(xent_summary)`; the call leaves it as it is.
     */
    size_t size;
    /**
     * The reduced loss.
     */
    double loss;
    /**
     * What the z-loss has in it.
     */
    double z_loss;
    /**
     * What the mean divides by, unless the request has a denominator.
     */
    double weight;
    /**
     * Rows that are not ignored.
     */
    int64_t counted;
    /**
     * Rows among them whose target is the first of their largest logits; 0 where targets are no classes.
     */
    int64_t correct;
} xent_summary;

/**
 * The options of a distillation. By `xent_distillation_options_default`; later versions may add fields.
 */
typedef struct xent_distillation_options {
    /**
     * `sizeof(xent_distillation_options)`.
     */
    size_t size;
    /**
     * What both logits are divided by, from 1e-37 to 1e37. Default: 1.
     */
    double temperature;
    /**
     * An `xent_reduction`. Default: the mean over the rows that count.
     */
    uint32_t reduction;
    /**
     * An `xent_empty_mean`. Default: NaN.
     */
    uint32_t empty_mean;
    /**
     * An `xent_backend`. Default: the fastest.
     */
    uint32_t backend;
    /**
     * An `xent_parallelism`. Default: threads.
     */
    uint32_t parallelism;
} xent_distillation_options;

/**
 * Logits of shape (N, C, d1, d2, ...) that are only read: images, each of one plane for each class, each of
 * d1 d2 ... neighbouring positions. Element (n, c, p) is at `n * image_stride + c * class_stride + p`. By
 * `xent_planes_of`.
 */
typedef struct xent_planes {
    /**
     * The first element. It may be null where there are no elements.
     */
    const void *data;
    /**
     * The number of images, N.
     */
    int64_t images;
    /**
     * The number of classes, C.
     */
    int64_t classes;
    /**
     * The number of positions, d1 d2 ...
     */
    int64_t positions;
    /**
     * Elements (not bytes) from the start of one image to the start of the next.
     */
    int64_t image_stride;
    /**
     * Elements from the start of one plane to the start of the next.
     */
    int64_t class_stride;
    /**
     * An `xent_dtype`, as that of a matrix of logits.
     */
    uint32_t dtype;
} xent_planes;

/**
 * Planes that are written; otherwise as `xent_planes`. Images follow each other in memory, and so do an image's planes.
 * By `xent_planes_mut_of`.
 */
typedef struct xent_planes_mut {
    /**
     * The first element. It may be null where there are no elements.
     */
    void *data;
    /**
     * The number of images, N.
     */
    int64_t images;
    /**
     * The number of classes, C.
     */
    int64_t classes;
    /**
     * The number of positions, d1 d2 ...
     */
    int64_t positions;
    /**
     * Elements (not bytes) from the start of one image to the start of the next: those of its planes, or more.
     */
    int64_t image_stride;
    /**
     * Elements from the start of one plane to the start of the next: `positions`, or more.
     */
    int64_t class_stride;
    /**
     * An `xent_dtype`, as that of a matrix of logits.
     */
    uint32_t dtype;
} xent_planes_mut;

/**
 * Inputs and outputs of one call on planes, each of them optional, as those of `xent_request`: arrays have one number for
 * each position of each image, image by image. By `xent_planes_request_default`; later versions may add fields.
 */
typedef struct xent_planes_request {
    /**
     * `sizeof(xent_planes_request)`.
     */
    size_t size;
    /**
     * Input, `XENT_DTYPE_U8` of 0 and 1: which positions count.
     */
    struct xent_array loss_mask;
    /**
     * Input, finite and not negative: multiply loss and gradient of each position.
     */
    struct xent_array row_weights;
    /**
     * Input: the gradient of a position is this times that of its own loss, without a reduction.
     */
    struct xent_array upstream;
    /**
     * Input: multiplies the gradient. Finite. Null for 1.
     */
    const double *upstream_scalar;
    /**
     * Input: what the sum of losses is divided by, in place of the reduction's own divisor. Null for none.
     */
    const double *denominator;
    /**
     * Output, of the logits' shape and dtype: the derivative of the reduced loss with respect to the logits.
     */
    struct xent_planes_mut grad;
    /**
     * Output: the loss of each position, before the reduction.
     */
    struct xent_array_mut losses;
    /**
     * Output: ln(sum_c exp(x_c)).
     */
    struct xent_array_mut lse;
    /**
     * Output: x_y - lse, for the target y.
     */
    struct xent_array_mut target_log_probabilities;
    /**
     * Output, indices: the first class with the largest logit; none for an ignored position.
     */
    struct xent_array_mut argmax;
    /**
     * Output: the largest probability.
     */
    struct xent_array_mut argmax_probabilities;
    /**
     * Output, of the logits' shape: the softmax.
     */
    struct xent_planes_mut probabilities;
} xent_planes_request;

/**
 * A batch whose columns are split over shards, or made chunk by chunk: what is the same for all of them. By
 * `xent_shards_of`; later versions may add fields. For what is left out, and what the inputs mean, see `xent_request`.
 */
typedef struct xent_shards {
    /**
     * `sizeof(xent_shards)`.
     */
    size_t size;
    /**
     * One class, or an ignored index, for each row, of any integer dtype.
     */
    struct xent_array targets;
    /**
     * The number of classes of all shards.
     */
    int64_t classes;
    /**
     * Rows, `XENT_DTYPE_U8` of 0 and 1: which rows count.
     */
    struct xent_array loss_mask;
    /**
     * Rows, `XENT_DTYPE_F32`.
     */
    struct xent_array row_weights;
    /**
     * Rows, `XENT_DTYPE_F32`, or `XENT_DTYPE_F64` where the logits are.
     */
    struct xent_array upstream;
    /**
     * Null for 1.
     */
    const double *upstream_scalar;
    /**
     * Null for none.
     */
    const double *denominator;
} xent_shards;

/**
 * The options of softmax functions. By `xent_softmax_options_default`; later versions may add fields.
 */
typedef struct xent_softmax_options {
    /**
     * `sizeof(xent_softmax_options)`.
     */
    size_t size;
    /**
     * An `xent_backend`. Default: the fastest.
     */
    uint32_t backend;
    /**
     * An `xent_parallelism`. Default: threads.
     */
    uint32_t parallelism;
} xent_softmax_options;

/**
 * What some columns of a row amount to, for logits of any dtype but `XENT_DTYPE_F64`: processes of one machine may
 * exchange it as it is; for others there is `xent_row_states_to_bytes`. States of the same row merge. Starts as
 * `xent_row_states_clear` leaves it, not as zeros. In arrays it is `XENT_DTYPE_ROW_STATE`.
 */
typedef struct xent_row_state {
    /**
     * The library's.
     */
    uint64_t opaque[7];
} xent_row_state;

/**
 * The same for logits of `XENT_DTYPE_F64`. In arrays it is `XENT_DTYPE_ROW_STATE_F64`.
 */
typedef struct xent_row_state_f64 {
    /**
     * The library's.
     */
    uint64_t opaque[12];
} xent_row_state_f64;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library, as in "0.1.0". Never null; not to be freed.
 */
const char *xent_version(void);

/**
 * Makes a loss with these options, or with the defaults if they are null, in `*cross_entropy`. To be freed by
 * `xent_cross_entropy_destroy`. Calls on it allocate nothing but what threads need.
 */
xent_status xent_cross_entropy_create(const struct xent_options *options,
                                      struct xent_cross_entropy **cross_entropy);

/**
 * Frees a loss. Null is fine.
 */
void xent_cross_entropy_destroy(struct xent_cross_entropy *cross_entropy);

/**
 * The instruction set that calls use: never `XENT_BACKEND_FASTEST`, unless the loss is null.
 */
uint32_t xent_cross_entropy_backend(const struct xent_cross_entropy *cross_entropy);

/**
 * The reduced loss of rows x C logits, in `*loss`. `targets` has one class below C, or an ignored index, for each row;
 * of any integer dtype.
 */
xent_status xent_loss(const struct xent_cross_entropy *cross_entropy,
                      struct xent_matrix logits,
                      struct xent_array targets,
                      double *loss);

/**
 * The reduced loss, and in `grad`, rows x C, its derivative with respect to the logits.
 */
xent_status xent_loss_and_grad(const struct xent_cross_entropy *cross_entropy,
                               struct xent_matrix logits,
                               struct xent_array targets,
                               struct xent_matrix_mut grad,
                               double *loss);

/**
 * The reduced loss; its gradient replaces the logits. This moves the fewest bytes.
 */
xent_status xent_loss_and_grad_in_place(const struct xent_cross_entropy *cross_entropy,
                                        struct xent_matrix_mut logits,
                                        struct xent_array targets,
                                        double *loss);

/**
 * Any set of outputs in one call. `request` may be null: nothing but the summary.
 */
xent_status xent_run(const struct xent_cross_entropy *cross_entropy,
                     struct xent_matrix logits,
                     struct xent_array targets,
                     const struct xent_request *request,
                     struct xent_summary *summary);

/**
 * Any set of outputs in one call; the gradient replaces the logits. `request` may be null.
 */
xent_status xent_run_in_place(const struct xent_cross_entropy *cross_entropy,
                              struct xent_matrix_mut logits,
                              struct xent_array targets,
                              const struct xent_request *request,
                              struct xent_summary *summary);

/**
 * As `xent_run`, with a probability of each class as the target of a row: rows x C, not negative and at most the largest
 * `float`; `XENT_DTYPE_F64` where the logits are, else `XENT_DTYPE_F32`. Outputs that are about the one class of a row are
 * refused.
 */
xent_status xent_run_probabilities(const struct xent_cross_entropy *cross_entropy,
                                   struct xent_matrix logits,
                                   struct xent_matrix target_probabilities,
                                   const struct xent_request *request,
                                   struct xent_summary *summary);

/**
 * As `xent_run_probabilities`; the gradient replaces the logits.
 */
xent_status xent_run_probabilities_in_place(const struct xent_cross_entropy *cross_entropy,
                                            struct xent_matrix_mut logits,
                                            struct xent_matrix target_probabilities,
                                            const struct xent_request *request,
                                            struct xent_summary *summary);

/**
 * The Hessian of the reduced loss at rows x C logits, times `direction`, in `out`; both are rows x C of the logits'
 * dtype. Of the request, which may be null, the inputs count; its outputs are checked, and not written.
 */
xent_status xent_hessian_vector_product(const struct xent_cross_entropy *cross_entropy,
                                        struct xent_matrix logits,
                                        struct xent_array targets,
                                        const struct xent_request *request,
                                        struct xent_matrix direction,
                                        struct xent_matrix_mut out);

/**
 * The same; the product replaces `direction`.
 */
xent_status xent_hessian_vector_product_in_place(const struct xent_cross_entropy *cross_entropy,
                                                 struct xent_matrix logits,
                                                 struct xent_array targets,
                                                 const struct xent_request *request,
                                                 struct xent_matrix_mut direction);

/**
 * The derivative of the reduced loss along `direction`, rows x C, in `*derivative`; and in `derivatives`, if it is not
 * left out, that of the loss of each row, before the reduction: `XENT_DTYPE_F32`, or `XENT_DTYPE_F64` where the logits
 * are. Otherwise as `xent_hessian_vector_product`.
 */
xent_status xent_jvp(const struct xent_cross_entropy *cross_entropy,
                     struct xent_matrix logits,
                     struct xent_array targets,
                     const struct xent_request *request,
                     struct xent_matrix direction,
                     struct xent_array_mut derivatives,
                     double *derivative);

/**
 * The diagonal of the Gauss-Newton matrix of the reduced loss, p (1 - p) for each class of a plain row, in `out`, rows x
 * C. Otherwise as `xent_hessian_vector_product`.
 */
xent_status xent_gauss_newton_diagonal(const struct xent_cross_entropy *cross_entropy,
                                       struct xent_matrix logits,
                                       struct xent_array targets,
                                       const struct xent_request *request,
                                       struct xent_matrix_mut out);

/**
 * The diagonal of the Hessian of the reduced loss, in `out`, rows x C. Otherwise as `xent_hessian_vector_product`.
 */
xent_status xent_hessian_diagonal(const struct xent_cross_entropy *cross_entropy,
                                  struct xent_matrix logits,
                                  struct xent_array targets,
                                  const struct xent_request *request,
                                  struct xent_matrix_mut out);

/**
 * Makes a distillation with these options, or with the defaults if they are null, in `*distillation`. To be freed by
 * `xent_distillation_destroy`. Calls on it allocate nothing but what threads need.
 */
xent_status xent_distillation_create(const struct xent_distillation_options *options,
                                     struct xent_distillation **distillation);

/**
 * Frees a distillation. Null is fine.
 */
void xent_distillation_destroy(struct xent_distillation *distillation);

/**
 * The divergence of the student's rows from the teacher's; both are rows x C of the same dtype. `request` may be
 * null. Its inputs mean what they mean for `xent_run`; its outputs are `grad`, with respect to the student's logits,
 * `losses`, and `lse` of the student at the temperature. Others are refused.
 */
xent_status xent_distillation_run(const struct xent_distillation *distillation,
                                  struct xent_matrix student,
                                  struct xent_matrix teacher,
                                  const struct xent_request *request,
                                  struct xent_summary *summary);

/**
 * As `xent_distillation_run`; the gradient replaces the student's logits.
 */
xent_status xent_distillation_run_in_place(const struct xent_distillation *distillation,
                                           struct xent_matrix_mut student,
                                           struct xent_matrix teacher,
                                           const struct xent_request *request,
                                           struct xent_summary *summary);

/**
 * The reduced loss of logits of shape (N, C, d1, ...), in `*loss`. `targets` has one class below C, or an ignored index,
 * for each position of each image, image by image; of any integer dtype.
 */
xent_status xent_loss_planes(const struct xent_cross_entropy *cross_entropy,
                             struct xent_planes logits,
                             struct xent_array targets,
                             double *loss);

/**
 * The reduced loss, and in `grad`, of the same shape, its derivative with respect to the logits.
 */
xent_status xent_loss_and_grad_planes(const struct xent_cross_entropy *cross_entropy,
                                      struct xent_planes logits,
                                      struct xent_array targets,
                                      struct xent_planes_mut grad,
                                      double *loss);

/**
 * The reduced loss; its gradient replaces the logits. This moves the fewest bytes.
 */
xent_status xent_loss_and_grad_planes_in_place(const struct xent_cross_entropy *cross_entropy,
                                               struct xent_planes_mut logits,
                                               struct xent_array targets,
                                               double *loss);

/**
 * Any set of outputs in one call. `request` may be null: nothing but the summary.
 */
xent_status xent_run_planes(const struct xent_cross_entropy *cross_entropy,
                            struct xent_planes logits,
                            struct xent_array targets,
                            const struct xent_planes_request *request,
                            struct xent_summary *summary);

/**
 * Any set of outputs in one call; the gradient replaces the logits. `request` may be null.
 */
xent_status xent_run_planes_in_place(const struct xent_cross_entropy *cross_entropy,
                                     struct xent_planes_mut logits,
                                     struct xent_array targets,
                                     const struct xent_planes_request *request,
                                     struct xent_summary *summary);

/**
 * Makes `states` those of no columns.
 */
xent_status xent_row_states_clear(struct xent_array_mut states);

/**
 * Merges each of `others` into that of the same row in `states`. The columns of the two are not the same. Merging is
 * commutative to the last bit: states that are merged in the same order have the same bits anywhere.
 */
xent_status xent_row_states_merge(struct xent_array_mut states,
                                  struct xent_array others);

/**
 * The states as bytes, which are the same on every machine: in `bytes`, `XENT_DTYPE_U8`, `XENT_ROW_STATE_BYTES` or
 * `XENT_ROW_STATE_F64_BYTES` of each, one after the other.
 */
xent_status xent_row_states_to_bytes(struct xent_array states,
                                     struct xent_array_mut bytes);

/**
 * The states that were made into these bytes.
 */
xent_status xent_row_states_from_bytes(struct xent_array bytes, struct xent_array_mut states);

/**
 * The state of each row's columns from class `first_column` on, which `logits`, rows x some, has. One state for each
 * row: `XENT_DTYPE_ROW_STATE_F64` for logits of `XENT_DTYPE_F64`, else `XENT_DTYPE_ROW_STATE`.
 */
xent_status xent_shards_summarise(const struct xent_cross_entropy *cross_entropy,
                                  const struct xent_shards *shards,
                                  struct xent_matrix logits,
                                  int64_t first_column,
                                  struct xent_array_mut states);

/**
 * The same, merged into what `states` are already.
 */
xent_status xent_shards_accumulate(const struct xent_cross_entropy *cross_entropy,
                                   const struct xent_shards *shards,
                                   struct xent_matrix logits,
                                   int64_t first_column,
                                   struct xent_array_mut states);

/**
 * The reduced loss, and the rest of the summary, of complete states: those of all columns of each row.
 */
xent_status xent_shards_finish(const struct xent_cross_entropy *cross_entropy,
                               const struct xent_shards *shards,
                               struct xent_array states,
                               struct xent_summary *summary);

/**
 * The same, and the loss of each row before the reduction: `XENT_DTYPE_F32`, or `XENT_DTYPE_F64` of states of such logits.
 */
xent_status xent_shards_losses(const struct xent_cross_entropy *cross_entropy,
                               const struct xent_shards *shards,
                               struct xent_array states,
                               struct xent_array_mut losses,
                               struct xent_summary *summary);

/**
 * The logarithm of the sum of exponentials of each row, of the dtype of losses, of complete states.
 */
xent_status xent_shards_lse(const struct xent_cross_entropy *cross_entropy,
                            const struct xent_shards *shards,
                            struct xent_array states,
                            struct xent_array_mut lse);

/**
 * The logarithm of each row's probability of its target, of the dtype of losses, of complete states.
 */
xent_status xent_shards_target_log_probabilities(const struct xent_cross_entropy *cross_entropy,
                                                 const struct xent_shards *shards,
                                                 struct xent_array states,
                                                 struct xent_array_mut target_log_probabilities);

/**
 * In `grad`, the gradient of the reduced loss with respect to `logits`, each row's columns from class `first_column` on.
 * It may be of another dtype than the logits, as that of `xent_request`. The states are complete.
 */
xent_status xent_shards_grad(const struct xent_cross_entropy *cross_entropy,
                             const struct xent_shards *shards,
                             struct xent_matrix logits,
                             int64_t first_column,
                             struct xent_array states,
                             struct xent_matrix_mut grad);

/**
 * The same; the gradient is added to what `grad` holds.
 */
xent_status xent_shards_accumulate_grad(const struct xent_cross_entropy *cross_entropy,
                                        const struct xent_shards *shards,
                                        struct xent_matrix logits,
                                        int64_t first_column,
                                        struct xent_array states,
                                        struct xent_matrix_mut grad);

/**
 * The same as `xent_shards_grad`; the gradient replaces the logits.
 */
xent_status xent_shards_grad_in_place(const struct xent_cross_entropy *cross_entropy,
                                      const struct xent_shards *shards,
                                      struct xent_matrix_mut logits,
                                      int64_t first_column,
                                      struct xent_array states);

/**
 * The softmax of each row of `logits`, rows x C, in `probabilities`, rows x C of the same dtype. `options` may be null.
 */
xent_status xent_softmax(struct xent_matrix logits,
                         struct xent_matrix_mut probabilities,
                         const struct xent_softmax_options *options);

/**
 * The softmax of each row, in its place. `options` may be null.
 */
xent_status xent_softmax_in_place(struct xent_matrix_mut logits, const struct xent_softmax_options *options);

/**
 * The logarithm of the softmax of each row of `logits`, rows x C, in `log_probabilities`, rows x C of the same dtype.
 * `options` may be null.
 */
xent_status xent_log_softmax(struct xent_matrix logits,
                             struct xent_matrix_mut log_probabilities,
                             const struct xent_softmax_options *options);

/**
 * The logarithm of the softmax of each row, in its place. `options` may be null.
 */
xent_status xent_log_softmax_in_place(struct xent_matrix_mut logits,
                                      const struct xent_softmax_options *options);

/**
 * From the gradient with respect to softmax's output, `upstream`, to that with respect to its input, in `grad`:
 * p_i (g_i - sum_c g_c p_c). All three are rows x C of the same dtype. `options` may be null.
 */
xent_status xent_softmax_backward(struct xent_matrix probabilities,
                                  struct xent_matrix upstream,
                                  struct xent_matrix_mut grad,
                                  const struct xent_softmax_options *options);

/**
 * The same; the gradient replaces `upstream`.
 */
xent_status xent_softmax_backward_in_place(struct xent_matrix probabilities,
                                           struct xent_matrix_mut upstream,
                                           const struct xent_softmax_options *options);

/**
 * From the gradient with respect to log-softmax's output, `upstream`, to that with respect to its input, in `grad`:
 * g_i - p_i sum_c g_c. All three are rows x C of the same dtype. `options` may be null.
 */
xent_status xent_log_softmax_backward(struct xent_matrix log_probabilities,
                                      struct xent_matrix upstream,
                                      struct xent_matrix_mut grad,
                                      const struct xent_softmax_options *options);

/**
 * The same; the gradient replaces `upstream`.
 */
xent_status xent_log_softmax_backward_in_place(struct xent_matrix log_probabilities,
                                               struct xent_matrix_mut upstream,
                                               const struct xent_softmax_options *options);

/**
 * What was wrong with the last call of this thread that failed: which argument, where and with what value. Valid until
 * the next call of this thread that fails, or its end. Never null, empty before the first failure, and not to be freed.
 */
const char *xent_last_error_message(void);

/**
 * A status in words. Never null, and not to be freed.
 */
const char *xent_status_message(int32_t status);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#ifdef __cplusplus
extern "C" {
#endif

/* The default options: the mean, and -100 as the ignored index. */
static inline xent_options xent_options_default(void) {
    xent_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.ignore_index = -100;
    return options;
}

/* Images x classes x positions elements without padding; for other strides, set them afterwards. A product that is no
 * size becomes one that the library refuses. */
static inline xent_planes xent_planes_of(const void *data, uint32_t dtype, int64_t images, int64_t classes,
                                         int64_t positions) {
    int fits = classes >= 0 && positions >= 0 && (positions == 0 || classes <= INT64_MAX / positions);
    int64_t stride = fits ? classes * positions : -1;
    xent_planes planes = {data, images, classes, positions, stride, positions, dtype};
    return planes;
}

/* Images x classes x positions elements without padding; for other strides, set them afterwards. */
static inline xent_planes_mut xent_planes_mut_of(void *data, uint32_t dtype, int64_t images, int64_t classes,
                                                 int64_t positions) {
    int fits = classes >= 0 && positions >= 0 && (positions == 0 || classes <= INT64_MAX / positions);
    int64_t stride = fits ? classes * positions : -1;
    xent_planes_mut planes = {data, images, classes, positions, stride, positions, dtype};
    return planes;
}

/* Nothing but the summary. */
static inline xent_planes_request xent_planes_request_default(void) {
    xent_planes_request request;
    memset(&request, 0, sizeof request);
    request.size = sizeof request;
    return request;
}

/* Nothing but the summary. */
static inline xent_request xent_request_default(void) {
    xent_request request;
    memset(&request, 0, sizeof request);
    request.size = sizeof request;
    return request;
}

/* A summary to be written. */
static inline xent_summary xent_summary_default(void) {
    xent_summary summary;
    memset(&summary, 0, sizeof summary);
    summary.size = sizeof summary;
    return summary;
}

/* The fastest instruction set, and threads. */
static inline xent_softmax_options xent_softmax_options_default(void) {
    xent_softmax_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    return options;
}

/* A temperature of 1, the mean, the fastest instruction set, and threads. */
static inline xent_distillation_options xent_distillation_options_default(void) {
    xent_distillation_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.temperature = 1.0;
    return options;
}

/* Rows with these targets, whose columns are those of `classes` classes in all. */
static inline xent_shards xent_shards_of(xent_array targets, int64_t classes) {
    xent_shards shards;
    memset(&shards, 0, sizeof shards);
    shards.size = sizeof shards;
    shards.targets = targets;
    shards.classes = classes;
    return shards;
}

/* rows x cols elements without padding; for another stride, set row_stride afterwards. */
static inline xent_matrix xent_matrix_of(const void *data, uint32_t dtype, int64_t rows, int64_t cols) {
    xent_matrix matrix = {data, rows, cols, cols, dtype};
    return matrix;
}

/* rows x cols elements without padding; for another stride, set row_stride afterwards. */
static inline xent_matrix_mut xent_matrix_mut_of(void *data, uint32_t dtype, int64_t rows, int64_t cols) {
    xent_matrix_mut matrix = {data, rows, cols, cols, dtype};
    return matrix;
}

/* len elements. */
static inline xent_array xent_array_of(const void *data, uint32_t dtype, int64_t len) {
    xent_array array = {data, len, dtype};
    return array;
}

/* len elements. */
static inline xent_array_mut xent_array_mut_of(void *data, uint32_t dtype, int64_t len) {
    xent_array_mut array = {data, len, dtype};
    return array;
}

#ifdef __cplusplus
}
#endif

#endif /* XENT_H */
