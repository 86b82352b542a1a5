/* Trains a softmax classifier on handwritten digits, with the loss and the gradient of xent.
 *
 *     gzip -dc examples/data/digits.csv.gz | train_digits [epochs]
 *
 * The model has one hidden layer of rectified linear units. It learns from four fifths of the images by stochastic
 * gradient descent with momentum; the last fifth is held out to test it. With all epochs the program fails if it gets
 * fewer than 95% of these right. It prints the same numbers on every run. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xent.h>

enum { PIXELS = 64, HIDDEN = 64, CLASSES = 10, MOST_IMAGES = 4096, BATCH = 64, EPOCHS = 30 };
static const float LARGEST_PIXEL = 16.0F;
static const float LEARNING_RATE = 0.1F;
static const float MOMENTUM = 0.9F;
static const double REQUIRED_ACCURACY = 0.95;

/* images x PIXELS, from 0 to 1; and the digit of each image */
struct digits {
    int count;
    float pixels[MOST_IMAGES * PIXELS];
    uint8_t labels[MOST_IMAGES];
};

/* outputs = inputs x weights + biases: the weights, inputs x outputs, then the biases, 1 x outputs */
struct layer {
    int inputs, outputs, parameters;
    float *parameter, *velocity, *gradient;
};

/* SplitMix64 (Steele, Lea and Flood 2014), which gives the same numbers everywhere. */
static uint64_t random_state = 1;

static uint64_t next_random(void) {
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void fail(const char *what) {
    fprintf(stderr, "error: %s\n", what);
    exit(EXIT_FAILURE);
}

static void check(xent_status status) {
    if (status != XENT_STATUS_OK)
        fail(xent_last_error_message());
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL)
        fail("out of memory");
    return memory;
}

/* One image a line: its pixels from 0 to 16, and its digit. */
static void read_digits(FILE *file, struct digits *digits) {
    char line[1024];
    while (fgets(line, sizeof line, file) != NULL) {
        if (digits->count == MOST_IMAGES)
            fail("more images than there is room for");
        char *at = line;
        for (int i = 0; i <= PIXELS; i++) {
            char *end;
            long value = strtol(at, &end, 10);
            if (end == at || *end != (i < PIXELS ? ',' : '\n') || value < 0 || value > 255)
                fail("an image that is not 64 pixels and a digit");
            if (i < PIXELS)
                digits->pixels[digits->count * PIXELS + i] = (float)value / LARGEST_PIXEL;
            else
                digits->labels[digits->count] = (uint8_t)value;
            at = end + 1;
        }
        digits->count++;
    }
    if (digits->count == 0)
        fail("no images on the standard input");
}

