/* AdamW alone, on arrays of the program, as DeepSpeed's CPU Adam: a linear regression.
 *     cc adamw.c $(pkg-config --cflags --libs horizon) -o adamw && ./adamw */
#include <horizon.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 256, COUNT = 32, STEPS = 200 };
static float inputs[ROWS][COUNT], outputs[ROWS];
static float weights[COUNT], gradient[COUNT], m[COUNT], v[COUNT];

static void must(hz_status_t status) {
    if (status == HZ_STATUS_OK) return;
    fprintf(stderr, "%s\n", hz_last_error());
    exit(1);
}

/* Returns the mean squared error, and sets its gradient. */
static double loss(void) {
    double sum = 0.0;
    for (int i = 0; i < COUNT; i++) gradient[i] = 0.0f;
    for (int row = 0; row < ROWS; row++) {
        float error = -outputs[row];
        for (int i = 0; i < COUNT; i++) error += weights[i] * inputs[row][i];
        for (int i = 0; i < COUNT; i++) gradient[i] += 2.0f / ROWS * error * inputs[row][i];
        sum += (double)error * (double)error / ROWS;
    }
    return sum;
}

int main(void) {
    hz_adam_options_t options = HZ_ADAM_OPTIONS_INIT;
    hz_adam_arrays_t arrays = HZ_ADAM_ARRAYS_INIT;
    hz_adam_t *adam = NULL;
    for (int row = 0; row < ROWS; row++) {
        for (int i = 0; i < COUNT; i++) {
            inputs[row][i] = (float)rand() / (float)RAND_MAX - 0.5f;
            outputs[row] += inputs[row][i] * (float)i / COUNT; /* the weights to find: 0, 1/32, 2/32, .. */
        }
    }
    options.mode = HZ_ADAM_MODE_F32;
    options.weight_decay = 0.0;
    must(hz_adam_open(&options, &adam));
    arrays.gradient_dtype = HZ_DTYPE_F32;
    arrays.count = COUNT;
    arrays.weights = weights;
    arrays.gradient = gradient;
    arrays.m = m, arrays.v = v; /* moments, zero before the first step */
    for (uint64_t step = 1; step <= STEPS; step++) {
        double error = loss();
        must(hz_adam_step(adam, &arrays, 0.02, step, 1.0, 1.0)); /* lr, step, gradient scale, decay scale */
        if (step % 20 == 0) printf("step %d: loss %.6f\n", (int)step, error);
    }
    printf("last weight %.3f, expected %.3f\n", (double)weights[COUNT - 1], (COUNT - 1.0) / COUNT);
    hz_adam_close(adam);
    return 0;
}
