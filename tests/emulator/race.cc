// Access checker of the race build: kernels are compiled with g++ -fsanitize=thread, but linked with these hooks
// instead of libtsan. Every load and store of a kernel is checked against the happens-before order of CUDA:
// __syncthreads, named barriers and __syncwarp order memory; shuffles, votes, ldmatrix and mma do not. Also finds
// reads of uninitialized shared or global memory, accesses outside all device buffers, and races between blocks.
#include "emu_internal.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <sys/mman.h>
#include <unistd.h>

extern "C" char __executable_start, end;

namespace hz {
namespace emu {
namespace {
struct Acc {
    uint32_t block = 0, clk = 0, pc = 0;
    uint16_t tid = 0;
    uint16_t atomic = 0;
};  // block 0: empty
struct Cell {
    Acc w, r[3];
};  // one per byte, 64 bytes
static_assert(sizeof(Cell) == 64, "");
struct Clocks {
    uint32_t serial = 0, gen = 0;
    std::vector<uint32_t> clk, base, vcgen;
    std::vector<std::vector<uint32_t>> vc;
    std::set<uint32_t> seen;
};  // seen: blocks acquired through an atomic
Clocks g_ck[kMaxResident];
std::map<const void*, std::set<uint32_t>>
    g_released;  // atomic variable -> blocks that fenced and then touched it
uint32_t g_serial = 0, g_launch_first = 1, g_launch_seen = 0;
Cell* g_scell;  // shadow of the shared arena
struct Buf {
    char *lo, *hi;
    Cell* cell;
    bool* init;  // true for written bytes
};
std::map<char*, Buf> g_bufs;
Buf* g_last;

void* zeros(size_t n) {
    void* p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        abort();
    }
    return p;
}
void block_begin(Block* b) {
    if (g_launch_seen != g_launch_no) {
        g_launch_seen = g_launch_no;
        g_launch_first = g_serial + 1;
        g_released.clear();
    }
    Clocks& k = g_ck[b->slot];
    k.serial = ++g_serial;
    k.gen = 1;
    k.seen.clear();
    k.clk.assign(b->n, 1);
    k.base.assign(b->n, 0);
    k.vcgen.assign(b->n, 0);
    k.vc.resize(b->n);
}
uint32_t* vc_of(Clocks& k, unsigned t) {
    if (k.vcgen[t] != k.gen) {
        k.vc[t].assign(k.clk.size(), 0);
        k.vcgen[t] = k.gen;
    }
    return k.vc[t].data();
}
void join(FiberImpl* const* f, unsigned n_acq, unsigned n_rel, bool whole) {
    Clocks& k = g_ck[f[0]->b->slot];
    const unsigned n = unsigned(k.clk.size());
    if (whole && n_rel == n) {
        k.base = k.clk;
        for (auto& c : k.clk) ++c;
        ++k.gen;
        return;
    }
    static std::vector<uint32_t> m;
    m.assign(n, 0);
    for (unsigned i = 0; i < n_rel; ++i) {
        const unsigned t = f[i]->linear;
        if (k.vcgen[t] == k.gen) {
            const uint32_t* v = k.vc[t].data();
            for (unsigned j = 0; j < n; ++j) m[j] = std::max(m[j], v[j]);
        }
        m[t] = std::max(m[t], k.clk[t]);
    }
    for (unsigned i = 0; i < n_acq; ++i) {
        uint32_t* v = vc_of(k, f[i]->linear);
        for (unsigned j = 0; j < n; ++j) v[j] = std::max(v[j], m[j]);
    }
    for (unsigned i = 0; i < n_rel; ++i) ++k.clk[f[i]->linear];
}
void proxy_fence(FiberImpl* f) {
    Clocks& k = g_ck[f->b->slot];
    f->proxy_clock = k.clk[f->linear]++;
}

// True if access a happens before the current access of thread f.
inline bool ordered(const Acc& a, const FiberImpl* f, const Clocks& k, bool shared) {
    if (a.block != k.serial)
        return shared || a.block < g_launch_first ||
               (!k.seen.empty() &&
                k.seen.count(a.block));  // an earlier tile or launch; seen by an atomic
    if (a.tid == f->linear || a.clk <= k.base[a.tid]) return true;
    return k.vcgen[f->linear] == k.gen && k.vc[f->linear][a.tid] >= a.clk;
}
std::string src(uint32_t pc) {
    if (!pc) return "?";
    char cmd[256], exe[200];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n < 0) return "?";
    exe[n] = 0;
    snprintf(cmd, sizeof cmd, "addr2line -i -e %s 0x%x 2>/dev/null", exe, pc - 1);
    std::string out;
    char line[512];
    if (FILE* p = popen(cmd, "r")) {
        while (fgets(line, sizeof line, p)) {  // innermost frame that is not in the emulation header
            line[strcspn(line, " \n")] = 0;
            if (!strstr(line, "/emu.h:")) {
                const char* s = strrchr(line, '/');
                out = s ? s + 1 : line;
                break;
            }
        }
        pclose(p);
    }
    return out.empty() ? "?" : out;
}
inline uint32_t pc32(void* pc) { return uint32_t(static_cast<char*>(pc) - &__executable_start); }

[[noreturn]] void race(const char* mem, size_t off, const Acc& o, bool o_write, bool w, void* pc) {
    std::string a = src(pc32(pc)), b = src(o.pc);
    static char other[64];
    if (o.block == g_ck[cur()->b->slot].serial)
        snprintf(other, sizeof other, "thread %u", o.tid);
    else
        snprintf(other, sizeof other, "thread %u of another block", o.tid);
    static char buf[1024];
    snprintf(buf, sizeof buf, "race on %s byte %zu: %s at %s is unordered with the %s at %s by %s", mem, off,
             w ? "write" : "read", a.c_str(), o_write ? "write" : "read", b.c_str(), other);
    a = b = std::string();
    fail("%s", buf);
}
[[noreturn]] void bad(const char* what, const void* p, size_t n, bool w, void* pc) {
    static char buf[300];
    {
        std::string s = src(pc32(pc));
        snprintf(buf, sizeof buf, "%s", s.c_str());
    }
    fail("%s: %zu-byte %s of %p at %s", what, n, w ? "write" : "read", p, buf);
}

void check(Cell* c, size_t n, bool w, const char* mem, size_t off, FiberImpl* f, Clocks& k, void* pc,
           bool shared) {
    Acc me;
    me.block = k.serial;
    me.clk = k.clk[f->linear];
    me.pc = pc32(pc);
    me.tid = uint16_t(f->linear);
    me.atomic = g_atomic > 0;
    for (size_t i = 0; i < n; ++i) {
        Cell& x = c[i];
        if (shared && pc && !w && x.w.block != k.serial)
            bad("read of uninitialized shared memory", reinterpret_cast<void*>(off + i), n, w, pc);
        if (!ordered(x.w, f, k, shared) && !(me.atomic && x.w.atomic)) race(mem, off + i, x.w, true, w, pc);
        if (w) {
            for (const Acc& r : x.r)
                if (!ordered(r, f, k, shared) && !(me.atomic && r.atomic))
                    race(mem, off + i, r, false, w, pc);
            x.w = me;
            x.r[0].block = x.r[1].block = x.r[2].block = 0;
        } else {
            // r[0]: first reader, r[1]: another lane of its warp, r[2]: another warp or block
            auto stale = [&](const Acc& a) {
                return (a.block == me.block && a.tid == me.tid) || ordered(a, f, k, shared);
            };
            if (stale(x.r[0]))
                x.r[0] = me;
            else if (x.r[0].block == me.block && x.r[0].tid / 32 == me.tid / 32) {
                if (stale(x.r[1])) x.r[1] = me;
            } else
                x.r[2] = me;
        }
    }
}
void access(const void* p, size_t n, bool w, void* pc) {
    FiberImpl* f = cur();
    char* a = static_cast<char*>(const_cast<void*>(p));
    if (!f || g_runtime || (a >= g_stacks_lo && a < g_stacks_hi)) return;
    Clocks& k = g_ck[f->b->slot];
    char* ar = reinterpret_cast<char*>(g_arena);
    if (a >= ar && a < ar + kMaxResident * kArena) {
        Block* b = f->b;
        size_t off = size_t(a - reinterpret_cast<char*>(b->smem));
        if (off >= kArena) bad("shared memory of another block", p, n, w, pc);
        bool ok = off >= kDynOff + 1024 && off + n <= kDynOff + 1024 + g_dyn_bytes;
        if (!ok)
            for (auto& s : b->statics)
                if (off >= s.off && off + n <= s.off + s.bytes) {
                    ok = true;
                    break;
                }
        if (!ok) bad("outside all shared variables", p, n, w, pc);
        if (!g_scell) g_scell = static_cast<Cell*>(zeros(kMaxResident * kArena * sizeof(Cell)));
        check(g_scell + (a - ar), n, w, "shared memory", off >= kDynOff ? off - kDynOff - 1024 : off, f, k,
              pc, true);
        return;
    }
    if (!(g_last && a >= g_last->lo && a < g_last->hi)) {
        auto it = g_bufs.upper_bound(a);
        g_last = nullptr;
        if (it != g_bufs.begin() && a < (--it)->second.hi) g_last = &it->second;
    }
    if (g_last) {
        Buf& b = *g_last;
        size_t off = size_t(a - b.lo);
        if (a + n > b.hi) bad("past the end of a device buffer", p, n, w, pc);
        if (w)
            for (size_t i = 0; i < n; ++i) b.init[off + i] = true;
        else
            for (size_t i = 0; i < n; ++i)
                if (!b.init[off + i]) bad("read of uninitialized device memory", p, n, w, pc);
        check(b.cell + off, n, w, "device memory", off, f, k, pc, false);
        return;
    }
    if (a >= static_cast<const char*>(g_pack_lo) && a < static_cast<const char*>(g_pack_hi)) return;
    if (a >= &__executable_start && a < &end) return;  // constants, __constant__ tables
    bad("access outside all device buffers", p, n, w, pc);
}
void async_check(FiberImpl* f, const void* p, size_t n) {
    Clocks& k = g_ck[f->b->slot];
    size_t off = size_t(static_cast<const unsigned char*>(p) - g_arena);
    for (size_t i = 0; i < n; ++i) {
        const Acc& w = g_scell[off + i].w;
        if (w.block != k.serial) fail("wgmma operand: uninitialized shared memory");
        if (!ordered(w, f, k, true)) {
            static char s[128];
            {
                std::string t = src(w.pc);
                snprintf(s, sizeof s, "%s", t.c_str());
            }
            fail("wgmma operand: unordered with the write at %s by thread %u", s, w.tid);
        }
        if (w.clk > f->b->f[w.tid]->proxy_clock) {
            static char s[128];
            {
                std::string t = src(w.pc);
                snprintf(s, sizeof s, "%s", t.c_str());
            }
            fail("wgmma operand: no fence.proxy.async after the write at %s by thread %u", s, w.tid);
        }
    }
}
void async_read(FiberImpl* f, const void* p, size_t n) {
    check(g_scell + (static_cast<const unsigned char*>(p) - g_arena), n, false, "shared memory (wgmma)", 0, f,
          g_ck[f->b->slot], nullptr, true);
}
void on_atomic(
    const void* p) {  // __threadfence + atomic: releases the block's writes to later atomics on the variable
    FiberImpl* f = cur();
    Clocks& k = g_ck[f->b->slot];
    auto& r = g_released[p];
    k.seen.insert(r.begin(), r.end());
    if (f->fenced) {
        r.insert(k.seen.begin(), k.seen.end());
        r.insert(k.serial);
        f->fenced = false;
    }
}
void alloc(void* p, size_t n) {
    char* c = static_cast<char*>(p);
    g_bufs[c] = Buf{c, c + n, static_cast<Cell*>(zeros((n + 1) * sizeof(Cell))),
                    static_cast<bool*>(zeros(n + 1))};
    g_last = nullptr;
}
void release(void* p) {
    auto it = g_bufs.find(static_cast<char*>(p));
    const size_t n = size_t(it->second.hi - it->second.lo);
    munmap(it->second.cell, (n + 1) * sizeof(Cell));
    munmap(it->second.init, n + 1);
    g_bufs.erase(it);
    g_last = nullptr;
}
void init(void* p, size_t n) {
    char* a = static_cast<char*>(p);
    auto it = g_bufs.upper_bound(a);
    if (it == g_bufs.begin()) return;
    --it;
    for (size_t i = 0; i < n && a + i < it->second.hi; ++i)
        it->second.init[size_t(a + i - it->second.lo)] = true;
}
RaceHooks hooks = {block_begin, join, proxy_fence, async_check, async_read, alloc, release, init};
struct Install {
    Install() {
        g_race = &hooks;
        g_on_atomic = on_atomic;
    }
} install;
}  // namespace
void race_access(const void* p, size_t n, bool w, void* pc, size_t align) {
    if (__builtin_expect(reinterpret_cast<uintptr_t>(p) & (align - 1), 0) && g_cur && !g_runtime)
        bad("misaligned access", p, n, w, pc);
    access(p, n, w, pc);
}
}  // namespace emu
}  // namespace hz

#define A(w, n) hz::emu::race_access(p, n, w, __builtin_return_address(0), 1)
#define AL(w, n) hz::emu::race_access(p, n, w, __builtin_return_address(0), n)
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
#define RW(n)                                               \
    void __tsan_read##n(void* p) { AL(false, n); }          \
    void __tsan_write##n(void* p) { AL(true, n); }          \
    void __tsan_unaligned_read##n(void* p) { A(false, n); } \
    void __tsan_unaligned_write##n(void* p) { A(true, n); } \
    void __tsan_volatile_read##n(void* p) { A(false, n); }  \
    void __tsan_volatile_write##n(void* p) { A(true, n); }
RW(1) RW(2) RW(4) RW(8) RW(16) void __tsan_read_range(void* p, size_t n) { A(false, n); }
void __tsan_write_range(void* p, size_t n) { A(true, n); }
}
