// The C++17 wrapper: views of what C++ has, the same numbers as the C interface, exceptions, and who frees what.

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <type_traits>
#if __cplusplus >= 202002L
#include <span>
#endif

#include <xent.hpp>

#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, __func__, #condition);  \
            std::exit(EXIT_FAILURE);                                                            \
        }                                                                                       \
    } while (0)

// The largest relative error that the contract allows a gradient in f32.
static const double TOLERANCE = (88.0 + 88.0 + 4.0) / 16777216.0;

static bool is_close(double found, double expected) {
    return std::fabs(found - expected) <= TOLERANCE * std::fabs(expected);
}

template <class Call> static void throws(xent_status status, const char *words, Call call) {
    try {
        call();
    } catch (const xent::error &error) {
        if (error.status() != status || std::strstr(error.what(), words) == nullptr) {
            std::fprintf(stderr, "status %d: \"%s\" does not say \"%s\"\n", error.status(), error.what(), words);
            std::exit(EXIT_FAILURE);
        }
        return;
    }
    CHECK(!"an exception");
}

static const std::vector<float> LOGITS = {1, 2, 3, 2, 1, 0.5F};
// Its rows have the losses ln(1 + exp(-1) + exp(-2)) and ln(1 + exp(-1) + exp(-1.5)).
static const double LOSS = (0.40760596444438 + 0.46436878410794) / 2;

static void views_of_containers_arrays_and_pointers() {
    const xent::cross_entropy ce;
    const std::array<std::uint8_t, 2> bytes = {2, 0};
    const std::int32_t plain[2] = {2, 0};
    const std::vector<std::int64_t> longs = {2, 0};
    const float array[6] = {1, 2, 3, 2, 1, 0.5F};
    const float padded[7] = {1, 2, 3, NAN, 2, 1, 0.5F};
    CHECK(is_close(ce.loss(xent::matrix(LOGITS, 2, 3), bytes), LOSS));
    CHECK(is_close(ce.loss(xent::matrix(array, 2, 3), plain), LOSS));
    CHECK(is_close(ce.loss(xent::matrix(padded, 2, 3, 4), longs), LOSS));
    CHECK(is_close(ce.loss(xent::matrix(xent::span<const float>(array, 6), 2, 3), longs), LOSS));
    CHECK(xent::matrix(padded, 2, 3, 4).row(1)[2] == 0.5F);
#if __cplusplus >= 202002L
    CHECK(is_close(ce.loss(xent::matrix(std::span(LOGITS), 2, 3), std::span(longs)), LOSS));
#endif
}

static void gradients_out_of_place_and_in_place() {
    const xent::cross_entropy ce(xent::options().label_smoothing(0.1).ignore_index(-1));
    const std::vector<std::int64_t> targets = {2, -1};
    std::vector<float> grad(6, 7), x = LOGITS;
    double loss = ce.loss_and_grad(xent::matrix(LOGITS, 2, 3), targets, xent::matrix_mut(grad, 2, 3));
    CHECK(ce.loss_and_grad_in_place(xent::matrix_mut(x, 2, 3), targets) == loss);
    CHECK(x == grad);
    CHECK(grad[3] == 0 && grad[4] == 0 && grad[5] == 0);
    CHECK(is_close(grad[0], 0.09003057317038 - 0.1 / 3));

    // 16-bit numbers by their bits: 1, 2 and 3; a gradient of their type.
    std::vector<xent::bf16> halves = {{0x3f80}, {0x4000}, {0x4040}}, half_grad(3);
    CHECK(is_close(ce.loss_and_grad(xent::matrix(halves, 1, 3), std::array<std::uint8_t, 1>{2},
                                    xent::matrix_mut(half_grad, 1, 3)),
                   loss));
    CHECK(half_grad[0].bits >> 15 == 0 && half_grad[2].bits >> 15 == 1);

    // In double exp(-700) is not 0; and what has one number for each row is a double.
    const std::vector<double> confident = {0, -700};
    std::vector<double> double_grad(2), losses(1);
    xent::request<double> request;
    request.grad(xent::matrix_mut(double_grad, 1, 2)).losses(losses);
    const std::array<std::uint8_t, 1> target = {0};
    const double tiny = xent::cross_entropy().run(xent::matrix(confident, 1, 2), target, request).loss;
    CHECK(is_close(tiny, 9.859676543759770857e-305) && losses[0] == tiny && double_grad[1] == -double_grad[0]);
}

