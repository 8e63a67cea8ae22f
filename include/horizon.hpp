/*
 * horizon.hpp - horizon.h for C++17 and later: handles that close themselves, exceptions, spans.
 *
 *     horizon::trainer_options options;
 *     options.sequence_length = 128;
 *     horizon::trainer trainer(horizon::model_config_from_preset("tiny"), options);
 *     trainer.init_weights(1);
 *     std::vector<std::int32_t> tokens = ..., targets = ...;
 *     std::printf("%f\n", trainer.step(horizon::batch(tokens, targets), 3e-4).loss);
 *
 * Names are those of horizon.h, which explains them, without what C++ says otherwise:
 *
 *     hz_plan_summary_t                 plan_summary: a struct, without hz_ and _t; it has its defaults
 *     hz_model_config_from_preset       model_config_from_preset: a function, without hz_
 *     hz_trainer_t, hz_trainer_step     trainer, trainer::step: a class, and a member of it
 *     hz_plan_open, hz_trainer_open,    constructors; hz_plan_search, which opens a plan, too, is plan::search
 *     hz_trainer_open_planned, ...
 *     hz_trainer_close, ...             destructors, and close()
 *     hz_device_info                    a constructor of its struct: device_info(kind, index)
 *     hz_last_error                     error::what()
 *
 * Enums and their constants keep their names: HZ_DEVICE_CPU. Functions that fail throw horizon::error. A handle that
 * was closed or moved from is empty: calls on it throw, closing it does nothing. Spans and views are read or written
 * during the call only, except those of batch and trainer_options, which the caller keeps until the call they are
 * passed to returns. Where several micro-batches are taken, one is, too, or a list: step({one, other}, lr).
 */
#ifndef HORIZON_HPP
#define HORIZON_HPP

#if __cplusplus < 201703L
#error "horizon.hpp needs C++17"
#endif

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>
#if __cplusplus >= 202002L
#include <span>
#endif

#include "horizon.h"

namespace horizon {

/* ---- errors ---- */

/* A failed call; what() is the name of the status and the message of the library. */
class error : public std::runtime_error {
public:
    error(hz_status_t status, const std::string &message)
        : std::runtime_error(std::string(hz_status_name(status)) + ": " + message), status_(status) {}
    hz_status_t status() const noexcept { return status_; }

private:
    hz_status_t status_;
};

/* Throws the last error of this thread unless `status` is HZ_STATUS_OK. */
inline void check(hz_status_t status) {
    if (status != HZ_STATUS_OK) throw error(status, hz_last_error());
}

/* ---- spans ---- */

#if __cplusplus >= 202002L
template <class T>
using span = std::span<T>;
#else
/* The part of C++20's std::span that arguments need. */
template <class T>
class span {
    template <class C>
    using fits = std::enable_if_t<
        std::is_convertible_v<std::remove_pointer_t<decltype(std::data(std::declval<C &>()))> (*)[], T (*)[]>>;

public:
    constexpr span() noexcept = default;
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <class C, class = fits<C>>
    constexpr span(C &container) : data_(std::data(container)), size_(std::size(container)) {}
    template <class C, class = fits<const C>>
    constexpr span(const C &container) : data_(std::data(container)), size_(std::size(container)) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t index) const { return data_[index]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};
#endif

/* ---- structs: those of horizon.h with their defaults ---- */

template <class T, hz_status_t (*INIT)(T *, std::size_t)>
struct defaults : T {
    defaults() : T() { check(INIT(this, sizeof(T))); }
    defaults(const T &value) : T(value) {}
};

using model_config = defaults<hz_model_config_t, hz_model_config_init>;
using layer_placement = defaults<hz_layer_placement_t, hz_layer_placement_init>;
using plan_summary = defaults<hz_plan_summary_t, hz_plan_summary_init>;
using tensor_info = defaults<hz_tensor_info_t, hz_tensor_info_init>;
using tensor_options = defaults<hz_tensor_options_t, hz_tensor_options_init>;
using step_report = defaults<hz_step_report_t, hz_step_report_init>;
using eval_report = defaults<hz_eval_report_t, hz_eval_report_init>;
using trainer_stats = defaults<hz_trainer_stats_t, hz_trainer_stats_init>;
using adam_options = defaults<hz_adam_options_t, hz_adam_options_init>;
using adam_arrays = defaults<hz_adam_arrays_t, hz_adam_arrays_init>;
using arena_options = defaults<hz_arena_options_t, hz_arena_options_init>;
using arena_info = defaults<hz_arena_info_t, hz_arena_info_init>;

struct device_info : defaults<hz_device_info_t, hz_device_info_init> {
    using defaults::defaults;

