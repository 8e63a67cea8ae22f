// Settings of libemulated.so, next to the launchers and cuBLASLt.
#include "emu.h"

// Sets the schedule of later kernels, as in main.cc.
extern "C" void hz_emulated_seed(uint64_t seed) {
    hz::emu::set_seed(seed);
    hz::emu::set_resident_blocks(seed == 0 ? 1 : 0);
}
// Sets the function that enqueues the work of launchers and GEMMs on CUDA streams of its own.
extern "C" void hz_emulated_enqueue(hz::emu::Enqueue enqueue) { hz::emu::g_enqueue = enqueue; }
// Runs enqueued work and frees it.
extern "C" void hz_emulated_run(hz::emu::Work* work) {
    (*work)();
    delete work;
}