static void every_output_of_a_request() {
    const xent::cross_entropy ce;
    const std::vector<std::int32_t> targets = {2, -100};
    std::vector<float> losses(2), lse(2), log_p(2), entropies(2), best_p(2), p(6), ln_p(6), grad(6, 1), weights = {2, 1};
    std::vector<std::int64_t> best(2), ranks(2);
    xent::request<float> request;
    request.row_weights(weights).upstream_scalar(3).denominator(4).accumulate(xent::matrix_mut(grad, 2, 3));
    request.losses(losses).lse(lse).target_log_probabilities(log_p).entropies(entropies).argmax(best);
    request.argmax_probabilities(best_p).target_ranks(ranks).probabilities(xent::matrix_mut(p, 2, 3));
    request.log_probabilities(xent::matrix_mut(ln_p, 2, 3));
    xent_summary summary = ce.run(xent::matrix(LOGITS, 2, 3), targets, request);
    CHECK(summary.counted == 1 && summary.correct == 1);
    CHECK(is_close(losses[0], 2 * 0.40760596444438) && is_close(summary.loss, 0.40760596444438 / 2));
    CHECK(is_close(lse[0], 3.40760596444438) && is_close(log_p[0], -0.40760596444438));
    CHECK(best[0] == 2 && best[1] == -1 && ranks[0] == 0 && ranks[1] == -1 && best_p[0] == p[2]);
    CHECK(is_close(grad[0], 1 + 2 * 3 / 4.0 * 0.09003057317038) && grad[4] == 1);
    CHECK(is_close(entropies[0], -(p[0] * ln_p[0] + p[1] * ln_p[1] + p[2] * ln_p[2])));

    std::vector<float> x = LOGITS, q = {0, 0, 1, 1, 0, 0}, upstream = {1, 1};
    std::vector<std::uint8_t> mask = {1, 0};
    CHECK(is_close(ce.run_in_place(xent::matrix_mut(x, 2, 3), targets, xent::request<float>().upstream(upstream)).loss,
                   0.40760596444438));
    CHECK(is_close(x[0], 0.09003057317038));
    x = LOGITS;
    summary = ce.run_probabilities(xent::matrix(LOGITS, 2, 3), xent::matrix(q, 2, 3));
    CHECK(is_close(summary.loss, LOSS));
    summary = ce.run_probabilities_in_place(xent::matrix_mut(x, 2, 3), xent::matrix(q, 2, 3),
                                            xent::request<float>().loss_mask(mask));
    CHECK(is_close(summary.loss, 0.40760596444438) && is_close(x[0], 0.09003057317038));
    const std::vector<double> doubles = {1, 2, 3}, of_doubles = {0, 0, 1};
    summary = ce.run_probabilities(xent::matrix(doubles, 1, 3), xent::matrix(of_doubles, 1, 3));
    CHECK(is_close(summary.loss, 0.40760596444438));
}

static void options_are_handed_on() {
    const std::vector<std::uint8_t> targets = {2, 0};
    const auto x = xent::matrix(LOGITS, 2, 3);
    xent::options options;
    options.weight({1, 1, 0}).reduction(XENT_REDUCTION_SUM).backend(XENT_BACKEND_PORTABLE);
    options.parallelism(XENT_PARALLELISM_SERIAL);
    const xent::cross_entropy weighted(options);
    CHECK(is_close(weighted.loss(x, targets), 0.46436878410794));
    CHECK(weighted.backend() == XENT_BACKEND_PORTABLE);
    options.weight({1, 1, 1}).ignore_indices({0, 2}).empty_mean(XENT_EMPTY_MEAN_ZERO).reduction(XENT_REDUCTION_MEAN);
    CHECK(xent::cross_entropy(options).loss(x, targets) == 0);
    CHECK(is_close(xent::cross_entropy(xent::options().logit_scale(1).softcap(1e6)).loss(x, targets), LOSS));
    throws(XENT_STATUS_INVALID_SOFTCAP, "-30", [] { xent::cross_entropy(xent::options().softcap(-30)); });
    options.ignore_indices({}).smoothing(XENT_SMOOTHING_OTHER_CLASSES).z_loss(0).focal_gamma(0).label_smoothing(0);
    CHECK(is_close(xent::cross_entropy(options).loss(x, targets), LOSS));
}