    /* A device of this machine. */
    explicit device_info(hz_device_t kind_, std::uint32_t index_ = 0) { check(hz_device_info(kind_, index_, this)); }
};

struct trainer_options : defaults<hz_trainer_options_t, hz_trainer_options_init> {
    using defaults::defaults;

    void set_layers(span<const layer_placement> placements) {
        layers = placements.data();
        layers_count = placements.size();
    }
};

namespace detail {

/* Calls a C function whose last parameter is an output. Returns that. */
template <class T, class F, class... A>
T output(F function, A... arguments) {
    T value{};
    check(function(arguments..., &value));
    return value;
}

template <auto CLOSE>
struct closes {
    template <class T>
    void operator()(T *open) const noexcept {
        static_cast<void>(CLOSE(open));
    }
};

/* Owns a handle of C. */
template <class T, auto CLOSE>
using owner = std::unique_ptr<T, closes<CLOSE>>;

/* A handle that a C function opens with these arguments. */
template <class T, auto CLOSE>
class handle {
public:
    template <class F, class... A>
    explicit handle(F open, A... arguments) : pointer_(output<T *>(open, arguments...)) {}
    T *get() const noexcept { return pointer_.get(); }
    void close() noexcept { pointer_.reset(); }

private:
    owner<T, CLOSE> pointer_;
};

/* A string for C, which ends it at the first NUL; NULL if there is none. */
class text {
public:
    text(const char *name, std::string_view value) : value_(value) {
        const std::size_t end = value.find('\0');
        if (end == value.npos) return;
        const std::string found = std::string(name) + " has a NUL at byte " + std::to_string(end);
        throw error(HZ_STATUS_INVALID_ARGUMENT, found + "; it must have none, since strings end there in C");
    }
    text(const char *name, const std::filesystem::path &value) : text(name, std::string_view(value.native())) {}
    text(const char *name, const std::optional<std::string> &value)
        : text(name, value ? std::string_view(*value) : std::string_view()) {
        if (!value) value_.reset();
    }
    operator const char *() const noexcept { return value_ ? value_->c_str() : nullptr; }

private:
    std::optional<std::string> value_;
};

/* A function of the caller behind a C callback. */
template <class F>
struct callback {
    F function;
    std::exception_ptr thrown;
};

/* Runs the body of a C callback, which returns true to continue. Returns the value for C. What the body throws waits in
 * `thrown` until the C call has returned. */
template <class B>
std::int32_t contain(std::exception_ptr &thrown, B body) noexcept {
    try {
        return body() ? 0 : 1;
    } catch (...) {
        thrown = std::current_exception();
        return 1;
    }
}

inline void rethrow(std::exception_ptr &thrown) {
    if (thrown) std::rethrow_exception(std::exchange(thrown, nullptr));
}

/* For arguments without a length of their own in C. */
inline void check_length(const std::string &name, std::uint64_t length, const char *other, std::uint64_t expected) {
    if (length == expected) return;
    const std::string found = name + " has " + std::to_string(length) + " elements, " + other + " has ";
    throw error(HZ_STATUS_INVALID_ARGUMENT, found + std::to_string(expected) + "; they must be equal");
}

}  // namespace detail

/* A micro-batch over arrays of the caller, all of one length. */
struct batch : defaults<hz_batch_t, hz_batch_init> {
    using defaults::defaults;

