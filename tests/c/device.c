/*
 * Trains a model twice on a device: the losses fall and are equal bit for bit. Prints what is missing and returns 3
 * if the device is not available. With MACHINE, the second run follows a plan searched for it. Usage: device cpu|cuda
 * [MACHINE]
 */
#include "small.h"

static hz_status_t open_on(hz_device_t device, const char *machine, hz_trainer_t **out_trainer) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    model.vocab_size = V;
    model.hidden_size = 128;
    model.intermediate_size = 256;
    model.num_hidden_layers = 2;
    model.num_attention_heads = 2;
    model.head_dim = 64;
    model.max_position_embeddings = T;
    options.device = device;
    options.sequences = B;
    options.sequence_length = T;
    options.micros_max = MICROS;
    if (machine == NULL) return hz_trainer_open(&model, &options, out_trainer);
    hz_plan_t *plan = NULL;
    OK(hz_plan_search(&model, &options, machine, &plan));
    hz_status_t status = hz_trainer_open_planned(plan, out_trainer);
    hz_plan_close(plan);
    return status;
}

static void train(hz_trainer_t *trainer, double *losses, int steps) {
    OK(hz_trainer_init_weights(trainer, 1));
    lcg = 12345;
    for (int step = 0; step < steps; step++) {
        losses[step] = small_step(trainer);
    }
}

int main(int argc, char **argv) {
    enum { STEPS = LESS(30, 2) };
    double first[STEPS], again[STEPS];
    CHECK(argc == 2 || argc == 3);
    hz_device_t device = strcmp(argv[1], "cuda") == 0 ? HZ_DEVICE_CUDA : HZ_DEVICE_CPU;
    hz_trainer_t *trainer = NULL;
    hz_status_t status = open_on(device, NULL, &trainer);
    if (status == HZ_STATUS_DEVICE_UNAVAILABLE) {
        printf("%s\n", hz_last_error());
        CHECK(device == HZ_DEVICE_CUDA && strstr(hz_last_error(), "cuda:0"));
        CHECK(strstr(hz_last_error(), "HZ_DEVICE_CPU") != NULL);
        return 3;
    }
    CHECK(status == HZ_STATUS_OK);
    train(trainer, first, STEPS);
    hz_trainer_close(trainer);
    OK(open_on(device, argc == 3 ? argv[2] : NULL, &trainer));
    train(trainer, again, STEPS);
    hz_trainer_close(trainer);
    CHECK(memcmp(first, again, sizeof first) == 0);
    CHECK(first[STEPS - 1] < LESS(0.8, 1.0) * first[0]);
    printf("%s: loss %.3f -> %.3f, %d checks\n", argv[1], first[0], first[STEPS - 1], checks);
    return 0;
}