static void shards_of_a_row() {
    const xent::cross_entropy ce;
    const std::vector<std::uint8_t> targets = {2, 0};
    const xent::shards shards(ce, targets, 3);
    std::vector<xent::row_state> states = xent::row_states(2), others = xent::row_states(2), chunks = states;
    const xent::span<const float> from_1(LOGITS.data() + 1, 5);
    const auto first = xent::matrix(LOGITS, 2, 1, 3), second = xent::matrix(from_1, 2, 2, 3);
    shards.summarise(first, 0, states);
    shards.summarise(second, 1, others);
    xent::merge(states, xent::row_states_from_bytes(xent::row_states_to_bytes(others)));
    shards.accumulate(first, 0, chunks);
    throws(XENT_STATUS_INCOMPLETE_STATE, "row 0", [&] { shards.finish(chunks); });
    shards.accumulate(second, 1, chunks);
    CHECK(is_close(shards.finish(states).loss, LOSS) && is_close(shards.finish(chunks).loss, LOSS));
    std::vector<float> losses(2), lse(2), log_p(2), grad(4), sum(4), x = {2, 3, 1, 0.5F}, whole(6);
    CHECK(is_close(shards.losses(states, losses).loss, LOSS));
    shards.lse(states, lse);
    shards.target_log_probabilities(states, log_p);
    CHECK(is_close(losses[0], 0.40760596444438) && is_close(log_p[0], -losses[0]) && is_close(lse[0], 3 + losses[0]));
    ce.loss_and_grad(xent::matrix(LOGITS, 2, 3), targets, xent::matrix_mut(whole, 2, 3));
    shards.grad(second, 1, states, xent::matrix_mut(grad, 2, 2));
    shards.accumulate_grad(second, 1, states, xent::matrix_mut(sum, 2, 2));
    shards.grad_in_place(xent::matrix_mut(x, 2, 2), 1, states);
    CHECK(is_close(grad[1], whole[2]) && is_close(grad[2], whole[4]) && grad == sum && grad == x);
    CHECK(is_close(xent::shards(ce, targets, 3).denominator(1).finish(states).loss, 2 * LOSS));
}

static void shards_of_doubles() {
    const xent::cross_entropy ce;
    const std::vector<double> logits = {1, 2, 3}, upstream = {0.5};
    const std::vector<std::uint8_t> targets = {2};
    xent::shards_f64 shards(ce, targets, 3);
    auto states = xent::row_states<xent::row_state_f64>(1), others = states;
    const auto first = xent::matrix(xent::span(logits.data(), 2), 1, 2), last = xent::matrix(xent::span(&logits[2], 1), 1, 1);
    shards.summarise(first, 0, states);
    shards.summarise(last, 2, others);
    xent::merge(states, xent::row_states_from_bytes<xent::row_state_f64>(xent::row_states_to_bytes(others)));
    std::vector<double> losses(1), grad(2);
    CHECK(is_close(shards.losses(states, losses).loss, 0.40760596444438) && is_close(losses[0], 0.40760596444438));
    shards.upstream(upstream).grad(first, 0, states, xent::matrix_mut(grad, 1, 2));
    CHECK(is_close(grad[0], 0.5 * 0.09003057317038));
    std::vector<float> in_float(2);
    shards.grad(first, 0, states, xent::matrix_mut(in_float, 1, 2));
    CHECK(in_float[0] == static_cast<float>(grad[0]) && in_float[1] == static_cast<float>(grad[1]));
}

