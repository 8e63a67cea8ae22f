// Settings for users of libemulated.so, which otherwise call launchers and cuBLASLt.
#include "emu.h"

// The schedule of the kernels that follow, as in main.cc.
extern "C" void hz_emulated_seed(uint64_t seed) {
    hz::emu::set_seed(seed);
    hz::emu::set_resident_blocks(seed == 0 ? 1 : 0);
}
// Who takes the work of launchers and products from now on, for streams of their own.
extern "C" void hz_emulated_enqueue(hz::emu::Enqueue enqueue) { hz::emu::g_enqueue = enqueue; }
// Does work that was taken, once.
extern "C" void hz_emulated_run(hz::emu::Work* work) {
    (*work)();
    delete work;
}