    batch(span<const std::int32_t> tokens_, span<const std::int32_t> targets_, std::uint64_t sequence_length_ = 0) {
        detail::check_length("targets", targets_.size(), "tokens", tokens_.size());
        rows = tokens_.size();
        tokens = tokens_.data();
        targets = targets_.data();
        sequence_length = sequence_length_;
    }
    void set_weights(span<const float> values) {
        detail::check_length("weights", values.size(), "tokens", rows);
        weights = values.data();
    }
    void set_starts(span<const std::int32_t> values) {
        detail::check_length("starts", values.size(), "tokens", rows);
        starts = values.data();
    }
};

/* ---- library, log, devices ---- */

inline std::string_view version() { return hz_version(); }
inline std::uint32_t version_number() { return hz_version_number(); }
inline std::uint32_t abi_version() { return hz_abi_version(); }
inline std::string_view status_name(hz_status_t status) { return hz_status_name(status); }
inline std::string_view options_json() { return hz_options_json(); }
/* Empty above the last lane. */
inline std::string_view lane_name(hz_lane_t lane) {
    const char *name = hz_lane_name(lane);
    return name ? std::string_view(name) : std::string_view();
}

using log_function = std::function<void(hz_log_level_t, std::string_view)>;

/* Sets the log callback of the process; an empty function discards messages. What the function throws is dropped. */
inline void set_log_callback(log_function function) {
    static std::mutex mutex;
    static auto &current = *new std::unique_ptr<log_function>; /* threads may log until the process ends */
    static thread_local bool inside = false;
    /* The lock could be held by a thread that waits for this callback to return. */
    if (inside) throw error(HZ_STATUS_INVALID_STATE, "set_log_callback was called inside a log callback");
    const std::lock_guard lock(mutex);
    auto next = function ? std::make_unique<log_function>(std::move(function)) : nullptr;
    const auto call = [](hz_log_level_t level, const char *message, void *user) noexcept {
        inside = true;
        try {
            (*static_cast<log_function *>(user))(level, message);
        } catch (...) {
        }
        inside = false;
    };
    check(hz_set_log_callback(next ? +call : nullptr, next.get()));
    current = std::move(next);
}
inline void set_log_level(hz_log_level_t level) { check(hz_set_log_level(level)); }

inline std::uint32_t device_count(hz_device_t kind) { return detail::output<std::uint32_t>(hz_device_count, kind); }

/* ---- models, plans ---- */

inline model_config model_config_from_preset(std::string_view name) {
    return detail::output<model_config>(hz_model_config_from_preset, detail::text("name", name));
}
inline model_config model_config_from_hf(const std::filesystem::path &folder) {
    return detail::output<model_config>(hz_model_config_from_hf, detail::text("folder", folder));
}

class plan : public detail::handle<hz_plan_t, hz_plan_close> {
public:
    explicit plan(const hz_model_config_t &model, const hz_trainer_options_t &options = trainer_options())
        : handle(hz_plan_open, &model, &options) {}
    static plan search(const hz_model_config_t &model, const hz_trainer_options_t &options = trainer_options(),
                       std::string_view machine = "cpu") {
        return plan(model, options, detail::text("machine", machine));
    }
    void admit() const { check(hz_plan_admit(get())); }
    plan_summary summary() const { return detail::output<plan_summary>(hz_plan_summary, get()); }
    double busy_seconds(hz_lane_t lane) const { return detail::output<double>(hz_plan_busy_seconds, get(), lane); }
    /* Valid as long as the plan. */
    std::string_view json() const { return detail::output<const char *>(hz_plan_json, get()); }
    void trace(const std::filesystem::path &path) const { check(hz_plan_trace(get(), detail::text("path", path))); }

private:
    plan(const hz_model_config_t &model, const hz_trainer_options_t &options, const char *machine)
        : handle(hz_plan_search, &model, &options, machine) {}
};

/* ---- trainer ---- */

/* A unit of a save; see hz_save_callback_t. */
struct saved_unit {
    std::uint32_t unit;
    span<const std::uint16_t> weights;
    span<const std::int16_t> residual;
    const void *m, *v;
};

/* Both return true to continue, false to cancel. What they throw cancels the work, too, and is thrown by the function
 * that waits for it. */
using progress_function = std::function<bool(hz_progress_t work, std::uint64_t done, std::uint64_t total)>;
using save_function = std::function<bool(const saved_unit &)>;

class trainer {
public:
    explicit trainer(const hz_model_config_t &model, const hz_trainer_options_t &options = trainer_options())
        : state_(std::make_unique<state>(hz_trainer_open, &model, &options)) {}
    explicit trainer(const plan &planned) : state_(std::make_unique<state>(hz_trainer_open_planned, planned.get())) {}

