// What a user of libemulated.so may set: the schedule of the kernels that follow, as in main.cc.
#include "emu.h"

extern "C" void hz_emulated_seed(uint64_t seed) {
    hz::emu::set_seed(seed);
    hz::emu::set_resident_blocks(seed == 0 ? 1 : 0);
}
