// horizon.hpp: handles that close themselves and move, exceptions, spans, callbacks that throw.
// Usage: wrapper FOLDER (an empty one, for files).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "horizon.hpp"

namespace {

#ifdef EMULATED // by valgrind, slowly: see small.h
constexpr std::size_t B = 2, T = 4, N = B * T;
#else
constexpr std::size_t B = 2, T = 32, N = B * T;
#endif

int checks = 0;

void require(bool holds, const std::string &what) {
    ++checks;
    if (!holds) throw std::logic_error(what);
}

// The call throws horizon::error with this status and a message that contains `word`.
template <class F>
void refused(hz_status_t status, const std::string &word, F call) {
    try {
        call();
    } catch (const horizon::error &error) {
        const std::string message = error.what();
        return require(error.status() == status && message.find(word) != std::string::npos, message);
    }
    require(false, "not refused: " + word);
}

// Thrown by callbacks of this test.
struct Stop {
    int number;
};

// The call throws Stop with this number.
template <class F>
void stopped(int number, F call) {
    try {
        call();
    } catch (const Stop &stop) {
        return require(stop.number == number, "another exception");
    }
    require(false, "nothing was thrown");
}

struct Rows {
    std::vector<std::int32_t> tokens, targets;

    explicit Rows(std::size_t from) {
        const std::string text = "One layer at a time is on the device; the model is in host memory. ";
        for (std::size_t n = 0; n < N; ++n) {
            tokens.push_back(static_cast<unsigned char>(text[(from + n) % text.size()]));
            targets.push_back(static_cast<unsigned char>(text[(from + n + 1) % text.size()]));
        }
    }
    horizon::batch batch() const { return horizon::batch(tokens, targets); }
};

horizon::trainer_options small_options() {
    horizon::trainer_options options;
    options.device = HZ_DEVICE_CPU;
    options.sequences = B;
    options.sequence_length = T;
    options.micros_max = 2;
    options.threads = 2;
    return options;
}

horizon::trainer small_trainer() {
    horizon::trainer trainer(horizon::model_config_from_preset("tiny"), small_options());
    trainer.init_weights(1);
    return trainer;
}

void spans_and_structs() {
    const std::vector<float> vector{1, 2, 3};
    std::array<float, 3> array{1, 2, 3};
    float plain[] = {1, 2, 3};
    const std::array<horizon::span<const float>, 4> spans{vector, array, plain, horizon::span<const float>(plain, 3)};
    for (const auto &span : spans) require(span.size() == 3 && span[2] == 3.0F && !span.empty(), "three numbers");
    static_assert(std::is_convertible_v<std::vector<float> &, horizon::span<float>>);
    static_assert(!std::is_convertible_v<const std::vector<float> &, horizon::span<float>>);
    static_assert(sizeof(horizon::batch) == sizeof(hz_batch_t));
    static_assert(sizeof(horizon::layer_placement) == sizeof(hz_layer_placement_t));

    const hz_adam_options_t options = HZ_ADAM_OPTIONS_INIT;
    const horizon::adam_options ours;
    require(ours.struct_size == options.struct_size && ours.beta2 == options.beta2, "the defaults of the macro");
    refused(HZ_STATUS_INVALID_ARGUMENT, "targets has 2 elements, tokens has 3", [] {
        const std::vector<std::int32_t> three(3), two(2);
        horizon::batch(three, two);
    });
}

void library() {
    require(horizon::version() == HZ_VERSION && horizon::version_number() == HZ_VERSION_NUMBER, "the version");
    require(horizon::abi_version() == HZ_ABI_VERSION, "the ABI version");
    require(horizon::status_name(HZ_STATUS_IO) == "HZ_STATUS_IO", "the name of a status");
    require(horizon::lane_name(HZ_LANE_H2D) == "h2d" && horizon::lane_name(HZ_LANE_MAX_ENUM).empty(), "lanes");
    require(horizon::options_json().front() == '{', "the options as JSON");
    require(horizon::device_count(HZ_DEVICE_CPU) == 1, "one CPU");
    require(horizon::device_info(HZ_DEVICE_CPU).memory > 0 && horizon::device_info().memory == 0, "the CPU");
    refused(HZ_STATUS_INVALID_ARGUMENT, "index is 1", [] { horizon::device_info(HZ_DEVICE_CPU, 1); });

    int messages = 0;
    horizon::set_log_level(HZ_LOG_INFO);
    horizon::set_log_callback([&](hz_log_level_t level, std::string_view message) {
        messages += level == HZ_LOG_INFO && !message.empty();
        refused(HZ_STATUS_INVALID_STATE, "inside", [] { horizon::set_log_callback(nullptr); });
        throw Stop{0};
    });
    small_trainer();
    horizon::set_log_callback(nullptr);
    const int before = messages;
    small_trainer();
    require(before > 0 && messages == before, "messages until the callback is removed");
}

void moves() {
    static_assert(std::is_nothrow_move_constructible_v<horizon::trainer>);
    static_assert(std::is_nothrow_move_assignable_v<horizon::plan>);
    static_assert(!std::is_copy_constructible_v<horizon::trainer> && !std::is_copy_constructible_v<horizon::adam>);
    std::vector<horizon::trainer> trainers;
    for (int count = 0; count < 3; ++count) trainers.push_back(small_trainer());
    horizon::trainer first = std::move(trainers[0]);
    trainers[1] = std::move(trainers[2]);
    require(trainers[0].get() == nullptr && first.stats().steps == 0 && trainers[1].stats().steps == 0, "moved");
    refused(HZ_STATUS_INVALID_ARGUMENT, "trainer is NULL", [&] { trainers[0].sync(); });
    refused(HZ_STATUS_INVALID_ARGUMENT, "trainer is NULL", [&] { trainers[2].set_progress(nullptr); });
    first.close();
    first.close();
    require(first.get() == nullptr, "closed twice");
    horizon::plan plan(horizon::model_config_from_preset("tiny"));
    plan.close();
    plan.close();
    refused(HZ_STATUS_INVALID_ARGUMENT, "plan is NULL", [&] { plan.admit(); });
    refused(HZ_STATUS_NOT_FOUND, "HZ_STATUS_NOT_FOUND: ", [] { horizon::model_config_from_preset("huge"); });
}

// Strings with a NUL are refused; C would truncate them.
void strings() {
    using namespace std::string_literals;
    horizon::trainer trainer = small_trainer();
    std::vector<float> values(1);
    const std::string nul = "ti\0ny"s;
    const auto refuses = [&](const std::string &name, auto call) {
        refused(HZ_STATUS_INVALID_ARGUMENT, name + " has a NUL at byte 2", call);
    };
    refuses("name", [&] { horizon::model_config_from_preset(nul); });
    refuses("name", [&] { trainer.read_tensor(nul, values); });
    refuses("machine", [&] { horizon::plan::search(trainer.model(), small_options(), nul); });
    refuses("folder", [&] { horizon::model_config_from_hf(nul); });
    refuses("folder", [&] { trainer.save_to(nul, 1); });
    refuses("note", [&] { trainer.save_to("folder", 1, nul); });
    refuses("changes", [&] { trainer.resume("folder", nul); });
    refuses("path", [&] { trainer.trace(nul); });
    trainer.announce({});
}

// One micro-batch, a container or a list of them.
void batches() {
    const Rows rows(0), more(7);
    const std::array<horizon::batch, 2> both{rows.batch(), more.batch()};
    horizon::trainer trainer = small_trainer(), other = small_trainer();
    std::vector<float> logprobs(2 * N), listed(2 * N), one(N);
    trainer.logprobs(both, logprobs);
    trainer.logprobs({both[0], both[1]}, listed);
    trainer.logprobs(both[0], one);
    require(listed == logprobs && std::equal(one.begin(), one.end(), logprobs.begin()), "log-probabilities");
    require(trainer.eval({both[0], both[1]}).loss == trainer.eval(both).loss, "an evaluation");
    require(trainer.step({both[0], both[1]}, 1e-3).loss == other.step(both, 1e-3).loss, "a step");
    require(trainer.step({rows.tokens, rows.targets}, 1e-3).micros == 1, "one micro-batch in braces");
    const auto zero = [](auto, auto) { return 0.0; };
    require(trainer.step_with_loss(both[0], 1e-3, zero).micros == 1, "a loss of one");
    require(trainer.step_with_loss({both[0], both[1]}, 1e-3, zero).micros == 2, "a loss of both");
}

void training(const std::string &folder) {
    const Rows rows(0), more(7);
    const std::vector<horizon::batch> batches{rows.batch(), more.batch()};
    horizon::trainer trainer = small_trainer(), other = small_trainer();
    require(trainer.device().kind == HZ_DEVICE_CPU && trainer.model().vocab_size == 256, "device and model");
    const double loss = trainer.eval(batches).loss;

    // One call or several, with the next step announced: the same bits.
    const horizon::step_report report = trainer.step(batches, 1e-3);
    other.announce(more.tokens);
    other.accumulate(batches[0]);
    other.discard();
    for (const horizon::batch &batch : batches) other.accumulate(batch);
    require(other.update(1e-3).loss == report.loss && report.loss == loss && report.step == 1, "the same step");

    // The caller's loss: the mean, then one that throws, which changes nothing.
    std::vector<float> logprobs(2 * N), logits(256);
    trainer.logprobs(batches, logprobs);
    const auto mean = [&](horizon::span<const float> given, horizon::span<float> dlogprobs) {
        double sum = 0.0;
        for (std::size_t n = 0; n < given.size(); ++n) {
            require(given[n] == logprobs[n], "the log-probabilities of logprobs");
            sum -= static_cast<double>(given[n]);
            dlogprobs[n] = -1.0F / static_cast<float>(given.size());
        }
        return sum / static_cast<double>(given.size());
    };
    stopped(1, [&] {
        trainer.step_with_loss(batches, 1e-3, [](auto, auto) -> double { throw Stop{1}; });
    });
    require(trainer.step_with_loss(batches, 1e-3, mean).loss == other.step(batches, 1e-3).loss, "the mean is the loss");
    require(trainer.eval(rows.batch()).loss == other.eval(rows.batch()).loss, "the same weights");
    trainer.logits(horizon::span<const std::int32_t>(rows.tokens.data(), T), logits);
    require(std::isfinite(logits[0]), "logits");
    trainer.cancel();  // nothing is running

    // Tensors.
    const horizon::tensor_info tensor = trainer.tensor(trainer.tensor_count() - 1);
    std::vector<float> values(static_cast<std::size_t>(tensor.elements)), gradient(values);
    trainer.read_tensor(tensor.name, values);
    trainer.read_gradient(tensor.name, gradient);
    trainer.write_tensor(tensor.name, values);
    horizon::tensor_options settings;
    settings.frozen = 1;
    trainer.set_tensor_options(tensor.name, settings);
    require(trainer.tensor_options(tensor.name).frozen == 1, "a frozen tensor");
    trainer.set_tensor_options(tensor.name);
    refused(HZ_STATUS_NOT_FOUND, "nothing", [&] { trainer.read_tensor("nothing", values); });

    // Saves: a function that throws, one that cancels, one that counts; a checkpoint.
    trainer.save([](const horizon::saved_unit &unit) -> bool { throw Stop{static_cast<int>(unit.unit) + 2}; });
    stopped(2, [&] { trainer.save_wait(); });
    trainer.save([](const horizon::saved_unit &) { return false; });
    refused(HZ_STATUS_CANCELLED, "", [&] { trainer.save_wait(); });
    std::size_t elements = 0;
    trainer.save([&](const horizon::saved_unit &unit) { return (elements += unit.residual.size()) > 0; });
    horizon::trainer moved = std::move(trainer);
    moved.save_wait();
    require(elements >= horizon::plan(moved.model()).summary().parameters, "all units");
    moved.save_to(folder + "/checkpoints", 1, "a note");
    moved.save_wait();
    require(other.resume(folder + "/checkpoints") == "a note" && other.stats().steps == 2, "resumed");

    // Progress: a function that throws stops the work.
    const std::string model = folder + "/model";
    moved.export_hf(model, HZ_DTYPE_F32);
    moved.set_progress([](hz_progress_t work, std::uint64_t done, std::uint64_t total) -> bool {
        require(work == HZ_PROGRESS_LOAD && done <= total, "a load");
        throw Stop{3};
    });
    stopped(3, [&] { moved.load_hf(model); });
    moved.set_progress(nullptr);
    moved.load_hf(model);
    require(horizon::model_config_from_hf(model).hidden_size == moved.model().hidden_size, "the exported model");
    moved.sync();
    require(moved.busy_seconds(HZ_LANE_COMPUTE) == 0.0, "not measured");
    refused(HZ_STATUS_INVALID_STATE, "tracing", [&] { moved.trace(folder + "/trace.json"); });
}

void plans(const std::string &folder) {
    horizon::trainer_options options = small_options();
    std::array<horizon::layer_placement, 2> layers;
    layers[1].recompute = HZ_RECOMPUTE_NONE;
    layers[1].count = 1;
    options.set_layers(layers);
    const horizon::model_config model = horizon::model_config_from_preset("tiny");
    const horizon::plan plan(model, options);
    plan.admit();
    horizon::trainer trainer(plan);
    require(trainer.stats().host_bytes == plan.summary().host_bytes, "the planned memory");
    const horizon::plan searched = horizon::plan::search(model, small_options());
    searched.trace(folder + "/step.json");
    require(searched.busy_seconds(HZ_LANE_COMPUTE) > 0.0 && searched.json().front() == '{', "a simulated step");
}

void alone() {
    std::array<float, 3> values{1.0F, -2.5F, 0.1F}, joined{};
    std::array<std::uint16_t, 3> weights{};
    std::array<std::int16_t, 3> residual{};
    horizon::master_split(values, weights, residual);
    horizon::master_join(weights, residual, joined);
    require(joined == values, "masters are exact");
    refused(HZ_STATUS_INVALID_ARGUMENT, "residual has 1 elements", [&] {
        horizon::master_split(values, weights, horizon::span<std::int16_t>(residual.data(), 1));
    });

    horizon::adam_options options;
    options.mode = HZ_ADAM_MODE_F32;
    options.state_count = 3;
    horizon::adam adam(options);
    horizon::adam_arrays arrays;
    const std::array<float, 3> gradient{1.0F, 0.0F, -1.0F};
    arrays.gradient_dtype = HZ_DTYPE_F32;
    arrays.count = 3;
    arrays.weights = values.data();
    arrays.gradient = gradient.data();
    adam.step(arrays, 0.5, 1);
    require(values[0] < 1.0F && values[2] > 0.1F && adam.state(0, 3).m != nullptr, "a step against the gradient");

    adam.close();
    refused(HZ_STATUS_INVALID_ARGUMENT, "adam is NULL", [&] { adam.step(arrays, 0.5, 2); });

    horizon::arena arena(horizon::arena_options(), 4096);
    arena.touch(1);
    require(arena.info().bytes == 4096 && *static_cast<char *>(arena.info().address) == 0, "zeros");
    refused(HZ_STATUS_INVALID_ARGUMENT, "offset", [&] { arena.node_at(4096); });
    arena.close();
    refused(HZ_STATUS_INVALID_ARGUMENT, "arena is NULL", [&] { arena.info(); });
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    try {
        spans_and_structs();
        library();
        moves();
        strings();
        batches();
        training(argv[1]);
        plans(argv[1]);
        alone();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    std::printf("%d checks\n", checks);
    return 0;
}