    hz_trainer_t *get() const noexcept { return state_ ? state_->handle.get() : nullptr; }
    /* Closes the trainer and throws its first error, which the destructor drops. */
    void close() {
        const hz_status_t status = hz_trainer_close(get());
        if (state_ && status != HZ_STATUS_INVALID_STATE) {
            static_cast<void>(state_->handle.release());
            state_.reset();
        }
        check(status);
    }

    device_info device() const { return detail::output<device_info>(hz_trainer_device, get()); }
    model_config model() const { return detail::output<model_config>(hz_trainer_model, get()); }

    std::size_t tensor_count() const { return detail::output<std::size_t>(hz_trainer_tensor_count, get()); }
    tensor_info tensor(std::size_t index) const { return detail::output<tensor_info>(hz_trainer_tensor, get(), index); }
    void init_weights(std::uint64_t seed) { check(hz_trainer_init_weights(get(), seed)); }
    void load_hf(const std::filesystem::path &folder) {
        finish(HZ_PROGRESS_LOAD, hz_trainer_load_hf(get(), detail::text("folder", folder)));
    }
    void export_hf(const std::filesystem::path &folder, hz_dtype_t dtype) {
        finish(HZ_PROGRESS_EXPORT, hz_trainer_export_hf(get(), detail::text("folder", folder), dtype));
    }
    void read_tensor(std::string_view name, span<float> values) {
        check(hz_trainer_read_tensor(get(), detail::text("name", name), values.data(), values.size()));
    }
    void write_tensor(std::string_view name, span<const float> values) {
        check(hz_trainer_write_tensor(get(), detail::text("name", name), values.data(), values.size()));
    }
    void read_gradient(std::string_view name, span<float> values) {
        check(hz_trainer_read_gradient(get(), detail::text("name", name), values.data(), values.size()));
    }
    void set_tensor_options(std::string_view name, const hz_tensor_options_t &options = horizon::tensor_options()) {
        check(hz_trainer_set_tensor_options(get(), detail::text("name", name), &options));
    }
    horizon::tensor_options tensor_options(std::string_view name) {
        return detail::output<horizon::tensor_options>(hz_trainer_tensor_options, get(), detail::text("name", name));
    }