static void shuffle(int *order, int count) {
    for (int i = count - 1; i > 0; i--) {
        int other = (int)(next_random() % (uint64_t)(i + 1)), kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

static void select_images(const struct digits *from, const int *images, int count, struct digits *to) {
    for (int i = 0; i < count; i++) {
        memcpy(to->pixels + i * PIXELS, from->pixels + images[i] * PIXELS, PIXELS * sizeof *to->pixels);
        to->labels[i] = from->labels[images[i]];
    }
    to->count = count;
}

/* Weights of variance 2 / inputs (He et al. 2015), and biases of 0. */
static struct layer new_layer(int inputs, int outputs) {
    struct layer layer = {inputs, outputs, (inputs + 1) * outputs, NULL, NULL, NULL};
    layer.parameter = allocate((size_t)layer.parameters, sizeof(float));
    layer.velocity = allocate((size_t)layer.parameters, sizeof(float));
    layer.gradient = allocate((size_t)layer.parameters, sizeof(float));
    float bound = sqrtf(6.0F / (float)inputs);
    for (int i = 0; i < inputs * outputs; i++) {
        float unit = (float)(next_random() >> 40) / (float)(1 << 24);
        layer.parameter[i] = bound * (2.0F * unit - 1.0F);
    }
    return layer;
}

static void free_layer(struct layer *layer) {
    free(layer->parameter);
    free(layer->velocity);
    free(layer->gradient);
}

static void add_scaled(float *sum, float factor, const float *values, int count) {
    for (int i = 0; i < count; i++)
        sum[i] += factor * values[i];
}

static void forward(const struct layer *layer, const float *input, int count, float *output) {
    for (int image = 0; image < count; image++, input += layer->inputs, output += layer->outputs) {
        memcpy(output, layer->parameter + layer->inputs * layer->outputs,
               (size_t)layer->outputs * sizeof *output);
        for (int i = 0; i < layer->inputs; i++)
            add_scaled(output, input[i], layer->parameter + i * layer->outputs, layer->outputs);
    }
}

/* The gradient with respect to the inputs, from that with respect to the outputs. */
static void input_gradient(const struct layer *layer, const float *grad, int count, float *input_grad) {
    for (int image = 0; image < count; image++, grad += layer->outputs)
        for (int i = 0; i < layer->inputs; i++, input_grad++) {
            *input_grad = 0.0F;
            for (int j = 0; j < layer->outputs; j++)
                *input_grad += grad[j] * layer->parameter[i * layer->outputs + j];
        }
}

/* Gradient descent with momentum, from the gradient with respect to the outputs. */
static void step(struct layer *layer, const float *input, const float *grad, int count) {
    memset(layer->gradient, 0, (size_t)layer->parameters * sizeof *layer->gradient);
    for (int image = 0; image < count; image++, input += layer->inputs, grad += layer->outputs) {
        for (int i = 0; i < layer->inputs; i++)
            add_scaled(layer->gradient + i * layer->outputs, input[i], grad, layer->outputs);
        add_scaled(layer->gradient + layer->inputs * layer->outputs, 1.0F, grad, layer->outputs);
    }
    for (int i = 0; i < layer->parameters; i++) {
        layer->velocity[i] = MOMENTUM * layer->velocity[i] - LEARNING_RATE * layer->gradient[i];
        layer->parameter[i] += layer->velocity[i];
    }
}

/* What is computed of some images. */
struct activations {
    float units[MOST_IMAGES * HIDDEN], unit_grad[MOST_IMAGES * HIDDEN];
    float logits[MOST_IMAGES * CLASSES];
};

static void compute_logits(const struct layer *hidden, const struct layer *output, const struct digits *images,
                           struct activations *to) {
    forward(hidden, images->pixels, images->count, to->units);
    for (int i = 0; i < images->count * HIDDEN; i++)
        to->units[i] = fmaxf(to->units[i], 0.0F);
    forward(output, to->units, images->count, to->logits);
}

int main(int argc, char **argv) {
    long epochs = argc > 1 ? strtol(argv[1], NULL, 10) : EPOCHS;
    struct digits *all = allocate(1, sizeof *all), *training = allocate(1, sizeof *training);
    struct digits *held_out = allocate(1, sizeof *held_out), *batch = allocate(1, sizeof *batch);
    struct activations *activations = allocate(1, sizeof *activations);
    int *order = allocate(MOST_IMAGES, sizeof *order);

    read_digits(stdin, all);
    for (int i = 0; i < all->count; i++)
        order[i] = i;
    shuffle(order, all->count);
    int count = all->count * 4 / 5;
    select_images(all, order, count, training);
    select_images(all, order + count, all->count - count, held_out);
    printf("xent %s: %d images to train on, %d held out\n", xent_version(), count, held_out->count);

    xent_cross_entropy *ce = NULL;
    check(xent_cross_entropy_create(NULL, &ce));
    struct layer hidden = new_layer(PIXELS, HIDDEN), output = new_layer(HIDDEN, CLASSES);
    double accuracy = 0.0;
    printf("epoch  train: loss  held out: loss  accuracy\n");
    for (long epoch = 1; epoch <= epochs; epoch++) {
        for (int i = 0; i < count; i++)
            order[i] = i;
        shuffle(order, count);
        double total = 0.0;
        for (int first = 0; first < count; first += BATCH) {
            int rows = count - first < BATCH ? count - first : BATCH;
            select_images(training, order + first, rows, batch);
            compute_logits(&hidden, &output, batch, activations);

            /* The gradient takes the place of the logits. */
            double loss;
            check(xent_loss_and_grad_in_place(
                ce, xent_matrix_mut_of(activations->logits, XENT_DTYPE_F32, rows, CLASSES),
                xent_array_of(batch->labels, XENT_DTYPE_U8, rows), &loss));
            total += loss * rows;

            input_gradient(&output, activations->logits, rows, activations->unit_grad);
            for (int i = 0; i < rows * HIDDEN; i++)
                if (activations->units[i] <= 0.0F)
                    activations->unit_grad[i] = 0.0F;
            step(&output, activations->units, activations->logits, rows);
            step(&hidden, batch->pixels, activations->unit_grad, rows);
        }

        compute_logits(&hidden, &output, held_out, activations);
        xent_summary summary = xent_summary_default();
        check(xent_run(ce, xent_matrix_of(activations->logits, XENT_DTYPE_F32, held_out->count, CLASSES),
                       xent_array_of(held_out->labels, XENT_DTYPE_U8, held_out->count), NULL, &summary));
        accuracy = (double)summary.correct / (double)summary.counted;
        printf("%5ld  %11.4f  %14.4f  %8.4f\n", epoch, total / count, summary.loss, accuracy);
    }

    xent_cross_entropy_destroy(ce);
    free_layer(&hidden);
    free_layer(&output);
    free(all);
    free(training);
    free(held_out);
    free(batch);
    free(activations);
    free(order);
    if (epochs >= EPOCHS && accuracy < REQUIRED_ACCURACY)
        fail("the held-out accuracy is too low");
    printf("held-out accuracy: %.4f (at least %.2f is required of %d epochs)\n", accuracy, REQUIRED_ACCURACY,
           EPOCHS);
    return EXIT_SUCCESS;
}