static void softmax_functions() {
    std::vector<float> p(6), ln_p(6), x = LOGITS, g = {1, 0, 0, 0, 1, 0}, from_p(6), from_ln_p(6), to = g;
    xent::softmax(xent::matrix(LOGITS, 2, 3), xent::matrix_mut(p, 2, 3));
    xent::log_softmax(xent::matrix(LOGITS, 2, 3), xent::matrix_mut(ln_p, 2, 3));
    xent::softmax_in_place(xent::matrix_mut(x, 2, 3));
    CHECK(x == p && is_close(p[0], 0.09003057317038));
    x = LOGITS;
    xent::log_softmax_in_place(xent::matrix_mut(x, 2, 3));
    CHECK(x == ln_p && is_close(ln_p[0], std::log(0.09003057317038)));
    xent::softmax_backward(xent::matrix(p, 2, 3), xent::matrix(g, 2, 3), xent::matrix_mut(from_p, 2, 3));
    xent::softmax_backward_in_place(xent::matrix(p, 2, 3), xent::matrix_mut(to, 2, 3));
    CHECK(to == from_p && is_close(to[0], 0.09003057317038 * (1 - 0.09003057317038)));
    to = g;
    xent::log_softmax_backward(xent::matrix(ln_p, 2, 3), xent::matrix(g, 2, 3), xent::matrix_mut(from_ln_p, 2, 3));
    xent::log_softmax_backward_in_place(xent::matrix(ln_p, 2, 3), xent::matrix_mut(to, 2, 3));
    CHECK(to == from_ln_p && is_close(to[0], 1 - 0.09003057317038));
}

static void second_derivatives() {
    const xent::cross_entropy ce(xent::options().reduction(XENT_REDUCTION_SUM));
    const std::array<std::uint8_t, 2> targets = {2, 0};
    const std::vector<float> v = {1, 0, 0, 0, 1, 0};
    std::vector<float> product(6), in_place = v, diagonal(6), hessian(6), derivatives(2);
    const auto x = xent::matrix(LOGITS, 2, 3);
    ce.hessian_vector_product(x, targets, xent::matrix(v, 2, 3), xent::matrix_mut(product, 2, 3));
    ce.hessian_vector_product_in_place(x, targets, xent::matrix_mut(in_place, 2, 3));
    ce.gauss_newton_diagonal(x, targets, xent::matrix_mut(diagonal, 2, 3));
    ce.hessian_diagonal(x, targets, xent::matrix_mut(hessian, 2, 3));
    const double p = 0.09003057317038;
    CHECK(is_close(product[0], p * (1 - p)) && product == in_place && is_close(diagonal[0], p * (1 - p)));
    CHECK(hessian == diagonal && product[4] == diagonal[4]);
    const double derivative = ce.jvp(x, targets, xent::matrix(v, 2, 3), derivatives);
    CHECK(is_close(derivatives[0], p) && is_close(derivative, derivatives[0] + derivatives[1]));
    xent::request<float> half;
    CHECK(ce.jvp(x, targets, xent::matrix(v, 2, 3), half.upstream_scalar(0.5)) == derivative / 2);

    const std::vector<double> doubles(LOGITS.begin(), LOGITS.end()), direction(v.begin(), v.end());
    std::vector<double> of_doubles(6);
    ce.hessian_vector_product(xent::matrix(doubles, 2, 3), targets, xent::matrix(direction, 2, 3),
                              xent::matrix_mut(of_doubles, 2, 3));
    CHECK(is_close(of_doubles[0], p * (1 - p)));
}