    void accumulate(const hz_batch_t &batch) { check(hz_trainer_accumulate(get(), &batch)); }
    void announce(span<const std::int32_t> tokens) { check(hz_trainer_announce(get(), tokens.data(), tokens.size())); }
    void discard() { check(hz_trainer_discard(get())); }
    step_report update(double lr) { return detail::output<step_report>(hz_trainer_update, get(), lr); }
    step_report step(span<const batch> batches, double lr) {
        return detail::output<step_report>(hz_trainer_step, get(), batches.data(), batches.size(), lr);
    }
    step_report step(const batch &one, double lr) { return step(span<const batch>(&one, 1), lr); }
    step_report step(std::initializer_list<batch> list, double lr) { return step(span<const batch>(list), lr); }
    eval_report eval(span<const batch> batches) {
        return detail::output<eval_report>(hz_trainer_eval, get(), batches.data(), batches.size());
    }
    eval_report eval(const batch &one) { return eval(span<const batch>(&one, 1)); }
    eval_report eval(std::initializer_list<batch> list) { return eval(span<const batch>(list)); }
    void logits(span<const std::int32_t> tokens, span<float> values) {
        check(hz_trainer_logits(get(), tokens.data(), tokens.size(), values.data(), values.size()));
    }
    void logprobs(span<const batch> batches, span<float> values) {
        check(hz_trainer_logprobs(get(), batches.data(), batches.size(), values.data(), values.size()));
    }
    void logprobs(const batch &one, span<float> values) { logprobs(span<const batch>(&one, 1), values); }
    void logprobs(std::initializer_list<batch> list, span<float> values) { logprobs(span<const batch>(list), values); }
    /* `loss` takes span<const float> logprobs and span<float> dlogprobs, and returns the loss. What it throws cancels
     * the step and is thrown. */
    template <class F>
    step_report step_with_loss(span<const batch> batches, double lr, F &&loss) {
        detail::callback<F &> ours{loss, nullptr};
        const auto call = [](const float *logprobs, float *dlogprobs, std::size_t count, double *out,
                             void *user) noexcept {
            auto &[function, thrown] = *static_cast<detail::callback<F &> *>(user);
            return detail::contain(thrown, [&, &function = function] {
                *out = function(span<const float>(logprobs, count), span<float>(dlogprobs, count));
                return true;
            });
        };
        step_report report;
        const hz_status_t status =
            hz_trainer_step_with_loss(get(), batches.data(), batches.size(), lr, +call, &ours, &report);
        detail::rethrow(ours.thrown);
        check(status);
        return report;
    }
    template <class F>
    step_report step_with_loss(const batch &one, double lr, F &&loss) {
        return step_with_loss(span<const batch>(&one, 1), lr, std::forward<F>(loss));
    }
    template <class F>
    step_report step_with_loss(std::initializer_list<batch> list, double lr, F &&loss) {
        return step_with_loss(span<const batch>(list), lr, std::forward<F>(loss));
    }
    /* From any thread. */
    void cancel() { check(hz_trainer_cancel(get())); }

    void set_progress(progress_function function) {
        auto next = function ? std::make_unique<progress>(progress{std::move(function), {}}) : nullptr;
        const auto call = [](hz_progress_t work, std::uint64_t done, std::uint64_t total, void *user) noexcept {
            auto &ours = *static_cast<progress *>(user);
            return detail::contain(ours.thrown_by(work), [&] { return ours.function(work, done, total); });
        };
        /* Now, since nothing may fail once C has the pointer. */
        if (state_) state_->progresses.reserve(state_->progresses.size() + 1);
        check(hz_trainer_set_progress(get(), next ? +call : nullptr, next.get()));
        if (!state_->saving) state_->progresses.clear();
        if (next) state_->progresses.push_back(std::move(next));
    }
    void save(save_function function) {
        auto next = std::make_unique<saver>(saver{std::move(function), nullptr});
        const auto call = [](std::uint32_t unit, std::uint64_t elements, const std::uint16_t *weights,
                             const std::int16_t *residual, const void *m, const void *v, void *user) noexcept {
            auto &ours = *static_cast<saver *>(user);
            const auto count = static_cast<std::size_t>(elements);
            return detail::contain(ours.thrown, [&] {
                return ours.function(saved_unit{unit, {weights, count}, {residual, count}, m, v});
            });
        };
        check(hz_trainer_save(get(), +call, next.get()));
        state_->saving_with = std::move(next);
        state_->saving = true;
    }
    void save_to(const std::filesystem::path &folder, std::uint64_t keep,
                 const std::optional<std::string> &note = std::nullopt) {
        check(hz_trainer_save_to(get(), detail::text("folder", folder), keep, detail::text("note", note)));
        state_->saving = true;
    }
    void save_wait() {
        const hz_status_t status = hz_trainer_save_wait(get());
        if (state_ && status != HZ_STATUS_INVALID_STATE) state_->saving = false;
        if (state_ && state_->saving_with) detail::rethrow(state_->saving_with->thrown);
        finish(HZ_PROGRESS_SAVE, status);
    }
    /* Returns the checkpoint's note. */
    std::optional<std::string> resume(const std::filesystem::path &folder,
                                      const std::optional<std::string> &changes = std::nullopt) {
        const char *note = nullptr;
        finish(HZ_PROGRESS_RESUME,
               hz_trainer_resume(get(), detail::text("folder", folder), detail::text("changes", changes), &note));
        return note ? std::optional<std::string>(note) : std::nullopt;
    }

