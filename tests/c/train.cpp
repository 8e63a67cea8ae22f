// The C interface in C++17: RAII handles, errors as exceptions, weights in vectors.
// Usage: train FOLDER (an empty one, for files).
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "horizon.h"

namespace {

class Error : public std::runtime_error {
public:
    explicit Error(hz_status_t status)
        : std::runtime_error(std::string(hz_status_name(status)) + ": " + hz_last_error()), status_(status) {}
    hz_status_t status() const { return status_; }

private:
    hz_status_t status_;
};

void check(hz_status_t status) {
    if (status != HZ_STATUS_OK) {
        throw Error(status);
    }
}

void require(bool holds, const char *what) {
    if (!holds) {
        throw std::logic_error(what);
    }
}

// One micro-batch that owns its arrays.
struct Rows {
    std::vector<int32_t> tokens, targets;

    hz_batch_t view() const {
        hz_batch_t batch = HZ_BATCH_INIT;
        batch.rows = tokens.size();
        batch.tokens = tokens.data();
        batch.targets = targets.data();
        return batch;
    }
};

class Trainer {
public:
    Trainer(const hz_model_config_t &model, const hz_trainer_options_t &options) {
        hz_trainer_t *raw = nullptr;
        check(hz_trainer_open(&model, &options, &raw));
        handle_.reset(raw);
    }

    hz_trainer_t *get() const { return handle_.get(); }

    hz_step_report_t step(const std::vector<hz_batch_t> &batches, double lr) {
        hz_step_report_t report = HZ_STEP_REPORT_INIT;
        check(hz_trainer_step(get(), batches.data(), batches.size(), lr, &report));
        return report;
    }

    double eval(const hz_batch_t &batch) {
        hz_eval_report_t report = HZ_EVAL_REPORT_INIT;
        check(hz_trainer_eval(get(), &batch, 1, &report));
        return report.loss;
    }

    std::vector<std::pair<std::string, std::vector<float>>> tensors() {
        std::size_t count = 0;
        check(hz_trainer_tensor_count(get(), &count));
        std::vector<std::pair<std::string, std::vector<float>>> all;
        for (std::size_t index = 0; index < count; ++index) {
            hz_tensor_info_t tensor = HZ_TENSOR_INFO_INIT;
            check(hz_trainer_tensor(get(), index, &tensor));
            std::vector<float> values(tensor.elements);
            check(hz_trainer_read_tensor(get(), tensor.name, values.data(), values.size()));
            all.emplace_back(tensor.name, std::move(values));
        }
        return all;
    }

