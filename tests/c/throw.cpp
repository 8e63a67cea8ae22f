// Exceptions in callbacks: refused by the compiler, otherwise they end the process.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <sys/wait.h>
#include <type_traits>
#include <unistd.h>

#include "small.h"

namespace {

constexpr int TERMINATED = 42;

void log_line(hz_log_level_t level, const char *message, void *) noexcept {
    if (level == HZ_LOG_ERROR) {
        std::printf("%s\n", message);
        std::fflush(stdout);
    }
}

// Not noexcept, as a function of C or of another language looks to C++.
int32_t throwing_loss(const float *, float *, size_t, double *, void *) { throw 1; }
int32_t throwing_save(uint32_t, uint64_t, const uint16_t *, const int16_t *, const void *, const void *, void *) {
    throw 2;
}
int32_t noexcept_loss(const float *, float *, size_t, double *, void *) noexcept {
    return throwing_loss(nullptr, nullptr, 0, nullptr, nullptr);
}

static_assert(!std::is_convertible<decltype(&throwing_loss), hz_loss_callback_t>::value, "may throw");
static_assert(!std::is_convertible<decltype(&throwing_save), hz_save_callback_t>::value, "may throw");
static_assert(std::is_convertible<decltype(&noexcept_loss), hz_loss_callback_t>::value, "does not throw");

void step(hz_loss_callback_t loss, hz_save_callback_t save) {
    static rows_t rows;
    fill(&rows);
    hz_batch_t batch = batch_of(&rows);
    hz_step_report_t report = HZ_STEP_REPORT_INIT;
    hz_trainer_t *trainer = open_small();
    if (save != nullptr) {
        OK(hz_trainer_save(trainer, save, nullptr));
        OK(hz_trainer_save_wait(trainer));
    } else {
        OK(hz_trainer_step_with_loss(trainer, &batch, 1, 1e-3, loss, nullptr, &report));
    }
}

// The status of a child that runs this step.
int status_of(hz_loss_callback_t loss, hz_save_callback_t save) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        std::set_terminate([] { _exit(TERMINATED); });
        OK(hz_set_log_callback(log_line, nullptr));
        step(loss, save);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

bool aborted(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT; }

} // namespace

int main() {
    // The C++ runtime ends the process where a noexcept function throws.
    const int status = status_of(noexcept_loss, nullptr);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == TERMINATED);
    // On the calling thread and on a thread of the library.
    CHECK(aborted(status_of(reinterpret_cast<hz_loss_callback_t>(throwing_loss), nullptr)));
    CHECK(aborted(status_of(nullptr, reinterpret_cast<hz_save_callback_t>(throwing_save))));
    return 0;
}
