// xent for C++17: views, exceptions and owners around xent.h. Everything is in this header.
//
//     std::vector<float> logits = {1, 2, 3, 2, 1, 0.5f}, grad(6);
//     std::vector<std::int64_t> targets = {2, 0};
//     xent::cross_entropy ce(xent::options().label_smoothing(0.1));
//     double loss = ce.loss_and_grad(xent::matrix(logits, 2, 3), targets, xent::matrix_mut(grad, 2, 3));
//
// What is wrong with a call is thrown as xent::error, with the status of xent.h, before anything is written. Views
// point to memory of the caller's, which outlives them; a view of a container checks that its elements are there.
#ifndef XENT_HPP
#define XENT_HPP

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "xent.h"

namespace xent {

/// What is wrong with a call: which argument, where and with what value.
class error : public std::runtime_error {
  public:
    error(xent_status status, const char *message) : std::runtime_error(message), status_(status) {}
    xent_status status() const noexcept { return status_; }

  private:
    xent_status status_;
};

namespace detail {

inline void check(xent_status status) {
    if (status != XENT_STATUS_OK)
        throw error(status, xent_last_error_message());
}

/// What is no size of an array becomes negative, which the library refuses.
inline std::int64_t size(std::size_t size) {
    return size > static_cast<std::size_t>(INT64_MAX) ? -1 : static_cast<std::int64_t>(size);
}

/// What no elements are at: null stands for what is left out.
inline std::max_align_t nothing;
template <class T> T *not_null(T *data) {
    return data != nullptr ? data : static_cast<T *>(static_cast<void *>(&nothing));
}

}  // namespace detail

/// 16-bit numbers by their bits, for those who have no type of their own.
struct f16 {
    std::uint16_t bits;
};
struct bf16 {
    std::uint16_t bits;
};

/// The dtype that a type of elements has. Specialise it for 16-bit types of your own.
template <class T> struct dtype_of;
template <> struct dtype_of<float> : std::integral_constant<std::uint32_t, XENT_DTYPE_F32> {};
template <> struct dtype_of<double> : std::integral_constant<std::uint32_t, XENT_DTYPE_F64> {};
template <> struct dtype_of<f16> : std::integral_constant<std::uint32_t, XENT_DTYPE_F16> {};
template <> struct dtype_of<bf16> : std::integral_constant<std::uint32_t, XENT_DTYPE_BF16> {};
template <> struct dtype_of<std::uint8_t> : std::integral_constant<std::uint32_t, XENT_DTYPE_U8> {};
template <> struct dtype_of<std::uint16_t> : std::integral_constant<std::uint32_t, XENT_DTYPE_U16> {};
template <> struct dtype_of<std::uint32_t> : std::integral_constant<std::uint32_t, XENT_DTYPE_U32> {};
template <> struct dtype_of<std::uint64_t> : std::integral_constant<std::uint32_t, XENT_DTYPE_U64> {};
template <> struct dtype_of<std::int32_t> : std::integral_constant<std::uint32_t, XENT_DTYPE_I32> {};
template <> struct dtype_of<std::int64_t> : std::integral_constant<std::uint32_t, XENT_DTYPE_I64> {};
template <> struct dtype_of<xent_row_state> : std::integral_constant<std::uint32_t, XENT_DTYPE_ROW_STATE> {};
template <> struct dtype_of<xent_row_state_f64> : std::integral_constant<std::uint32_t, XENT_DTYPE_ROW_STATE_F64> {};

/// What outputs have that are one number for each row, for logits of T.
template <class T> using per_row = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// What outputs have that are a class, or how many come before one.
using index = std::conditional_t<sizeof(void *) == 8, std::int64_t, std::int32_t>;

/// Neighbouring elements: of a pointer and a number, of an array, or of anything with data() and size(), std::span
/// included. `span<const T>` is read, `span<T>` is written.
template <class T> class span {
  public:
    constexpr span() = default;
    constexpr span(T *data, std::size_t size) : data_(data), size_(size) {}
    template <std::size_t N> constexpr span(T (&array)[N]) : data_(array), size_(N) {}
    /// What is written is no temporary, unless that is a view itself.
    template <class Container,
              class = std::enable_if_t<std::is_convertible_v<
                  std::remove_pointer_t<decltype(std::declval<Container &>().data())> (*)[], T (*)[]>>,
              class = decltype(std::declval<Container &>().size()),
              class = std::enable_if_t<std::is_lvalue_reference_v<Container> || std::is_const_v<T> ||
                                       std::is_trivially_copyable_v<Container>>>
    constexpr span(Container &&container) : data_(container.data()), size_(container.size()) {}

    constexpr T *data() const { return data_; }
    constexpr std::size_t size() const { return size_; }
    constexpr T *begin() const { return data_; }
    constexpr T *end() const { return data_ + size_; }
    constexpr T &operator[](std::size_t i) const { return data_[i]; }

    xent_array to_read() const {
        return xent_array_of(detail::not_null(data_), dtype_of<std::remove_const_t<T>>::value, detail::size(size_));
    }
    xent_array_mut to_write() const {
        static_assert(!std::is_const_v<T>, "an output cannot be const");
        return xent_array_mut_of(detail::not_null(data_), dtype_of<T>::value, detail::size(size_));
    }

  private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

template <class Container>
span(Container &) -> span<std::remove_pointer_t<decltype(std::declval<Container &>().data())>>;

/// A row-major view: rows of cols neighbouring elements each, row_stride elements apart. `basic_matrix<const T>` is
/// read, `basic_matrix<T>` is written; `matrix(...)` and `matrix_mut(...)` make them.
template <class T> class basic_matrix {
  public:
    /// Throws if the elements do not reach as far.
    basic_matrix(span<T> elements, std::size_t rows, std::size_t cols, std::size_t row_stride)
        : data_(elements.data()), rows_(rows), cols_(cols), row_stride_(row_stride) {
        if (row_stride < cols)
            throw error(XENT_STATUS_STRIDE_TOO_SMALL, "the row stride is less than the number of columns");
        if (rows > 0 && (elements.size() < cols ||
                         (row_stride > 0 && rows - 1 > (elements.size() - cols) / row_stride)))
            throw error(XENT_STATUS_LENGTH_MISMATCH, "the matrix reaches past its elements");
    }

    /// What is written can be read.
    template <class U, class = std::enable_if_t<std::is_same_v<const U, T> && !std::is_same_v<U, T>>>
    basic_matrix(const basic_matrix<U> &other)
        : data_(other.data()), rows_(other.rows()), cols_(other.cols()), row_stride_(other.row_stride()) {}

    T *data() const { return data_; }
    std::size_t rows() const { return rows_; }
    std::size_t cols() const { return cols_; }
    std::size_t row_stride() const { return row_stride_; }
    span<T> row(std::size_t row) const { return span<T>(data_ + row * row_stride_, cols_); }

    xent_matrix to_read() const {
        xent_matrix matrix = xent_matrix_of(detail::not_null(data_), dtype_of<std::remove_const_t<T>>::value,
                                            detail::size(rows_), detail::size(cols_));
        matrix.row_stride = detail::size(row_stride_);
        return matrix;
    }
    xent_matrix_mut to_write() const {
        static_assert(!std::is_const_v<T>, "an output cannot be const");
        xent_matrix_mut matrix = xent_matrix_mut_of(detail::not_null(data_), dtype_of<T>::value,
                                                    detail::size(rows_), detail::size(cols_));
        matrix.row_stride = detail::size(row_stride_);
        return matrix;
    }

  private:
    T *data_;
    std::size_t rows_, cols_, row_stride_;
};

/// To read.
template <class Container> auto matrix(const Container &elements, std::size_t rows, std::size_t cols) {
    span view(elements);
    using T = std::add_const_t<std::remove_reference_t<decltype(view[0])>>;
    return basic_matrix<T>(span<T>(view.data(), view.size()), rows, cols, cols);
}

/// To read, with rows that are further apart.
template <class Container>
auto matrix(const Container &elements, std::size_t rows, std::size_t cols, std::size_t row_stride) {
    span view(elements);
    using T = std::add_const_t<std::remove_reference_t<decltype(view[0])>>;
    return basic_matrix<T>(span<T>(view.data(), view.size()), rows, cols, row_stride);
}

/// To write.
template <class Container> auto matrix_mut(Container &&elements, std::size_t rows, std::size_t cols) {
    span view(elements);
    return basic_matrix<std::remove_reference_t<decltype(view[0])>>(view, rows, cols, cols);
}

/// To write, with rows that are further apart. What lies between them is left alone.
template <class Container>
auto matrix_mut(Container &&elements, std::size_t rows, std::size_t cols, std::size_t row_stride) {
    span view(elements);
    return basic_matrix<std::remove_reference_t<decltype(view[0])>>(view, rows, cols, row_stride);
}

/// A view of logits of shape (N, C, d1, ...): images of planes of neighbouring positions. `planes(...)` and
/// `planes_mut(...)` make them.
template <class T> class basic_planes {
  public:
    /// Planes class_stride elements apart, and images image_stride. Throws if the elements do not reach as far.
    basic_planes(span<T> elements, std::size_t images, std::size_t classes, std::size_t positions,
                 std::size_t image_stride, std::size_t class_stride)
        : data_(elements.data()), images_(images), classes_(classes), positions_(positions),
          image_stride_(image_stride), class_stride_(class_stride) {
        if (reach(images, image_stride, reach(classes, class_stride, positions)) > elements.size())
            throw error(XENT_STATUS_LENGTH_MISMATCH, "the planes reach past their elements");
    }

    /// Without padding.
    basic_planes(span<T> elements, std::size_t images, std::size_t classes, std::size_t positions)
        : basic_planes(elements, images, classes, positions, reach(classes, positions, positions), positions) {}

    /// What is written can be read.
    template <class U, class = std::enable_if_t<std::is_same_v<const U, T> && !std::is_same_v<U, T>>>
    basic_planes(const basic_planes<U> &other)
        : data_(other.data()), images_(other.images()), classes_(other.classes()), positions_(other.positions()),
          image_stride_(other.image_stride()), class_stride_(other.class_stride()) {}

    T *data() const { return data_; }
    std::size_t images() const { return images_; }
    std::size_t classes() const { return classes_; }
    std::size_t positions() const { return positions_; }
    std::size_t image_stride() const { return image_stride_; }
    std::size_t class_stride() const { return class_stride_; }

    xent_planes to_read() const {
        xent_planes planes = xent_planes_of(detail::not_null(data_), dtype_of<std::remove_const_t<T>>::value,
                                            detail::size(images_), detail::size(classes_),
                                            detail::size(positions_));
        planes.image_stride = detail::size(image_stride_);
        planes.class_stride = detail::size(class_stride_);
        return planes;
    }
    xent_planes_mut to_write() const {
        static_assert(!std::is_const_v<T>, "an output cannot be const");
        xent_planes_mut planes = xent_planes_mut_of(detail::not_null(data_), dtype_of<T>::value,
                                                    detail::size(images_), detail::size(classes_),
                                                    detail::size(positions_));
        planes.image_stride = detail::size(image_stride_);
        planes.class_stride = detail::size(class_stride_);
        return planes;
    }

  private:
    /// From the first element to behind the last of runs that start a stride apart; the largest number, where it would be
    /// more than that.
    static std::size_t reach(std::size_t count, std::size_t stride, std::size_t run) {
        constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
        if (count == 0 || run == 0)
            return 0;
        return stride > 0 && count - 1 > (most - run) / stride ? most : (count - 1) * stride + run;
    }

    T *data_;
    std::size_t images_, classes_, positions_, image_stride_, class_stride_;
};

/// To read.
template <class Container>
auto planes(const Container &elements, std::size_t images, std::size_t classes, std::size_t positions) {
    span view(elements);
    using T = std::add_const_t<std::remove_reference_t<decltype(view[0])>>;
    return basic_planes<T>(span<T>(view.data(), view.size()), images, classes, positions);
}

/// To read, with planes or images that are further apart.
template <class Container>
auto planes(const Container &elements, std::size_t images, std::size_t classes, std::size_t positions,
            std::size_t image_stride, std::size_t class_stride) {
    span view(elements);
    using T = std::add_const_t<std::remove_reference_t<decltype(view[0])>>;
    return basic_planes<T>(span<T>(view.data(), view.size()), images, classes, positions, image_stride, class_stride);
}

/// To write.
template <class Container>
auto planes_mut(Container &&elements, std::size_t images, std::size_t classes, std::size_t positions) {
    span view(elements);
    return basic_planes<std::remove_reference_t<decltype(view[0])>>(view, images, classes, positions);
}

/// To write, with planes or images that are further apart. What lies between them is left alone.
template <class Container>
auto planes_mut(Container &&elements, std::size_t images, std::size_t classes, std::size_t positions,
                std::size_t image_stride, std::size_t class_stride) {
    span view(elements);
    return basic_planes<std::remove_reference_t<decltype(view[0])>>(view, images, classes, positions, image_stride,
                                                                    class_stride);
}

/// Targets: one class for each row, of any integer type that has a dtype.
class targets {
  public:
    template <class Container, class = decltype(span(std::declval<const Container &>()))>
    targets(const Container &classes) : array_(span(classes).to_read()) {}
    const xent_array &array() const { return array_; }

  private:
    xent_array array_;
};

/// The options of a loss; see xent_options. It owns what it is given.
class options {
  public:
    options &weight(std::vector<float> weight) { return weight_ = std::move(weight), *this; }
    options &ignore_index(std::int64_t index) { return ignore_indices({index}); }
    options &ignore_indices(std::vector<std::int64_t> indices) {
        return ignore_indices_ = std::move(indices), *this;
    }
    options &label_smoothing(double label_smoothing) { return options_.label_smoothing = label_smoothing, *this; }
    options &z_loss(double z_loss) { return options_.z_loss = z_loss, *this; }
    options &focal_gamma(double focal_gamma) { return options_.focal_gamma = focal_gamma, *this; }
    options &logit_scale(double logit_scale) { return options_.logit_scale = logit_scale, *this; }
    options &softcap(double softcap) { return options_.softcap = softcap, *this; }
    options &reduction(xent_reduction reduction) { return options_.reduction = reduction, *this; }
    options &smoothing(xent_smoothing smoothing) { return options_.smoothing = smoothing, *this; }
    options &empty_mean(xent_empty_mean empty_mean) { return options_.empty_mean = empty_mean, *this; }
    options &backend(xent_backend backend) { return options_.backend = backend, *this; }
    options &parallelism(xent_parallelism parallelism) { return options_.parallelism = parallelism, *this; }

    /// For as long as this is neither changed nor destroyed.
    xent_options get() const {
        xent_options options = options_;
        if (weight_)
            options.weight = span<const float>(*weight_).to_read();
        if (ignore_indices_)
            options.ignore_indices = span<const std::int64_t>(*ignore_indices_).to_read();
        return options;
    }

  private:
    xent_options options_ = xent_options_default();
    std::optional<std::vector<float>> weight_;
    std::optional<std::vector<std::int64_t>> ignore_indices_;
};

/// Inputs and outputs of one call on logits of T; see xent_request. It points to memory of the caller's.
template <class T> class request {
  public:
    using number = per_row<T>;

    request &loss_mask(span<const std::uint8_t> mask) { return request_.loss_mask = mask.to_read(), *this; }
    request &row_weights(span<const float> weights) { return request_.row_weights = weights.to_read(), *this; }
    request &upstream(span<const number> upstream) { return request_.upstream = upstream.to_read(), *this; }
    request &upstream_scalar(double scalar) { return upstream_scalar_ = scalar, *this; }
    request &denominator(double denominator) { return denominator_ = denominator, *this; }

    /// Of T, or of float, f16 or bf16.
    template <class G> request &grad(basic_matrix<G> grad) {
        request_.accumulate = 0;
        return request_.grad = grad.to_write(), *this;
    }
    /// The same; the gradient is added to what `grad` holds.
    template <class G> request &accumulate(basic_matrix<G> grad) {
        request_.accumulate = 1;
        return request_.grad = grad.to_write(), *this;
    }
    request &losses(span<number> to) { return request_.losses = to.to_write(), *this; }
    request &lse(span<number> to) { return request_.lse = to.to_write(), *this; }
    request &target_log_probabilities(span<number> to) {
        return request_.target_log_probabilities = to.to_write(), *this;
    }
    request &entropies(span<number> to) { return request_.entropies = to.to_write(), *this; }
    /// -1 for an ignored row.
    request &argmax(span<index> to) { return request_.argmax = to.to_write(), *this; }
    request &argmax_probabilities(span<number> to) { return request_.argmax_probabilities = to.to_write(), *this; }
    /// -1 for an ignored row.
    request &target_ranks(span<index> to) { return request_.target_ranks = to.to_write(), *this; }
    request &probabilities(basic_matrix<T> to) { return request_.probabilities = to.to_write(), *this; }
    request &log_probabilities(basic_matrix<T> to) { return request_.log_probabilities = to.to_write(), *this; }

    /// For as long as this is neither changed nor destroyed.
    xent_request get() const {
        xent_request request = request_;
        request.upstream_scalar = upstream_scalar_ ? &*upstream_scalar_ : nullptr;
        request.denominator = denominator_ ? &*denominator_ : nullptr;
        return request;
    }

  private:
    xent_request request_ = xent_request_default();
    std::optional<double> upstream_scalar_, denominator_;
};

/// What some columns of a row amount to; for logits of double, the second.
using row_state = xent_row_state;
using row_state_f64 = xent_row_state_f64;

namespace detail {

template <class State> inline constexpr std::size_t bytes_of = XENT_ROW_STATE_BYTES;
template <> inline constexpr std::size_t bytes_of<row_state_f64> = XENT_ROW_STATE_F64_BYTES;

}  // namespace detail

/// `count` states of no columns.
template <class State = row_state> std::vector<State> row_states(std::size_t count) {
    std::vector<State> states(count);
    detail::check(xent_row_states_clear(span(states).to_write()));
    return states;
}

/// Merges each of `others` into the state of the same row.
inline void merge(span<row_state> states, span<const row_state> others) {
    detail::check(xent_row_states_merge(states.to_write(), others.to_read()));
}
inline void merge(span<row_state_f64> states, span<const row_state_f64> others) {
    detail::check(xent_row_states_merge(states.to_write(), others.to_read()));
}

/// The states as bytes, which are the same on every machine.
template <class State> std::vector<std::uint8_t> row_states_to_bytes(const std::vector<State> &states) {
    std::vector<std::uint8_t> bytes(states.size() * detail::bytes_of<State>);
    detail::check(xent_row_states_to_bytes(span(states).to_read(), span(bytes).to_write()));
    return bytes;
}

/// The states that such bytes are of.
template <class State = row_state>
std::vector<State> row_states_from_bytes(const std::vector<std::uint8_t> &bytes) {
    std::vector<State> states(bytes.size() / detail::bytes_of<State>);
    detail::check(xent_row_states_from_bytes(span(bytes).to_read(), span(states).to_write()));
    return states;
}

/// A softmax cross-entropy with its options. Calls allocate nothing but what threads need, and any number of threads may
/// make them at once.
class cross_entropy {
  public:
    explicit cross_entropy(const options &options = {}) {
        xent_options plain = options.get();
        xent_cross_entropy *made = nullptr;
        detail::check(xent_cross_entropy_create(&plain, &made));
        ce_.reset(made);
    }

    /// The reduced loss.
    template <class T> double loss(basic_matrix<T> logits, const targets &targets) const {
        double loss = 0;
        detail::check(xent_loss(ce_.get(), logits.to_read(), targets.array(), &loss));
        return loss;
    }

    /// The reduced loss, and in `grad` its derivative with respect to the logits, of their type or of float, f16 or bf16.
    template <class T, class G>
    double loss_and_grad(basic_matrix<T> logits, const targets &targets, basic_matrix<G> grad) const {
        double loss = 0;
        detail::check(
            xent_loss_and_grad(ce_.get(), logits.to_read(), targets.array(), grad.to_write(), &loss));
        return loss;
    }

    /// The reduced loss; its gradient replaces the logits.
    template <class T> double loss_and_grad_in_place(basic_matrix<T> logits, const targets &targets) const {
        double loss = 0;
        detail::check(xent_loss_and_grad_in_place(ce_.get(), logits.to_write(), targets.array(), &loss));
        return loss;
    }

    /// Any set of outputs in one call.
    template <class T>
    xent_summary run(basic_matrix<T> logits, const targets &targets,
                     const request<std::remove_const_t<T>> &request = {}) const {
        xent_request plain = request.get();
        xent_summary summary = xent_summary_default();
        detail::check(xent_run(ce_.get(), logits.to_read(), targets.array(), &plain, &summary));
        return summary;
    }

    /// Any set of outputs in one call; the gradient replaces the logits.
    template <class T>
    xent_summary run_in_place(basic_matrix<T> logits, const targets &targets, const request<T> &request = {}) const {
        xent_request plain = request.get();
        xent_summary summary = xent_summary_default();
        detail::check(xent_run_in_place(ce_.get(), logits.to_write(), targets.array(), &plain, &summary));
        return summary;
    }

    /// As run, with a probability of each class as the target of a row.
    template <class T>
    xent_summary run_probabilities(basic_matrix<T> logits,
                                   basic_matrix<const per_row<std::remove_const_t<T>>> target_probabilities,
                                   const request<std::remove_const_t<T>> &request = {}) const {
        xent_request plain = request.get();
        xent_summary summary = xent_summary_default();
        detail::check(xent_run_probabilities(ce_.get(), logits.to_read(), target_probabilities.to_read(), &plain,
                                             &summary));
        return summary;
    }

    /// As run_in_place, with a probability of each class as the target of a row.
    template <class T>
    xent_summary run_probabilities_in_place(basic_matrix<T> logits,
                                            basic_matrix<const per_row<T>> target_probabilities,
                                            const request<T> &request = {}) const {
        xent_request plain = request.get();
        xent_summary summary = xent_summary_default();
        detail::check(xent_run_probabilities_in_place(ce_.get(), logits.to_write(),
                                                      target_probabilities.to_read(), &plain, &summary));
        return summary;
    }

    /// The reduced loss of logits whose classes are not last; a target for each position of each image.
    template <class T> double loss(basic_planes<T> logits, const targets &targets) const {
        double loss = 0;
        detail::check(xent_loss_planes(ce_.get(), logits.to_read(), targets.array(), &loss));
        return loss;
    }

    /// The reduced loss, and in `grad`, of the same shape, its derivative with respect to the logits.
    template <class T>
    double loss_and_grad(basic_planes<T> logits, const targets &targets,
                         basic_planes<std::remove_const_t<T>> grad) const {
        double loss = 0;
        detail::check(
            xent_loss_and_grad_planes(ce_.get(), logits.to_read(), targets.array(), grad.to_write(), &loss));
        return loss;
    }

    /// The reduced loss; its gradient replaces the logits.
    template <class T> double loss_and_grad_in_place(basic_planes<T> logits, const targets &targets) const {
        double loss = 0;
        detail::check(xent_loss_and_grad_planes_in_place(ce_.get(), logits.to_write(), targets.array(), &loss));
        return loss;
    }

    /// Any set of outputs in one call; the request is that of the C interface.
    template <class T>
    xent_summary run(basic_planes<T> logits, const targets &targets,
                     const xent_planes_request &request) const {
        xent_summary summary = xent_summary_default();
        detail::check(xent_run_planes(ce_.get(), logits.to_read(), targets.array(), &request, &summary));
        return summary;
    }

    /// The same; the gradient replaces the logits.
    template <class T>
    xent_summary run_in_place(basic_planes<T> logits, const targets &targets,
                              const xent_planes_request &request) const {
        xent_summary summary = xent_summary_default();
        detail::check(xent_run_planes_in_place(ce_.get(), logits.to_write(), targets.array(), &request, &summary));
        return summary;
    }

    /// The Hessian of the reduced loss times `direction`, in `out`. Of the request, the inputs count.
    template <class T>
    void hessian_vector_product(basic_matrix<T> logits, const targets &targets, basic_matrix<std::add_const_t<T>> direction,
                                basic_matrix<std::remove_const_t<T>> out,
                                const request<std::remove_const_t<T>> &request = {}) const {
        xent_request plain = request.get();
        detail::check(xent_hessian_vector_product(ce_.get(), logits.to_read(), targets.array(), &plain,
                                                  direction.to_read(), out.to_write()));
    }

    /// The same; the product replaces `direction`.
    template <class T>
    void hessian_vector_product_in_place(basic_matrix<T> logits, const targets &targets,
                                         basic_matrix<std::remove_const_t<T>> direction,
                                         const request<std::remove_const_t<T>> &request = {}) const {
        xent_request plain = request.get();
        detail::check(xent_hessian_vector_product_in_place(ce_.get(), logits.to_read(), targets.array(), &plain,
                                                           direction.to_write()));
    }

    /// The derivative of the reduced loss along `direction`.
    template <class T>
    double jvp(basic_matrix<T> logits, const targets &targets, basic_matrix<std::add_const_t<T>> direction,
               const request<std::remove_const_t<T>> &request = {}) const {
        return jvp(logits, targets, direction, xent_array_mut(), request);
    }

    /// The same, and in `derivatives` that of the loss of each row.
    template <class T>
    double jvp(basic_matrix<T> logits, const targets &targets, basic_matrix<std::add_const_t<T>> direction,
               span<per_row<std::remove_const_t<T>>> derivatives,
               const request<std::remove_const_t<T>> &request = {}) const {
        return jvp(logits, targets, direction, derivatives.to_write(), request);
    }

    /// The diagonal of the Gauss-Newton matrix of the reduced loss.
    template <class T>
    void gauss_newton_diagonal(basic_matrix<T> logits, const targets &targets, basic_matrix<std::remove_const_t<T>> out,
                               const request<std::remove_const_t<T>> &request = {}) const {
        xent_request plain = request.get();
        detail::check(xent_gauss_newton_diagonal(ce_.get(), logits.to_read(), targets.array(), &plain, out.to_write()));
    }

    /// The diagonal of the Hessian of the reduced loss.
    template <class T>
    void hessian_diagonal(basic_matrix<T> logits, const targets &targets, basic_matrix<std::remove_const_t<T>> out,
                          const request<std::remove_const_t<T>> &request = {}) const {
        xent_request plain = request.get();
        detail::check(xent_hessian_diagonal(ce_.get(), logits.to_read(), targets.array(), &plain, out.to_write()));
    }

    xent_backend backend() const { return static_cast<xent_backend>(xent_cross_entropy_backend(ce_.get())); }

    /// For functions of xent.h.
    const xent_cross_entropy *get() const { return ce_.get(); }

  private:
    template <class T>
    double jvp(basic_matrix<T> logits, const targets &targets, basic_matrix<std::add_const_t<T>> direction,
               xent_array_mut derivatives, const request<std::remove_const_t<T>> &request) const {
        xent_request plain = request.get();
        double derivative = 0;
        detail::check(xent_jvp(ce_.get(), logits.to_read(), targets.array(), &plain, direction.to_read(), derivatives,
                               &derivative));
        return derivative;
    }

    struct destroy {
        void operator()(xent_cross_entropy *ce) const { xent_cross_entropy_destroy(ce); }
    };
    std::unique_ptr<xent_cross_entropy, destroy> ce_;
};

/// The options of a distillation; see xent_distillation_options.
class distillation_options {
  public:
    distillation_options &temperature(double temperature) { return options_.temperature = temperature, *this; }
    distillation_options &reduction(xent_reduction reduction) { return options_.reduction = reduction, *this; }
    distillation_options &empty_mean(xent_empty_mean empty_mean) { return options_.empty_mean = empty_mean, *this; }
    distillation_options &backend(xent_backend backend) { return options_.backend = backend, *this; }
    distillation_options &parallelism(xent_parallelism parallelism) {
        return options_.parallelism = parallelism, *this;
    }
    const xent_distillation_options &get() const { return options_; }

  private:
    xent_distillation_options options_ = xent_distillation_options_default();
};

/// The divergence of a student's softmax from a teacher's at a temperature. Calls allocate nothing but what threads
/// need, and any number of threads may make them at once.
class distillation {
  public:
    explicit distillation(const distillation_options &options = {}) {
        xent_distillation *made = nullptr;
        detail::check(xent_distillation_create(&options.get(), &made));
        distillation_.reset(made);
    }

    /// The divergence, and the outputs of the request.
    template <class T, class U>
    xent_summary run(basic_matrix<T> student, basic_matrix<U> teacher,
                     const request<std::remove_const_t<T>> &request = {}) const {
        xent_request plain = request.get();
        xent_summary summary = xent_summary_default();
        detail::check(
            xent_distillation_run(distillation_.get(), student.to_read(), teacher.to_read(), &plain, &summary));
        return summary;
    }

    /// The same; the gradient replaces the student's logits.
    template <class T, class U>
    xent_summary run_in_place(basic_matrix<T> student, basic_matrix<U> teacher,
                              const request<T> &request = {}) const {
        xent_request plain = request.get();
        xent_summary summary = xent_summary_default();
        detail::check(xent_distillation_run_in_place(distillation_.get(), student.to_write(), teacher.to_read(), &plain,
                                                     &summary));
        return summary;
    }

    /// For functions of xent.h.
    const xent_distillation *get() const { return distillation_.get(); }

  private:
    struct destroy {
        void operator()(xent_distillation *distillation) const { xent_distillation_destroy(distillation); }
    };
    std::unique_ptr<xent_distillation, destroy> distillation_;
};

/// Rows whose columns are split over shards, or made chunk by chunk; see xent_shards. It points to the loss and the
/// targets, which outlive it. Of logits of double it is shards_f64, of others shards.
template <class State> class basic_shards {
  public:
    /// What rows have one number of.
    using number = std::conditional_t<std::is_same_v<State, row_state_f64>, double, float>;

    basic_shards(const cross_entropy &ce, const targets &targets, std::size_t classes)
        : ce_(ce.get()), shards_(xent_shards_of(targets.array(), detail::size(classes))) {}
    basic_shards(const cross_entropy &&, const targets &, std::size_t) = delete;

    basic_shards &loss_mask(span<const std::uint8_t> mask) { return shards_.loss_mask = mask.to_read(), *this; }
    basic_shards &row_weights(span<const float> weights) { return shards_.row_weights = weights.to_read(), *this; }
    basic_shards &upstream(span<const number> upstream) { return shards_.upstream = upstream.to_read(), *this; }
    basic_shards &upstream_scalar(double scalar) { return upstream_scalar_ = scalar, *this; }
    basic_shards &denominator(double denominator) { return denominator_ = denominator, *this; }

    /// The state of each row's columns from class `first_column` on.
    template <class T>
    void summarise(basic_matrix<T> logits, std::size_t first_column, span<State> states) const {
        xent_shards plain = get();
        detail::check(xent_shards_summarise(ce_, &plain, logits.to_read(), detail::size(first_column),
                                            states.to_write()));
    }

    /// The same, merged into what `states` are already.
    template <class T>
    void accumulate(basic_matrix<T> logits, std::size_t first_column, span<State> states) const {
        xent_shards plain = get();
        detail::check(xent_shards_accumulate(ce_, &plain, logits.to_read(), detail::size(first_column),
                                             states.to_write()));
    }

    /// The summary of complete states.
    xent_summary finish(span<const State> states) const {
        xent_shards plain = get();
        xent_summary summary = xent_summary_default();
        detail::check(xent_shards_finish(ce_, &plain, states.to_read(), &summary));
        return summary;
    }

    /// The same, and the loss of each row.
    xent_summary losses(span<const State> states, span<number> losses) const {
        xent_shards plain = get();
        xent_summary summary = xent_summary_default();
        detail::check(xent_shards_losses(ce_, &plain, states.to_read(), losses.to_write(), &summary));
        return summary;
    }

    void lse(span<const State> states, span<number> lse) const {
        xent_shards plain = get();
        detail::check(xent_shards_lse(ce_, &plain, states.to_read(), lse.to_write()));
    }

    void target_log_probabilities(span<const State> states, span<number> to) const {
        xent_shards plain = get();
        detail::check(xent_shards_target_log_probabilities(ce_, &plain, states.to_read(), to.to_write()));
    }

    /// In `grad`, the gradient with respect to `logits`, each row's columns from class `first_column` on.
    template <class T, class G>
    void grad(basic_matrix<T> logits, std::size_t first_column, span<const State> states,
              basic_matrix<G> grad) const {
        xent_shards plain = get();
        detail::check(xent_shards_grad(ce_, &plain, logits.to_read(), detail::size(first_column), states.to_read(),
                                       grad.to_write()));
    }

    /// The same; the gradient is added to what `grad` holds.
    template <class T, class G>
    void accumulate_grad(basic_matrix<T> logits, std::size_t first_column, span<const State> states,
                         basic_matrix<G> grad) const {
        xent_shards plain = get();
        detail::check(xent_shards_accumulate_grad(ce_, &plain, logits.to_read(), detail::size(first_column),
                                                  states.to_read(), grad.to_write()));
    }

    /// The same as grad; the gradient replaces the logits.
    template <class T>
    void grad_in_place(basic_matrix<T> logits, std::size_t first_column, span<const State> states) const {
        xent_shards plain = get();
        detail::check(xent_shards_grad_in_place(ce_, &plain, logits.to_write(), detail::size(first_column),
                                                states.to_read()));
    }

  private:
    xent_shards get() const {
        xent_shards plain = shards_;
        plain.upstream_scalar = upstream_scalar_ ? &*upstream_scalar_ : nullptr;
        plain.denominator = denominator_ ? &*denominator_ : nullptr;
        return plain;
    }

    const xent_cross_entropy *ce_;
    xent_shards shards_;
    std::optional<double> upstream_scalar_, denominator_;
};

using shards = basic_shards<row_state>;
using shards_f64 = basic_shards<row_state_f64>;

/// Softmax functions; see xent_softmax and those that follow it. The options are those of the C interface.
template <class T>
void softmax(basic_matrix<T> logits, basic_matrix<std::remove_const_t<T>> probabilities,
             const xent_softmax_options &options = xent_softmax_options_default()) {
    detail::check(xent_softmax(logits.to_read(), probabilities.to_write(), &options));
}

template <class T>
void softmax_in_place(basic_matrix<T> logits,
                      const xent_softmax_options &options = xent_softmax_options_default()) {
    detail::check(xent_softmax_in_place(logits.to_write(), &options));
}

template <class T>
void log_softmax(basic_matrix<T> logits, basic_matrix<std::remove_const_t<T>> log_probabilities,
                 const xent_softmax_options &options = xent_softmax_options_default()) {
    detail::check(xent_log_softmax(logits.to_read(), log_probabilities.to_write(), &options));
}

template <class T>
void log_softmax_in_place(basic_matrix<T> logits,
                          const xent_softmax_options &options = xent_softmax_options_default()) {
    detail::check(xent_log_softmax_in_place(logits.to_write(), &options));
}

template <class T, class U>
void softmax_backward(basic_matrix<T> probabilities, basic_matrix<U> upstream,
                      basic_matrix<std::remove_const_t<T>> grad,
                      const xent_softmax_options &options = xent_softmax_options_default()) {
    detail::check(
        xent_softmax_backward(probabilities.to_read(), upstream.to_read(), grad.to_write(), &options));
}

template <class T, class U>
void softmax_backward_in_place(basic_matrix<T> probabilities, basic_matrix<U> upstream,
                               const xent_softmax_options &options = xent_softmax_options_default()) {
    detail::check(xent_softmax_backward_in_place(probabilities.to_read(), upstream.to_write(), &options));
}

template <class T, class U>
void log_softmax_backward(basic_matrix<T> log_probabilities, basic_matrix<U> upstream,
                          basic_matrix<std::remove_const_t<T>> grad,
                          const xent_softmax_options &options = xent_softmax_options_default()) {
    detail::check(
        xent_log_softmax_backward(log_probabilities.to_read(), upstream.to_read(), grad.to_write(), &options));
}

template <class T, class U>
void log_softmax_backward_in_place(basic_matrix<T> log_probabilities, basic_matrix<U> upstream,
                                   const xent_softmax_options &options = xent_softmax_options_default()) {
    detail::check(
        xent_log_softmax_backward_in_place(log_probabilities.to_read(), upstream.to_write(), &options));
}

}  // namespace xent

#endif  // XENT_HPP
