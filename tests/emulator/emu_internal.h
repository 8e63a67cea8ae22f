// Shared by emu.cc (scheduler) and race.cc (access checker); not for kernels.
#pragma once
#include "emu.h"
#include <map>
#include <vector>

#if defined(HZ_EMU_ASAN)  // kernels are built with -fsanitize=address, the emulator is not
#define HZ_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#else
#define HZ_ASAN 0
#endif

namespace hz {
namespace emu {

enum class St : uint8_t { Idle, Runnable, Running, AtBarrier, AtWarp, Done };
struct Warp;
struct Block;

struct FiberImpl : Fiber {
    void* sp = nullptr;     // saved context
    void* fake = nullptr;   // ASan fake stack
    char* stack = nullptr;  // lowest usable address
    size_t stack_size = 0;
    Warp* w = nullptr;
    Block* b = nullptr;
    St st = St::Idle;
    const char* what = nullptr;
    Loc loc{nullptr, 0};
    unsigned mask = 0;  // of the collective it waits at
    int* red = nullptr;
    std::vector<CpReq> cp;
    size_t cp_head = 0;
    unsigned cp_group = 0;     // cp.async queue
    uint32_t proxy_clock = 0;  // race build: clock at the last fence.proxy.async
};
struct Coll {
    int op = 0;
    unsigned mask = 0, arrived = 0;
    const char* what = nullptr;
    Loc loc{nullptr, 0};
    CollFn fn = nullptr;
    void* payload[32];
};
struct WgOp {
    uint64_t a, b;
    int n;
    float* d[32];
    const uint32_t* registers[32];  // of A, or null
    uint32_t held[32][4];           // their values at issue
    bool transposed;                // B is n x 16
    bool add;
    unsigned group;
};
struct Warp {
    Block* b = nullptr;
    unsigned index = 0;
    uint32_t runnable = 0;
    uint32_t exist = 0, exited = 0;
    int active_pos = -1;
    uint32_t prio = 0;
    Coll coll[8];
    unsigned coll_used = 0;  // bit i: coll[i] is collecting lanes
    std::vector<WgOp> wg;
    unsigned wg_group = 0;
    bool wg_fenced = false;
    std::vector<uint64_t> wg_issued;  // must be equal in the four warps of a warpgroup
    struct Acc {
        float* d;
        std::vector<float> v;
    };
    std::vector<Acc> acc[32];  // wgmma accumulators in flight, per lane
};
struct Barrier {
    unsigned arrived = 0, expected = 0;
    Loc loc{nullptr, 0};
    const char* what = nullptr;
    int acc = 0, op = 0;
    std::vector<FiberImpl*> waiting, arrivers;
};
struct Static {
    const void* key;
    size_t off, bytes;
    const char* name;
};
struct Block {
    int slot = 0;
    uint3 bid{};
    unsigned n = 0, live = 0, exited = 0;
    bool busy = false;
    std::vector<FiberImpl*> f;
    std::vector<Warp> w;
    Barrier bar[16];
    std::vector<Static> statics;
    size_t static_end = 0;
    unsigned char* smem = nullptr;
};

constexpr size_t kArena = 512 << 10;  // per resident block: [0,64K) static, [64K,..) dynamic
constexpr size_t kDynOff = 64 << 10;
constexpr int kMaxResident = 4;
extern unsigned char* g_arena;  // kMaxResident * kArena
extern size_t g_dyn_bytes;
extern const void *g_pack_lo, *g_pack_hi;  // kernel parameter block
extern uint32_t g_launch_no;
extern int g_runtime;                    // >0: inside the emulator, accesses are not the kernel's
extern char *g_stacks_lo, *g_stacks_hi;  // range of all thread stacks
inline FiberImpl* cur() { return static_cast<FiberImpl*>(g_cur); }

struct RaceHooks {  // installed by race.cc when linked
    void (*block_begin)(Block*);
    void (*join)(FiberImpl* const*, unsigned n_acquire, unsigned n_release, bool whole_block);
    void (*proxy_fence)(FiberImpl*);
    void (*async_check)(FiberImpl*, const void*, size_t);  // operand of an async-proxy instruction, at issue
    void (*async_read)(FiberImpl*, const void*, size_t);   // its reads, until the wait
    void (*alloc)(void*, size_t);
    void (*release)(void*);
    void (*init)(void*, size_t);
};
extern RaceHooks* g_race;

// emu.cc, for the other files
enum Policy { Ordered, Uniform, Priority };
extern Policy g_policy;
uint32_t rnd();
uint32_t rnd(uint32_t n);            // uniform in [0, n)
void poison_bytes(unsigned char*, size_t);
void make_runnable(FiberImpl*);
void suspend(FiberImpl*);            // the running thread waits, or is runnable: runs another thread
size_t smem_limit();                 // most dynamic shared memory of a block
void allow_dynamic(const void* kernel, size_t bytes);  // allows dynamic shared memory
const char* where();  // "kernel 'k' block (x,y,z) thread (x,y,z)"
}  // namespace emu
}  // namespace hz
