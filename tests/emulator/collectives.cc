// Cooperation of the threads of a block: barriers, warp collectives, shared memory, asynchronous copies, mma and wgmma.
#include "emu_internal.h"
#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace hz {
namespace emu {

static inline bool differ(const char* a, const char* b) { return a != b && strcmp(a, b) != 0; }

// ---- block barriers ----
void barrier(int id, int threads, bool arrive_only, const char* what, Loc loc, int* red, int red_op) {
    FiberImpl* f = cur();
    Block* b = f->b;
    Barrier& r = b->bar[id & 15];
    unsigned expect = id == 0 && threads == 0 ? b->n : unsigned(threads);
    if (id && (threads <= 0 || threads % 32))
        fail("%s: thread count %d is not a multiple of 32", what, threads);
    if (id == 0 && b->exited)
        fail("divergent %s at %s:%d: %u threads of the block have already exited", what, loc.file, loc.line,
             b->exited);
    if (!r.arrived) {
        r.expected = expect;
        r.loc = loc;
        r.what = what;
        r.op = red_op;
        r.acc = red ? (red_op == 3 ? 1 : 0) : 0;
    } else {
        if (r.expected != expect)
            fail("%s(%d): thread counts differ (%u and %u)", what, id, r.expected, expect);
        if (id == 0 && (r.loc.line != loc.line || differ(r.loc.file, loc.file) || r.op != red_op))
            fail("divergent %s: %u threads wait at %s:%d, this one at %s:%d", what, r.arrived, r.loc.file,
                 r.loc.line, loc.file, loc.line);
    }
    if (red) {
        if (red_op == 1)
            r.acc += *red;
        else if (red_op == 2)
            r.acc |= *red;
        else
            r.acc &= *red;
    }
    ++r.arrived;
    if (arrive_only)
        r.arrivers.push_back(f);
    else {
        f->red = red;
        f->what = what;
        f->loc = loc;
        f->st = St::AtBarrier;
        r.waiting.push_back(f);
    }
    if (r.arrived == r.expected) {
        r.arrived = 0;
        if (g_race) {
            std::vector<FiberImpl*> all(r.waiting);
            all.insert(all.end(), r.arrivers.begin(), r.arrivers.end());
            g_race->join(all.data(), unsigned(r.waiting.size()), unsigned(all.size()), id == 0);
        }
        for (FiberImpl* x : r.waiting) {
            if (x->red) *x->red = r.acc;
            x->red = nullptr;
            make_runnable(x);
        }
        r.waiting.clear();
        r.arrivers.clear();
        if (g_policy == Priority && (rnd() & 1))
            for (auto& w : b->w) w.prio = rnd() >> 1;
    }
    if (!arrive_only) suspend(f);
}

// ---- warp collectives ----
void collective(int op, const char* what, unsigned mask, void* payload, CollFn fn, Loc loc, bool aligned) {
    FiberImpl* f = cur();
    Warp* w = f->w;
    ++g_stats.collectives;
    if (!(mask >> f->lane & 1))
        fail("%s at %s:%d: the calling lane is not in mask 0x%08x", what, loc.file, loc.line, mask);
    if (mask & ~w->exist)
        fail("%s at %s:%d: mask 0x%08x names lanes the block does not have", what, loc.file, loc.line, mask);
    if (mask & w->exited)
        fail("%s at %s:%d: lanes 0x%08x of the mask have exited", what, loc.file, loc.line, mask & w->exited);
    Coll* c = nullptr;
    for (unsigned m = w->coll_used; m; m &= m - 1) {
        Coll& x = w->coll[__builtin_ctz(m)];
        if (!(x.mask >> f->lane & 1)) continue;
        if (x.mask != mask || x.op != op || x.fn != fn ||
            (aligned && (x.loc.line != loc.line || differ(x.loc.file, loc.file))))
            fail(
                "divergent warp: lanes 0x%08x wait at %s(mask 0x%08x) %s:%d, lane %u is at %s(mask 0x%08x) %s:%d",
                x.arrived, x.what, x.mask, x.loc.file, x.loc.line, f->lane, what, mask, loc.file, loc.line);
        c = &x;
    }
    if (!c) {
        if (w->coll_used == 0xff) fail("too many warp collectives in flight");
        const unsigned i = unsigned(__builtin_ctz(~w->coll_used));
        c = &w->coll[i];
        w->coll_used |= 1u << i;
        c->op = op;
        c->mask = mask;
        c->arrived = 0;
        c->what = what;
        c->loc = loc;
        c->fn = fn;
        for (auto& p : c->payload) p = nullptr;
    }
    static int dummy;
    c->payload[f->lane] = payload ? payload : &dummy;
    c->arrived |= 1u << f->lane;
    f->what = what;
    f->loc = loc;
    f->mask = mask;
    f->st = St::AtWarp;
    if (c->arrived != mask) {
        suspend(f);
        return;
    }
    if (fn) {
        ++g_runtime;
        fn(c->payload, mask);
        --g_runtime;
    }
    w->coll_used &= ~(1u << (c - w->coll));
    FiberImpl* js[32];
    unsigned n = 0;
    for (unsigned m = mask; m; m &= m - 1) js[n++] = w->b->f[w->index * 32 + unsigned(__builtin_ctz(m))];
    if (g_race && op == OpSyncwarp) g_race->join(js, n, n, false);
    for (unsigned i = 0; i < n; ++i)
        if (js[i] != f) make_runnable(js[i]);
    f->st = St::Running;  // the last lane to arrive continues; which one that is depends on the seed
    if (g_policy == Ordered) {
        make_runnable(f);
        suspend(f);
    }
}
void yield() {
    make_runnable(cur());
    suspend(cur());
}

// ---- shared memory ----
void* shared_static(const void* key, size_t bytes, size_t align, const char* name) {
    Block* b = cur()->b;
    for (auto& s : b->statics)
        if (s.key == key) return b->smem + s.off;
    size_t off = (b->static_end + 32 + align - 1) & ~(align - 1);
    if ((off & (2 * align - 1)) == 0) off += align;  // never better aligned than declared
    b->static_end = off + bytes;
    if (b->static_end > (48u << 10) + 64 * b->statics.size() + 256)
        fail("more than 48 KiB of static shared memory");
#if HZ_ASAN
    __asan_unpoison_memory_region(b->smem + off, bytes);
#endif
    poison_bytes(b->smem + off, bytes);
    b->statics.push_back({key, off, bytes, name});
    return b->smem + off;
}
unsigned char* shared_dynamic(size_t align, const char*) {
    (void)align;  // fixed, 1024-byte aligned
    return cur()->b->smem + kDynOff + 1024;
}
bool is_shared(const void* p) {
    auto* c = static_cast<const unsigned char*>(p);
    Block* b = cur()->b;
    return c >= b->smem && c < b->smem + kArena;
}
unsigned shared_offset(const void* p) {
    if (!is_shared(p)) fail("%p is not in this block's shared memory", p);
    return unsigned(static_cast<const unsigned char*>(p) - cur()->b->smem);
}
void check_shared(const void* p, size_t n, size_t align, const char* what) {
    if (!is_shared(p)) fail("%s: %p is not in this block's shared memory", what, p);
    if (reinterpret_cast<uintptr_t>(p) & (align - 1)) fail("%s: %p is not %zu-byte aligned", what, p, align);
    auto* c = static_cast<const unsigned char*>(p);
    Block* b = cur()->b;
    size_t off = size_t(c - b->smem);
    bool ok = off >= kDynOff + 1024 && off + n <= kDynOff + 1024 + g_dyn_bytes;
    for (auto& s : b->statics) ok |= off >= s.off && off + n <= s.off + s.bytes;
    if (!ok) fail("%s: bytes [%zu,%zu) of shared memory belong to no variable", what, off, off + n);
}

// ---- cp.async ----
void cp_async_push(const CpReq& r) {
    FiberImpl* f = cur();
    f->cp.push_back(r);
    f->cp.back().group = f->cp_group;
}
void cp_async_commit_group() { ++cur()->cp_group; }
bool cp_async_pop(unsigned keep, CpReq* out) {
    FiberImpl* f = cur();
    if (f->cp_head < f->cp.size() && f->cp[f->cp_head].group + keep < f->cp_group) {
        *out = f->cp[f->cp_head++];
        return true;
    }
    if (f->cp_head == f->cp.size()) {
        f->cp.clear();
        f->cp_head = 0;
    }
    return false;
}
void note_proxy_fence() {
    if (g_race) g_race->proxy_fence(cur());
}

// ---- mma ----
static inline float bf(uint32_t h) { return bits<float>(h << 16); }
__attribute__((noinline)) static void mma_16816(const float A[16][16], const float B[16][8], float C[16][8]) {
    for (int i = 0; i < 16; ++i)
        for (int k = 0; k < 16; ++k) {
            float a = A[i][k];
            for (int j = 0; j < 8; ++j) C[i][j] += a * B[k][j];
        }
}
void mma_fn(void* const* L, unsigned) {
    ++g_stats.mmas;
    float A[16][16], B[16][8], C[16][8];
    for (int l = 0; l < 32; ++l) {
        auto* p = static_cast<MmaP*>(L[l]);
        int g = l >> 2, t = 2 * (l & 3);
        for (int i = 0; i < 4; ++i) {
            int r = g + (i & 1) * 8, k = t + (i >> 1) * 8;
            A[r][k] = bf(p->a[i] & 0xffff);
            A[r][k + 1] = bf(p->a[i] >> 16);
        }
        for (int i = 0; i < 2; ++i) {
            B[t + 8 * i][g] = bf(p->b[i] & 0xffff);
            B[t + 8 * i + 1][g] = bf(p->b[i] >> 16);
        }
        C[g][t] = p->d[0];
        C[g][t + 1] = p->d[1];
        C[g + 8][t] = p->d[2];
        C[g + 8][t + 1] = p->d[3];
    }
    mma_16816(A, B, C);
    for (int l = 0; l < 32; ++l) {
        auto* p = static_cast<MmaP*>(L[l]);
        int g = l >> 2, t = 2 * (l & 3);
        p->d[0] = C[g][t];
        p->d[1] = C[g][t + 1];
        p->d[2] = C[g + 8][t];
        p->d[3] = C[g + 8][t + 1];
    }
}

// ---- wgmma: each warp of a warpgroup owns 16 of the 64 rows, so it is emulated as a warp collective. Every warp
// reads all of the memory of a descriptor, until the wait. ----
void wgmma_fence_fn(void* const*, unsigned) { cur()->w->wg_fenced = true; }
void wgmma_commit_fn(void* const*, unsigned) { ++cur()->w->wg_group; }
enum Use { Issue, Read };
// A 16-byte chunk of a tile. Rows have 128 bytes, swizzled; 8 rows are 1024 bytes; chunks 8 and above are in the next
// panel.
static const unsigned char* tile_chunk(uint64_t desc, int row, int chunk, Use use) {
    Block* b = cur()->b;
    if ((desc >> 62) != 1 || ((desc >> 32) & 0x3fff) != 64 || ((desc >> 49) & 7))
        fail("wgmma: descriptor 0x%llx is not emulated", (unsigned long long)desc);
    size_t a = ((desc & 0x3fff) << 4) + size_t(row / 8) * 1024 + size_t(row % 8) * 128 + size_t(chunk % 8) * 16 +
               size_t(chunk / 8) * ((desc >> 16 & 0x3fff) << 4);
    a ^= (a >> 7 & 7) << 4;  // the swizzle is on address bits
    check_shared(b->smem + a, 16, 16, "wgmma operand");
    if (g_race) (use == Issue ? g_race->async_check : g_race->async_read)(cur(), b->smem + a, 16);
    return b->smem + a;
}
// Calls f for the chunks of the operands: A, 64 x 16, if it is in shared memory; B, n x 16 or 16 x n.
template <class F>
static void for_chunks(const WgOp& op, F f) {
    if (!op.registers[0])
        for (int r = 0; r < 64; ++r)
            for (int c = 0; c < 2; ++c) f(op.a, r, c);
    const int rows = op.transposed ? op.n : 16, chunks = op.transposed ? 2 : op.n / 8;
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < chunks; ++c) f(op.b, r, c);
}
void wgmma_issue_fn(void* const* L, unsigned) {
    Warp* w = cur()->w;
    WgOp op{};
    auto* p0 = static_cast<WgP*>(L[0]);
    if (!w->wg_fenced) fail("wgmma without a preceding wgmma.fence");
    op.a = p0->a;
    op.b = p0->b;
    op.n = p0->n;
    op.transposed = p0->transposed;
    op.add = p0->add;
    op.group = w->wg_group;
    const size_t values = size_t(op.n) / 2;
    for (int l = 0; l < 32; ++l) {
        auto* p = static_cast<WgP*>(L[l]);
        op.d[l] = p->d;
        op.registers[l] = p->registers;
        if (p->registers) memcpy(op.held[l], p->registers, sizeof op.held[l]);
        if (p->a != p0->a || p->b != p0->b || p->add != p0->add) fail("wgmma: lanes disagree on descriptors");
        bool have = false;
        for (auto& a : w->acc[l]) have |= a.d == p->d;
        if (!have) w->acc[l].push_back({p->d, std::vector<float>(p->d, p->d + values)});
        for (size_t i = 0; i < values; ++i) p->d[i] = bits<float>(0xffffffffu);  // in flight: NaN until the wait
    }
    for_chunks(op, [](uint64_t desc, int r, int c) { tile_chunk(desc, r, c, Issue); });
    w->wg.push_back(op);
    w->wg_issued.insert(w->wg_issued.end(), {op.a, op.b, uint64_t(op.n) << 2 | uint64_t(op.transposed) << 1 | uint64_t(op.add)});
}
static void wgmma_compute(Warp* w, const WgOp& op) {
    static float A[16][16], B[16][128], C[16][128];
    if (g_race) for_chunks(op, [&](uint64_t desc, int r, int c) { tile_chunk(desc, r, c, Read); });
    auto eight = [](uint64_t desc, int r, int c, auto to) {
        uint16_t t[8];
        memcpy(t, tile_chunk(desc, r, c, Read), 16);
        for (int e = 0; e < 8; ++e) to(e) = bf(t[e]);
    };
    if (op.registers[0]) {
        for (int l = 0; l < 32; ++l) {
            if (memcmp(op.registers[l], op.held[l], sizeof op.held[l])) fail("wgmma: A's registers changed before the wait");
            for (int i = 0; i < 4; ++i) {
                const int r = (l >> 2) + (i & 1) * 8, k = 2 * (l & 3) + (i >> 1) * 8;
                A[r][k] = bf(op.held[l][i] & 0xffff);
                A[r][k + 1] = bf(op.held[l][i] >> 16);
            }
        }
    } else {
        const int r0 = int(w->index & 3) * 16;
        for (int c = 0; c < 2; ++c)
            for (int r = 0; r < 16; ++r) eight(op.a, r0 + r, c, [&](int e) -> float& { return A[r][c * 8 + e]; });
    }
    if (op.transposed) {
        for (int c = 0; c < 2; ++c)
            for (int n = 0; n < op.n; ++n) eight(op.b, n, c, [&](int e) -> float& { return B[c * 8 + e][n]; });
    } else {
        for (int k = 0; k < 16; ++k)
            for (int c = 0; c < op.n / 8; ++c) eight(op.b, k, c, [&](int e) -> float& { return B[k][c * 8 + e]; });
    }
    auto at = [&](int l) -> std::vector<float>& {
        for (auto& a : w->acc[l])
            if (a.d == op.d[l]) return a.v;
        abort();
    };
    auto c_of = [&](int l, int i) -> float& {
        return C[(l >> 2) + (i >> 1 & 1) * 8][(i >> 2) * 8 + 2 * (l & 3) + (i & 1)];
    };
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < op.n / 2; ++i) c_of(l, i) = op.add ? at(l)[size_t(i)] : 0.f;
    for (int i = 0; i < 16; ++i)
        for (int k = 0; k < 16; ++k)
            // In groups of 8, which the compiler vectorizes.
            for (int n = 0; n < op.n; n += 8)
                for (int j = 0; j < 8; ++j) C[i][n + j] += A[i][k] * B[k][n + j];
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < op.n / 2; ++i) at(l)[size_t(i)] = c_of(l, i);
}
void wgmma_wait_fn(void* const* L, unsigned) {
    Warp* w = cur()->w;
    unsigned keep = unsigned(static_cast<WgP*>(L[0])->keep);
    size_t done = 0;
    for (; done < w->wg.size() && w->wg[done].group + keep < w->wg_group; ++done) wgmma_compute(w, w->wg[done]);
    w->wg.erase(w->wg.begin(), w->wg.begin() + long(done));
    for (int l = 0; l < 32; ++l)
        for (size_t i = 0; i < w->acc[l].size();) {
            auto& a = w->acc[l][i];
            bool pending = false;
            for (auto& op : w->wg) pending |= op.d[l] == a.d;
            if (pending) {
                ++i;
                continue;
            }
            std::copy(a.v.begin(), a.v.end(), a.d);
            w->acc[l].erase(w->acc[l].begin() + long(i));
        }
    w->wg_fenced = false;
}

}  // namespace emu
}  // namespace hz
