// The emulated GPU: fibers, the seeded scheduler and the launch. collectives.cc has barriers, warp collectives, shared
// memory and copies; runtime.cc has the CUDA runtime.
#include "emu_internal.h"
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <sys/mman.h>
#include <unistd.h>
#if defined(HZ_EMU_UCONTEXT) || !defined(__x86_64__)
#define HZ_UCTX 1
#include <ucontext.h>
#endif

static const size_t kStack = HZ_ASAN ? 192 << 10 : 96 << 10;
#define NOSAN __attribute__((no_sanitize("address"), no_sanitize("undefined"), noinline))

namespace hz {
namespace emu {

Fiber* g_cur;
dim3 g_block_dim, g_grid_dim;
int g_atomic;
void (*g_on_atomic)(const void*);
Stats g_stats;
unsigned char* g_arena;
size_t g_dyn_bytes;
const void *g_pack_lo, *g_pack_hi;
uint32_t g_launch_no;
RaceHooks* g_race;
char *g_stacks_lo, *g_stacks_hi;
int g_runtime;
Policy g_policy = Ordered;
// Dynamic shared memory that cudaFuncSetAttribute allows each kernel. Locked: launchers may run while another thread
// runs a kernel.
static std::map<const void*, size_t> g_max_dyn;
static std::mutex g_max_dyn_lock;

// ---- random ----
namespace {
uint64_t g_rng = 88172645463325252ull, g_seed;
int g_resident_req = 1;
size_t g_smem_limit;
}  // namespace
uint32_t rnd() {
    g_rng ^= g_rng << 13;
    g_rng ^= g_rng >> 7;
    g_rng ^= g_rng << 17;
    return uint32_t(g_rng >> 16);
}
uint32_t rnd(uint32_t n) { return uint32_t((uint64_t(rnd()) * n) >> 32); }
size_t smem_limit() {
    static size_t v = getenv("HZ_EMU_SMEM") ? strtoul(getenv("HZ_EMU_SMEM"), nullptr, 0) : 227 << 10;
    return g_smem_limit ? g_smem_limit : v;
}
void set_shared_memory(size_t bytes) { g_smem_limit = bytes; }

namespace {
const char* g_name = "?";
Invoke g_invoke;
void* g_pack;
std::string g_error;
bool g_in_grid;
std::vector<Warp*> g_active;       // warps with a runnable lane
uint32_t g_ready[kMaxResident];    // the same by block slot; bit i is warp i of the block
std::vector<FiberImpl*> g_pool, g_free;
constexpr size_t kHead = 1024;
static_assert(sizeof(FiberImpl) <= kHead, "");  // the FiberImpl is above its stack
Block g_blocks[kMaxResident];
int g_finished_slot;

// ---- context switch ----
struct MainCtx {
    void* sp;
    void* fake;
    const void* bottom;
    size_t size;
} g_main;
#if HZ_UCTX
struct U {
    ucontext_t c;
};
extern "C" void hz_fiber_entry();
void ctx_make(FiberImpl* f) {
    if (!f->sp) f->sp = new U;
    auto* u = static_cast<U*>(f->sp);
    getcontext(&u->c);
    u->c.uc_stack.ss_sp = f->stack;
    u->c.uc_stack.ss_size = f->stack_size;
    u->c.uc_link = nullptr;
    makecontext(&u->c, hz_fiber_entry, 0);
}
inline void ctx_swap(void** save, void* load) {
    if (!*save) *save = new U;
    swapcontext(&static_cast<U*>(*save)->c, &static_cast<U*>(load)->c);
}
#else
extern "C" void hz_ctx_swap(void** save, void* load);
extern "C" void hz_fiber_entry();
asm(R"(
.text
.globl hz_ctx_swap
.type hz_ctx_swap,@function
hz_ctx_swap:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size hz_ctx_swap,.-hz_ctx_swap
)");
void ctx_make(FiberImpl* f) {
    auto** top = reinterpret_cast<void**>(f->stack + f->stack_size);
    *--top = nullptr;  // return address of the entry: none
    *--top = reinterpret_cast<void*>(&hz_fiber_entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;  // rbp..r15
    f->sp = top;
}
inline void ctx_swap(void** save, void* load) { hz_ctx_swap(save, load); }
#endif

NOSAN void to_main(FiberImpl* from, bool dying) {
#if HZ_ASAN
    __sanitizer_start_switch_fiber(dying ? nullptr : &from->fake, g_main.bottom, g_main.size);
#endif
    g_cur = nullptr;
    ctx_swap(&from->sp, g_main.sp);
#if HZ_ASAN
    __sanitizer_finish_switch_fiber(from->fake, nullptr, nullptr);
#endif
    (void)dying;
}
NOSAN void to_fiber(FiberImpl* from, FiberImpl* to, bool dying = false) {  // from == null: main
    ++g_stats.switches;
    g_cur = to;
    to->st = St::Running;
    if (from == to) return;
#if HZ_ASAN
    __sanitizer_start_switch_fiber(dying  ? nullptr
                                   : from ? &from->fake
                                          : &g_main.fake,
                                   to->stack, to->stack_size);
#endif
    if (from)
        ctx_swap(&from->sp, to->sp);
    else
        ctx_swap(&g_main.sp, to->sp);
#if HZ_ASAN
    __sanitizer_finish_switch_fiber(from ? from->fake : g_main.fake, nullptr, nullptr);
#endif
    (void)dying;
}

}  // namespace

// ---- scheduling ----
void make_runnable(FiberImpl* f) {
    Warp* w = f->w;
    f->st = St::Runnable;
    if (!w->runnable) {
        w->active_pos = int(g_active.size());
        g_active.push_back(w);
        g_ready[w->b->slot] |= 1u << w->index;
    }
    w->runnable |= 1u << f->lane;
}
static FiberImpl* pick() {
    if (g_active.empty()) return nullptr;
    Warp* w = g_active[0];
    if (g_policy == Uniform)
        w = g_active[rnd(uint32_t(g_active.size()))];
    else if (g_policy == Priority) {
        for (Warp* x : g_active)
            if (x->prio > w->prio) w = x;
        if (!(rnd() & 127)) w->prio = rnd() >> 1;
    } else {
        int slot = 0;
        while (!g_ready[slot]) ++slot;
        w = &g_blocks[slot].w[unsigned(__builtin_ctz(g_ready[slot]))];
    }
    unsigned lane;
    if (g_policy == Ordered)
        lane = unsigned(__builtin_ctz(w->runnable));
    else {
        unsigned r = rnd(32), m = w->runnable >> r | w->runnable << ((32 - r) & 31);
        lane = (unsigned(__builtin_ctz(m)) + r) & 31;
    }
    w->runnable &= ~(1u << lane);
    if (!w->runnable) {
        g_active[w->active_pos] = g_active.back();
        g_active.back()->active_pos = w->active_pos;
        g_active.pop_back();
        g_ready[w->b->slot] &= ~(1u << w->index);
    }
    return w->b->f[w->index * 32 + lane];
}
void suspend(FiberImpl* f) {  // f waits, or is runnable; runs another thread
    FiberImpl* n = pick();
    if (n)
        to_fiber(f, n);
    else
        to_main(f, false);
}

// Fills shared memory with NaN, without sanitizer checks.
NOSAN void poison_bytes(unsigned char* p, size_t n) {
    asm volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(0xFF) : "memory");
}

namespace {
std::string deadlock_report() {
    std::string s;
    int groups = 0;
    for (Block& b : g_blocks)
        if (b.busy) {
            std::map<std::string, std::pair<unsigned, FiberImpl*>> m;
            for (FiberImpl* f : b.f) {
                char k[512];
                if (f->st == St::Done)
                    snprintf(k, sizeof k, "exited");
                else if (f->st == St::AtWarp)
                    snprintf(k, sizeof k, "wait at %s(mask 0x%08x) %s:%d", f->what, f->mask, f->loc.file,
                             f->loc.line);
                else
                    snprintf(k, sizeof k, "wait at %s %s:%d", f->what ? f->what : "?",
                             f->loc.file ? f->loc.file : "?", f->loc.line);
                auto& e = m[k];
                if (!e.first++) e.second = f;
            }
            char h[128];
            snprintf(h, sizeof h, "%sblock (%u,%u,%u):", groups++ ? " | " : "", b.bid.x, b.bid.y, b.bid.z);
            s += h;
            for (auto& e : m) {
                char t[700];
                auto* f = e.second.second;
                snprintf(t, sizeof t, " %u threads %s (first: thread (%u,%u,%u));", e.second.first,
                         e.first.c_str(), f->tid.x, f->tid.y, f->tid.z);
                s += t;
            }
        }
    return "deadlock, no thread can run: " + s;
}

FiberImpl* get_fiber() {
    if (g_free.empty()) {
        const size_t page = 4096, step = kStack + page, most = size_t(kMaxResident) * 1024;
        if (!g_stacks_lo) {
            g_stacks_lo = static_cast<char*>(
                mmap(nullptr, most * step, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
            if (g_stacks_lo == MAP_FAILED) {
                perror("mmap");
                abort();
            }
            g_stacks_hi = g_stacks_lo + most * step;
#if HZ_ASAN
            __lsan_register_root_region(g_stacks_lo,
                                        most * step);  // FiberImpl lives there and owns heap memory
#endif
        }
        char* p = g_stacks_lo + g_pool.size() * step +
                  page;  // the page below is unmapped: a stack overflow faults
        mprotect(p, kStack, PROT_READ | PROT_WRITE);
        const size_t color =
            g_pool.size() * 320 % 8192 & ~size_t(63);  // otherwise all stacks use the same cache sets
        auto* f = new (p + kStack - kHead - color) FiberImpl;
        f->stack = p;
        f->stack_size = kStack - kHead - color;
        g_pool.push_back(f);
        g_free.push_back(f);
    }
    FiberImpl* f = g_free.back();
    g_free.pop_back();
    return f;
}


void block_start(Block& b, int slot, uint3 bid) {
    unsigned n = g_block_dim.x * g_block_dim.y * g_block_dim.z;
    b.slot = slot;
    b.bid = bid;
    b.n = b.live = n;
    b.exited = 0;
    b.busy = true;
    b.statics.clear();
    b.static_end = 16;
    b.smem = g_arena + size_t(slot) * kArena;
#if HZ_ASAN
    __asan_poison_memory_region(b.smem, kArena);
    if (g_dyn_bytes) __asan_unpoison_memory_region(b.smem + kDynOff + 1024, g_dyn_bytes);
#endif
    poison_bytes(b.smem + kDynOff + 1024, g_dyn_bytes);
    for (auto& x : b.bar) {
        x.arrived = x.expected = 0;
        x.waiting.clear();
        x.arrivers.clear();
        x.what = nullptr;
    }
    unsigned nw = (n + 31) / 32;
    b.w.resize(nw);
    b.f.resize(n);
    for (unsigned i = 0; i < nw; ++i) {
        Warp& w = b.w[i];
        w.b = &b;
        w.index = i;
        w.runnable = 0;
        w.exited = 0;
        w.prio = rnd() >> 1;
        w.exist = i + 1 < nw || n % 32 == 0 ? ~0u : (1u << (n % 32)) - 1;
        w.coll_used = 0;
        w.wg.clear();
        w.wg_group = 0;
        w.wg_fenced = false;
        w.wg_issued.clear();
        for (auto& a : w.acc) a.clear();
    }
    for (unsigned i = 0; i < n; ++i) {
        FiberImpl* f = get_fiber();
        b.f[i] = f;
        f->linear = i;
        f->warp = i / 32;
        f->lane = i % 32;
        f->bid = bid;
        f->tid.x = i % g_block_dim.x;
        f->tid.y = i / g_block_dim.x % g_block_dim.y;
        f->tid.z = i / (g_block_dim.x * g_block_dim.y);
        f->w = &b.w[i / 32];
        f->b = &b;
        f->what = nullptr;
        f->loc = Loc{nullptr, 0};
        f->red = nullptr;
        f->fake = nullptr;
        f->cp.clear();
        f->cp_head = 0;
        f->cp_group = 0;
        f->proxy_clock = 0;
        f->fenced = false;
#if HZ_ASAN
        __asan_unpoison_memory_region(f->stack, f->stack_size);
#endif
        ctx_make(f);
        make_runnable(f);
    }
    ++g_stats.blocks;
    g_stats.threads += n;
    if (g_race) g_race->block_begin(&b);
}
void block_end(Block& b) {
    for (auto* f : b.f) {
        f->st = St::Idle;
        g_free.push_back(f);
    }
    b.busy = false;
}

void thread_exit_checks(FiberImpl* f) {
    static const bool no_cp_check = getenv("HZ_EMU_NO_CP_EXIT_CHECK") != nullptr;
    if (f->cp_head < f->cp.size() && !no_cp_check) {
        const size_t i = f->cp_head;
        fail("thread exits without a wait for its cp.async copies (into %p)", f->cp[i].dst);
    }
    for (unsigned i = 0; i < 8; ++i)
        if (auto& c = f->w->coll[i]; (f->w->coll_used >> i & 1) && (c.mask >> f->lane & 1))
            fail("thread exits while its warp waits for it at %s (%s:%d)", c.what, c.loc.file, c.loc.line);
    if (f->b->bar[0].arrived)
        fail("divergent %s: thread exits while %u threads wait at %s:%d", f->b->bar[0].what,
             f->b->bar[0].arrived, f->b->bar[0].loc.file, f->b->bar[0].loc.line);
    if (!f->w->wg.empty()) fail("warp exits with wgmma in flight");
    if (f->b->exited + 1 < f->b->n) return;
    for (size_t i = 0; i < f->b->w.size(); ++i)
        if (f->b->w[i].wg_issued != f->b->w[i & ~size_t(3)].wg_issued)
            fail("wgmma: warps %zu and %zu of a warpgroup issued different instructions", i & ~size_t(3), i);
}
}  // namespace

extern "C" NOSAN void hz_fiber_entry() {
#if HZ_ASAN
    const void* b;
    size_t s;
    __sanitizer_finish_switch_fiber(nullptr, &b, &s);
    if (!g_main.bottom) {
        g_main.bottom = b;
        g_main.size = s;
    }  // the first switch comes from main
#endif
    g_invoke(g_pack);
    FiberImpl* f = cur();
    thread_exit_checks(f);
    f->st = St::Done;
    f->w->exited |= 1u << f->lane;
    ++f->b->exited;
    if (--f->b->live == 0) {
        g_finished_slot = f->b->slot;
        to_main(f, true);
    }
    FiberImpl* n = pick();
    if (n)
        to_fiber(f, n, true);
    else
        to_main(f, true);
    __builtin_trap();
}

const char* where() {
    static char buf[512];
    if (!g_cur) return "(host)";
    auto* f = g_cur;
    snprintf(buf, sizeof buf,
             "kernel '%s' <<<(%u,%u,%u),(%u,%u,%u),%zu>>> block (%u,%u,%u) thread (%u,%u,%u) seed %llu",
             g_name, g_grid_dim.x, g_grid_dim.y, g_grid_dim.z, g_block_dim.x, g_block_dim.y, g_block_dim.z,
             g_dyn_bytes, f->bid.x, f->bid.y, f->bid.z, f->tid.x, f->tid.y, f->tid.z,
             (unsigned long long)g_seed);
    return buf;
}

// In the shared library, whose C functions must not throw, a failure prints its message and aborts.
[[noreturn]] static void raise(const std::string& message) {
#if defined(HZ_EMU_LIBRARY)
    fprintf(stderr, "%s\n", message.c_str());
    abort();
#else
    throw Error(message);
#endif
}

void fail(const char* fmt, ...) {
    static char m[2048];  // the stack of the failing thread is not unwound, so it must not own memory
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(m, sizeof m, fmt, ap);
    va_end(ap);
    if (!g_cur) raise(std::string("hz-emu: ") + m);
    g_error.assign("hz-emu: ").append(where()).append(": ").append(m);
    to_main(cur(), true);
    __builtin_trap();
}

void set_seed(uint64_t s) {
    g_seed = s;
    g_rng = (s + 1) * 0x9E3779B97F4A7C15ull | 1;
    for (int i = 0; i < 8; ++i) rnd();
    g_policy = s == 0 ? Ordered : s & 1 ? Uniform : Priority;
    if (const char* p = getenv("HZ_EMU_POLICY"))
        g_policy = *p == 'o' ? Ordered : *p == 'u' ? Uniform : Priority;
}
void set_resident_blocks(int n) { g_resident_req = n; }

void allow_dynamic(const void* kernel, size_t bytes) {
    std::lock_guard held(g_max_dyn_lock);
    g_max_dyn[kernel] = bytes;
}
static size_t max_dynamic(const void* kernel) {
    std::lock_guard held(g_max_dyn_lock);
    auto it = g_max_dyn.find(kernel);
    return it == g_max_dyn.end() ? 0 : it->second;
}

Enqueue g_enqueue;
void enqueue(cudaStream_t stream, const void* kernel, Work work) {
    if (g_enqueue)
        g_enqueue(stream, kernel, new Work(std::move(work)));
    else
        work();
}

void run_grid(const char* name, const void* key, dim3 g, dim3 b, size_t smem, Invoke inv, void* pack,
              size_t pack_bytes) {
    if (g_in_grid) fail("nested launch");
    uint64_t nblk = uint64_t(g.x) * g.y * g.z;
    unsigned n = b.x * b.y * b.z;
    const size_t allowed = max_dynamic(key);
    if (!nblk || !n || n > 1024 || b.z > 64 || g.y > 65535 || g.z > 65535) {
        g_cur = nullptr;
        raise(std::string("hz-emu: ") + name + ": invalid launch configuration");
    }
    if (smem > (48u << 10) && allowed < smem)
        raise(std::string("hz-emu: ") + name +
              ": more than 48 KiB of dynamic shared memory without cudaFuncSetAttribute");
    if (smem > smem_limit())
        raise(std::string("hz-emu: ") + name + ": more dynamic shared memory than the device has");
    if (!g_arena) {
        g_arena = static_cast<unsigned char*>(
            mmap(nullptr, kMaxResident * kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (g_arena == MAP_FAILED) {
            perror("mmap");
            abort();
        }
    }
    g_name = name;
    g_block_dim = b;
    g_grid_dim = g;
    g_dyn_bytes = smem;
    g_invoke = inv;
    g_pack = pack;
    ++g_launch_no;
    g_pack_lo = pack;
    g_pack_hi = static_cast<char*>(pack) + pack_bytes;
    std::vector<uint32_t> order(nblk);
    for (uint32_t i = 0; i < nblk; ++i) order[i] = i;
    if (g_policy != Ordered)
        for (uint32_t i = uint32_t(nblk); i > 1; --i) std::swap(order[i - 1], order[rnd(i)]);
    int resident = g_resident_req ? g_resident_req : 1 + int(rnd(3));
    resident = std::min(resident, kMaxResident);
    g_active.clear();
    std::fill(std::begin(g_ready), std::end(g_ready), 0u);
    g_error.clear();
    g_in_grid = true;
    uint64_t next = 0;
    unsigned busy = 0;
    for (;;) {
        for (int s = 0; s < resident && next < nblk; ++s)
            if (!g_blocks[s].busy) {
                uint32_t i = order[next++];
                uint3 bid;
                bid.x = i % g.x;
                bid.y = i / g.x % g.y;
                bid.z = i / (g.x * g.y);
                block_start(g_blocks[s], s, bid);
                ++busy;
            }
        if (!busy) break;
        g_finished_slot = -1;
        FiberImpl* f = pick();
        if (f) to_fiber(nullptr, f);
        if (g_error.empty() && g_finished_slot < 0)
            g_error = std::string("hz-emu: kernel '") + name + "' seed " + std::to_string(g_seed) + ": " +
                      deadlock_report();
        if (!g_error.empty()) {
            for (auto& x : g_blocks)
                if (x.busy) block_end(x);
            g_active.clear();
            g_in_grid = false;
            g_atomic = g_runtime = 0;
            raise(g_error);
        }
        block_end(g_blocks[g_finished_slot]);
        --busy;
    }
    g_in_grid = false;
}

}  // namespace emu
}  // namespace hz