    int32_t next(const std::vector<int32_t> &tokens, std::size_t vocabulary) {
        std::vector<float> logits(vocabulary);
        check(hz_trainer_logits(get(), tokens.data(), tokens.size(), logits.data(), logits.size()));
        return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    }

private:
    struct Close {
        void operator()(hz_trainer_t *trainer) const { hz_trainer_close(trainer); }
    };
    std::unique_ptr<hz_trainer_t, Close> handle_;
};

#ifdef EMULATED // by valgrind, slowly: see small.h
constexpr std::size_t B = 1, T = 24, MICROS = 2, STEPS = 3;
constexpr double FALLS_TO = 1.0;
#else
constexpr std::size_t B = 4, T = 64, MICROS = 2, STEPS = 30;
constexpr double FALLS_TO = 0.6;
#endif

const std::string TEXT =
    "Each layer is uploaded, runs on every micro-batch of the step, and is replaced by the next; its input is kept. "
    "In backward it is recomputed, and its gradient is copied to the host. ";

Rows window(std::size_t number) {
    Rows rows;
    for (std::size_t b = 0; b < B; ++b) {
        const std::size_t from = (number * B + b) * 37;
        for (std::size_t t = 0; t < T; ++t) {
            rows.tokens.push_back(static_cast<unsigned char>(TEXT[(from + t) % TEXT.size()]));
            rows.targets.push_back(static_cast<unsigned char>(TEXT[(from + t + 1) % TEXT.size()]));
        }
    }
    return rows;
}

hz_status_t status_of_opening(const hz_model_config_t &model, const hz_trainer_options_t &options) {
    try {
        Trainer trainer(model, options);
    } catch (const Error &error) {
        return error.status();
    }
    return HZ_STATUS_OK;
}

// Two threads with one handle: a call made while another runs fails with HZ_STATUS_INVALID_STATE.
void share(Trainer &trainer, const hz_batch_t &batch) {
    std::atomic<bool> done{false};
    std::atomic<int> unexpected{0};
    std::thread other([&] {
        while (!done) {
            hz_trainer_stats_t stats = HZ_TRAINER_STATS_INIT;
            const hz_status_t status = hz_trainer_stats(trainer.get(), &stats);
            const bool refused = status == HZ_STATUS_INVALID_STATE &&
                                 std::string(hz_last_error()).find("another call") != std::string::npos;
            unexpected += status != HZ_STATUS_OK && !refused;
        }
    });
    for (int call = 0; call < 5;) {
        hz_eval_report_t report = HZ_EVAL_REPORT_INIT;
        const hz_status_t status = hz_trainer_eval(trainer.get(), &batch, 1, &report);
        unexpected += status != HZ_STATUS_OK && status != HZ_STATUS_INVALID_STATE;
        call += status == HZ_STATUS_OK;
    }
    done = true;
    other.join();
    require(unexpected == 0, "a shared handle returns OK or INVALID_STATE");
}

void run(const std::string &folder) {
    hz_model_config_t model = HZ_MODEL_CONFIG_INIT;
    check(hz_model_config_from_preset("tiny", &model));
    hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
    options.sequences = B;
    options.sequence_length = T;
    options.micros_max = MICROS;
    options.mode = HZ_MODE_STREAMED;
    require(status_of_opening(model, options) == HZ_STATUS_INVALID_ARGUMENT, "streamed needs clip 0");
    options.clip = 0.0;

    Trainer trainer(model, options);
    check(hz_trainer_init_weights(trainer.get(), 3));
    const Rows probe = window(1000);
    const double before = trainer.eval(probe.view());
    require(std::fabs(before - std::log(256.0)) < 0.5, "random weights have the loss of a uniform distribution");

    // A handle may move between threads; one thread uses it at a time.
    std::thread worker([&trainer] {
        for (std::size_t step = 0; step < STEPS; ++step) {
            const Rows first = window(2 * step), second = window(2 * step + 1);
            trainer.step({first.view(), second.view()}, 3e-3);
        }
    });
    worker.join();
    const double after = trainer.eval(probe.view());
    std::printf("loss %.3f -> %.3f in %zu steps\n", before, after, STEPS);
    require(after < FALLS_TO * before, "the loss falls");

    std::vector<int32_t> text;
    for (const char letter : TEXT.substr(0, 20)) {
        text.push_back(static_cast<unsigned char>(letter));
    }
    while (text.size() < T) {
        text.push_back(trainer.next(text, model.vocab_size));
    }
    std::printf("%s\n", std::string(text.begin(), text.end()).c_str());

    float value = 0.0F;
    require(hz_trainer_read_gradient(trainer.get(), "model.norm.weight", &value, 1) == HZ_STATUS_UNSUPPORTED,
            "streamed stores no gradient");
    share(trainer, probe.view());

    // Exports bf16 weights and loads them: they compute the same loss, and are the rounded masters.
    const std::string out = folder + "/tiny";
    check(hz_trainer_export_hf(trainer.get(), out.c_str(), HZ_DTYPE_BF16));
    hz_model_config_t read = HZ_MODEL_CONFIG_INIT;
    check(hz_model_config_from_hf(out.c_str(), &read));
    require(read.hidden_size == model.hidden_size && read.tie_word_embeddings == 1, "the model is read back");
    Trainer again(read, options);
    check(hz_trainer_load_hf(again.get(), out.c_str()));
    require(again.eval(probe.view()) == trainer.eval(probe.view()), "the bf16 weights compute the same loss");
    const auto ours = trainer.tensors(), theirs = again.tensors();
    require(ours.size() == theirs.size(), "the same tensors");
    for (std::size_t index = 0; index < ours.size(); ++index) {
        require(ours[index].first == theirs[index].first, "in the same order");
        for (std::size_t at = 0; at < ours[index].second.size(); ++at) {
            const float master = ours[index].second[at], rounded = theirs[index].second[at];
            require(std::fabs(master - rounded) <= std::fabs(master) * (1.0F / 256.0F), "rounded to bf16");
        }
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    try {
        run(argv[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