static void planes_of_classes() {
    // Two positions of three classes: the rows of LOGITS, transposed.
    const std::vector<float> logits = {1, 2, 2, 1, 3, 0.5F};
    const std::vector<std::int64_t> targets = {2, 0};
    const xent::cross_entropy ce;
    std::vector<float> grad(6), x = logits, of_rows(6), losses(2);
    const double loss = ce.loss_and_grad(xent::planes(logits, 1, 3, 2), targets, xent::planes_mut(grad, 1, 3, 2));
    CHECK(is_close(loss, LOSS) && ce.loss(xent::planes(logits, 1, 3, 2), targets) == loss);
    CHECK(ce.loss_and_grad_in_place(xent::planes_mut(x, 1, 3, 2), targets) == loss && x == grad);
    ce.loss_and_grad(xent::matrix(LOGITS, 2, 3), targets, xent::matrix_mut(of_rows, 2, 3));
    CHECK(is_close(grad[2], of_rows[1]) && is_close(grad[5], of_rows[5]));
    xent_planes_request request = xent_planes_request_default();
    request.losses = xent::span<float>(losses).to_write();
    CHECK(ce.run(xent::planes(logits, 1, 3, 2), targets, request).loss == loss);
    CHECK(is_close((losses[0] + losses[1]) / 2, LOSS));
    x = logits;
    CHECK(ce.run_in_place(xent::planes_mut(x, 1, 3, 2), targets, request).counted == 2 && x == grad);
    throws(XENT_STATUS_LENGTH_MISMATCH, "past", [&] { xent::planes(logits, 2, 3, 2); });

    // Each plane followed by padding, and in doubles.
    std::vector<double> padded(3 * 5, -1.0), of_padded(3 * 5, -1.0);
    for (std::size_t c = 0; c < 3; c++)
        for (std::size_t i = 0; i < 2; i++)
            padded[5 * c + i] = logits[2 * c + i];
    const auto apart = xent::planes(padded, 1, 3, 2, 15, 5);
    CHECK(is_close(ce.loss_and_grad(apart, targets, xent::planes_mut(of_padded, 1, 3, 2, 15, 5)), LOSS));
    for (std::size_t i = 0; i < 15; i++)
        CHECK(i % 5 < 2 ? is_close(of_padded[i], grad[i / 5 * 2 + i % 5]) : of_padded[i] == -1.0);
    const auto overlapping = xent::planes_mut(of_padded, 1, 3, 2, 15, 1);
    throws(XENT_STATUS_STRIDE_TOO_SMALL, "", [&] { ce.loss_and_grad(apart, targets, overlapping); });
    throws(XENT_STATUS_LENGTH_MISMATCH, "past", [&] { xent::planes(padded, 1, 3, 2, 15, 7); });
}

static void distillation() {
    const std::vector<float> teacher = {0, 3, 1, 0.5F, -0.5F, 0}, student = {1, 2, 0.5F, 0, 0, 0};
    const xent::distillation distillation(xent::distillation_options().temperature(2));
    std::vector<float> grad(6), in_place = student;
    xent::request<float> request;
    request.grad(xent::matrix_mut(grad, 2, 3));
    const double loss = distillation.run(xent::matrix(student, 2, 3), xent::matrix(teacher, 2, 3), request).loss;
    CHECK(std::fabs(loss - 0.1799) < 1e-4);
    CHECK(distillation.run_in_place(xent::matrix_mut(in_place, 2, 3), xent::matrix(teacher, 2, 3)).loss == loss);
    CHECK(in_place == grad && grad[0] > 0 && grad[1] < 0);
    throws(XENT_STATUS_INVALID_TEMPERATURE, "temperature",
           [] { xent::distillation(xent::distillation_options().temperature(-1)); });
}