    void sync() { check(hz_trainer_sync(get())); }
    trainer_stats stats() { return detail::output<trainer_stats>(hz_trainer_stats, get()); }
    double busy_seconds(hz_lane_t lane) { return detail::output<double>(hz_trainer_busy_seconds, get(), lane); }
    void trace(const std::filesystem::path &path) { check(hz_trainer_trace(get(), detail::text("path", path))); }

private:
    using saver = detail::callback<save_function>;
    struct progress {
        progress_function function;
        std::array<std::exception_ptr, 8> thrown; /* by work, since a load may run during a save */

        std::exception_ptr &thrown_by(hz_progress_t work) { return thrown[std::size_t{work} % thrown.size()]; }
    };
    /* On the heap, where callbacks find it after a move. The handle is closed first: until then they may be called. */
    struct state {
        template <class... A>
        explicit state(A... arguments) : handle(detail::output<hz_trainer_t *>(arguments...)) {}

        std::unique_ptr<saver> saving_with;
        std::vector<std::unique_ptr<progress>> progresses; /* a running save keeps its own */
        bool saving = false;
        detail::owner<hz_trainer_t, hz_trainer_close> handle;
    };

    /* Throws what a progress function threw during `work`, otherwise the error of the call. */
    void finish(hz_progress_t work, hz_status_t status) {
        if (state_) {
            for (auto &each : state_->progresses) detail::rethrow(each->thrown_by(work));
        }
        check(status);
    }

    std::unique_ptr<state> state_;
};

/* ---- AdamW alone, arenas ---- */

class adam : public detail::handle<hz_adam_t, hz_adam_close> {
public:
    explicit adam(const hz_adam_options_t &options = adam_options()) : handle(hz_adam_open, &options) {}
    void step(const hz_adam_arrays_t &arrays, double lr, std::uint64_t step, double gradient_scale = 1.0,
              double decay = 1.0) const {
        check(hz_adam_step(get(), &arrays, lr, step, gradient_scale, decay));
    }
    adam_arrays state(std::uint64_t first, std::uint64_t count) const {
        return detail::output<adam_arrays>(hz_adam_state, get(), first, count);
    }
};

inline void master_split(span<const float> values, span<std::uint16_t> weights, span<std::int16_t> residual) {
    detail::check_length("weights", weights.size(), "values", values.size());
    detail::check_length("residual", residual.size(), "values", values.size());
    check(hz_master_split(values.data(), values.size(), weights.data(), residual.data()));
}
inline void master_join(span<const std::uint16_t> weights, span<const std::int16_t> residual, span<float> values) {
    detail::check_length("weights", weights.size(), "values", values.size());
    detail::check_length("residual", residual.size(), "values", values.size());
    check(hz_master_join(weights.data(), residual.data(), values.size(), values.data()));
}

class arena : public detail::handle<hz_arena_t, hz_arena_close> {
public:
    arena(const hz_arena_options_t &options, std::uint64_t bytes) : handle(hz_arena_open, &options, bytes) {}
    void touch(std::uint64_t threads = 0) const { check(hz_arena_touch(get(), threads)); }
    arena_info info() const { return detail::output<arena_info>(hz_arena_info, get()); }
    std::uint32_t node_at(std::uint64_t offset) const {
        return detail::output<std::uint32_t>(hz_arena_node_at, get(), offset);
    }
};

}  // namespace horizon

#endif /* HORIZON_HPP */