static void errors_are_exceptions_and_write_nothing() {
    const xent::cross_entropy ce;
    std::vector<float> x = LOGITS, grad(6, 7);
    const std::vector<float> untouched = grad;
    const std::vector<std::int64_t> targets = {2, 0}, past = {2, 3};
    throws(XENT_STATUS_TARGET_OUT_OF_RANGE, "row 1 is 3", [&] {
        ce.loss_and_grad(xent::matrix(LOGITS, 2, 3), past, xent::matrix_mut(grad, 2, 3));
    });
    throws(XENT_STATUS_SHAPE_MISMATCH, "grad", [&] {
        ce.loss_and_grad(xent::matrix(LOGITS, 2, 3), targets, xent::matrix_mut(grad, 3, 2));
    });
    throws(XENT_STATUS_OVERLAP, "overlaps", [&] {
        ce.loss_and_grad(xent::matrix(x, 2, 3), targets, xent::matrix_mut(x, 2, 3));
    });
    throws(XENT_STATUS_INVALID_LABEL_SMOOTHING, "label_smoothing is 2",
           [] { xent::cross_entropy(xent::options().label_smoothing(2)); });
    throws(XENT_STATUS_LENGTH_MISMATCH, "weight",
           [&] { xent::cross_entropy(xent::options().weight({})).loss(xent::matrix(x, 2, 3), std::vector<int>{0, 0}); });
    // What a container does not have.
    throws(XENT_STATUS_LENGTH_MISMATCH, "past", [&] { xent::matrix(x, 3, 3); });
    throws(XENT_STATUS_LENGTH_MISMATCH, "past", [&] { xent::matrix(x, 2, 3, 4); });
    throws(XENT_STATUS_LENGTH_MISMATCH, "past", [&] { xent::matrix_mut(x, SIZE_MAX, 1); });
    throws(XENT_STATUS_LENGTH_MISMATCH, "past", [&] { xent::matrix(x, 2, 1, SIZE_MAX); });
    throws(XENT_STATUS_STRIDE_TOO_SMALL, "stride", [&] { xent::matrix(x, 2, 3, 2); });
    std::vector<xent::row_state> one = xent::row_states(1), two = xent::row_states(2);
    throws(XENT_STATUS_LENGTH_MISMATCH, "others", [&] { xent::merge(one, two); });
    throws(XENT_STATUS_LENGTH_MISMATCH, "bytes", [] { xent::row_states_from_bytes({1, 2, 3}); });
    // What is empty is not left out.
    std::vector<float> none;
    const auto refused = [&](const char *words, const xent::request<float> &request) {
        throws(XENT_STATUS_LENGTH_MISMATCH, words, [&] { ce.run(xent::matrix(LOGITS, 2, 3), targets, request); });
    };
    refused("row_weights", xent::request<float>().row_weights(none));
    refused("upstream", xent::request<float>().upstream(none));
    refused("loss_mask", xent::request<float>().loss_mask(std::vector<std::uint8_t>()));
    refused("losses", xent::request<float>().losses(none));
    throws(XENT_STATUS_SHAPE_MISMATCH, "grad", [&] {
        ce.run(xent::matrix(LOGITS, 2, 3), targets, xent::request<float>().grad(xent::matrix_mut(none, 0, 0)));
    });
    throws(XENT_STATUS_LENGTH_MISMATCH, "derivatives", [&] {
        ce.jvp(xent::matrix(LOGITS, 2, 3), targets, xent::matrix(LOGITS, 2, 3), none);
    });
    throws(XENT_STATUS_LENGTH_MISMATCH, "row_weights", [&] {
        xent::shards(ce, targets, 3).row_weights(none).summarise(xent::matrix(LOGITS, 2, 3), 0, two);
    });
    CHECK(ce.run(xent::matrix(none, 0, 3), std::vector<int>(), xent::request<float>().losses(none)).counted == 0);
    CHECK(grad == untouched && x == LOGITS);
}

static void a_loss_moves_and_is_shared_by_threads() {
    static_assert(!std::is_copy_constructible_v<xent::cross_entropy>);
    // No pointer to what is gone.
    static_assert(!std::is_constructible_v<xent::shards, xent::cross_entropy, std::vector<int> &, std::size_t>);
    static_assert(!std::is_constructible_v<xent::span<float>, std::vector<float>>);
    static_assert(std::is_constructible_v<xent::span<const float>, std::vector<float>>);
    static_assert(std::is_constructible_v<xent::span<float>, std::vector<float> &>);
    xent::cross_entropy first;
    const xent::cross_entropy second = std::move(first);
    const std::vector<std::uint8_t> targets = {2, 0};
    std::vector<double> losses(4);
    std::vector<std::thread> threads;
    for (double &loss : losses)
        threads.emplace_back([&] { loss = second.loss(xent::matrix(LOGITS, 2, 3), targets); });
    for (std::thread &thread : threads)
        thread.join();
    for (double loss : losses)
        CHECK(is_close(loss, LOSS));
    throws(XENT_STATUS_NULL_POINTER, "cross_entropy is null",
           [&] { first.loss(xent::matrix(LOGITS, 2, 3), targets); });
}

int main() {
    views_of_containers_arrays_and_pointers();
    gradients_out_of_place_and_in_place();
    every_output_of_a_request();
    options_are_handed_on();
    shards_of_a_row();
    shards_of_doubles();
    second_derivatives();
    planes_of_classes();
    distillation();
    softmax_functions();
    errors_are_exceptions_and_write_nothing();
    a_loss_moves_and_is_shared_by_threads();
    std::printf("wrapper: passed\n");
}
