/*
 * horizon.h - train large language models on one accelerator, with the whole model in host RAM.
 *
 * This header is the contract of libhorizon and its manual. It is plain C11 and C++17.
 *
 * ==================================================================================================
 * WHAT THE LIBRARY DOES
 *
 * Host RAM owns the model: weights, what makes them whole f32 numbers, gradients, AdamW's moments. The
 * device is a place that layers stream through; it needs room for two layers, not for the model. A
 * "step" uploads each layer once, carries every micro-batch of the step through it, brings its gradient
 * back once, and then updates every parameter on the CPU.
 *
 * A program trains like this (every call returns a status, see ERRORS):
 *
 *     hz_model_config_t    model   = HZ_MODEL_CONFIG_INIT;
 *     hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
 *     hz_batch_t           batch   = HZ_BATCH_INIT;
 *     hz_step_report_t     report  = HZ_STEP_REPORT_INIT;
 *     hz_trainer_t        *trainer = NULL;
 *
 *     hz_model_config_from_preset("tiny", &model);
 *     options.sequences       = 8;                              // B, sequences of a micro-batch
 *     options.sequence_length = 128;                            // T, tokens of a sequence
 *     hz_trainer_open(&model, &options, &trainer);              // takes all memory, or refuses
 *     hz_trainer_init(trainer, 1);                              // fresh weights from seed 1
 *     for (...) {
 *         batch.rows = 8 * 128; batch.tokens = ...; batch.targets = ...;
 *         hz_trainer_step(trainer, &batch, 1, 3e-4, &report);   // report.loss, report.grad_norm
 *     }
 *     hz_trainer_export_hf(trainer, "out", HZ_DTYPE_BF16);      // a folder Hugging Face loads
 *     hz_trainer_close(trainer);
 *
 * To start from a Hugging Face folder: hz_model_config_from_hf, hz_trainer_open, hz_trainer_load_hf. To go on where a
 * run was stopped, to the last bit: hz_trainer_save_to, hz_trainer_resume.
 *
 * AdamW and large host memory can be had without the rest: see "AdamW alone" and "Arena" at the end.
 *
 * Against an installed library: cc train.c $(pkg-config --cflags --libs horizon)
 * Against a build tree:         cc -Iinclude train.c -Ltarget/release -lhorizon -Wl,-rpath,$PWD/target/release
 *
 * ==================================================================================================
 * WORDS AND UNITS
 *
 * A micro-batch is B sequences of T tokens, N = B*T rows; a step is 1 .. micros_max micro-batches and
 * one update. Arrays are row-major and dense. V is the vocabulary. Sizes named *_bytes and *_mem are
 * bytes; counts are elements, never bytes. Losses are in nats. A sequence's target row t is the token that
 * should follow token t; target -100 is ignored.
 *
 * ==================================================================================================
 * OWNERSHIP
 *
 * Whoever opens a handle closes it. The library keeps no pointer that a caller passes in (except the log
 * callback and its user pointer): every array and string is copied, or done with, before a call returns.
 * A `const char *` that the library hands out belongs to the library: the handle it came from keeps it
 * alive and unchanged until that handle is closed, and hz_last_error says how long its text lives.
 * Strings are NUL-terminated UTF-8 both ways; file names are taken as they are.
 *
 * Pointers must be aligned for their type. Passing NULL where a pointer is not marked "or NULL" gives
 * HZ_STATUS_INVALID_ARGUMENT. A pointer that is neither NULL nor valid, or a handle after its close, is
 * undefined, as in all of C.
 *
 * ==================================================================================================
 * STRUCTS THAT STATE THEIR SIZE
 *
 * Every struct here begins with `uint32_t struct_size`, and has a macro HZ_..._INIT which sets it, and
 * sets every other field to its default. Initialise with the macro, then change what you want:
 *
 *     hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
 *
 * That holds for structs the library fills in, too. It lets a program and a library of different ages
 * work together: later versions only append fields.
 *   - A program older than the library passes a smaller struct_size: the library takes the default for
 *     each field behind it, and writes none of them.
 *   - A program newer than the library passes a larger struct_size: in an input, the part the library does not
 *     know must be zero bytes (fields appended later mean "default" when zero), else the call is refused,
 *     since ignoring a wish in silence would be worse; in an output, that part is set to zero.
 *   - A struct_size that ends inside a field, or beyond 4096, is refused: it was never initialised.
 *
 * In an array of structs all elements have the same struct_size; it is the distance between them.
 *
 * ==================================================================================================
 * THREADS
 *
 * The library starts threads of its own (five lanes and a pool of workers for each trainer), which end when the
 * trainer is closed. A trainer is used by one thread at a time, not always the same one. A second call made
 * while one is running is refused with HZ_STATUS_INVALID_STATE and changes nothing; it does not wait.
 * Different handles are independent. A plan never changes: any number of threads may read it; several threads may
 * step different arrays with one hz_adam_t. Functions
 * without a handle may be called from any thread at any time. Closing a handle while another thread uses it
 * is a mistake that the library cannot always catch. Each function below names its exceptions.
 *
 * Trainers and optimizers do not survive fork() in the child. Do not dlclose() the library.
 *
 * ==================================================================================================
 * WHAT A CALL WAITS FOR
 *
 * hz_trainer_update and hz_trainer_step return when the loss and the gradient norm of the step are known.
 * AdamW may then still be running on the library's threads; the next step overlaps with it. Calls that need
 * its result wait for it by themselves, most of them for the part of it that they touch: each says below what it
 * waits for. Steps, evaluations, reads and writes follow one another in any order, without a barrier between them.
 * To time whole steps, or before exit, call hz_trainer_sync, which waits for the lanes.
 *
 * ==================================================================================================
 * ERRORS
 *
 * Every function that can fail returns an hz_status_t; 0 is success. hz_last_error gives a sentence that
 * says what was sought, what was found, and what to do. On failure no output parameter is written and,
 * unless said otherwise, nothing has changed.
 *
 * A failure of class 3xx during work (HZ_STATUS_DEVICE_FAILED) or 9xx (a bug of the library) fails the
 * trainer, and so does a state that hz_trainer_resume could not read to its end: what it holds is no longer known to
 * be right. Every later call that would use that state gives the same
 * status and the same message again, the first error, until hz_trainer_close, which always works.
 * All other errors leave the trainer usable.
 *
 * The library does not print, exit, abort, raise or catch signals, or read environment variables that
 * change results. A panic inside it is stopped at this border and becomes HZ_STATUS_PANIC. Large memory is taken in
 * hz_trainer_open and refused politely; only the failure of a small allocation (some KiB of bookkeeping), which
 * Linux practically never reports, ends the process.
 */
#ifndef HORIZON_H
#define HORIZON_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) || defined(__clang__)
#define HZ_API __attribute__((visibility("default")))
#else
#define HZ_API
#endif

/* ==================================================================================================
 * Version
 */

/* The version of the library this header came with. */
#define HZ_VERSION "0.1.0"

/* Changes when a program compiled against an older header would break: a function removed, a meaning
 * changed. Appended fields and functions do not change it. */
#define HZ_ABI_VERSION 1

/* The version of the library that is running, e.g. "0.1.0". Never NULL; lives for ever. */
HZ_API const char *hz_version(void);

/* The HZ_ABI_VERSION of the library that is running. A program that loads the library by itself compares it
 * with its own HZ_ABI_VERSION before anything else; for others the soname does that. */
HZ_API uint32_t hz_abi_version(void);

/* ==================================================================================================
 * Status
 *
 * 1xx: the caller can do something about it. 2xx: this machine. 3xx: the device. 9xx: a bug of ours, please
 * report it. The numbers never change their meaning; later versions may add some, so treat an unknown
 * one by its class.
 */
typedef int32_t hz_status_t;

enum {
    /* No error. */
    HZ_STATUS_OK = 0,
    /* An argument, option or field has a value that cannot be used. */
    HZ_STATUS_INVALID_ARGUMENT = 100,
    /* The call does not fit the state of the handle: in use, nothing accumulated, not tracing. */
    HZ_STATUS_INVALID_STATE = 101,
    /* A file, folder, preset or tensor that was named does not exist. */
    HZ_STATUS_NOT_FOUND = 102,
    /* A file exists, but its contents are not what its format asks for. */
    HZ_STATUS_BAD_FORMAT = 103,
    /* Well-formed, understood, and not supported. */
    HZ_STATUS_UNSUPPORTED = 104,
    /* A step or evaluation without a single target. */
    HZ_STATUS_NO_TARGET = 105,
    /* The gradient norm or the loss is not finite; nothing was committed. */
    HZ_STATUS_NON_FINITE = 110,
    /* A gradient was not finite after some units had been updated; the message names the unit. */
    HZ_STATUS_STEP_PARTIAL = 111,
    /* A function of the caller's that was called back ended the call; nothing was changed. */
    HZ_STATUS_CANCELLED = 112,
    /* The model does not fit the host memory it may use. */
    HZ_STATUS_OUT_OF_HOST_MEMORY = 200,
    /* Reading or writing a file failed. */
    HZ_STATUS_IO = 201,
    /* No space is left where a file was to be written. */
    HZ_STATUS_DISK_FULL = 202,
    /* The device asked for is not there. */
    HZ_STATUS_DEVICE_UNAVAILABLE = 300,
    /* The model does not fit the device memory it may use. */
    HZ_STATUS_OUT_OF_DEVICE_MEMORY = 301,
    /* Work on the device failed; the trainer stays failed. */
    HZ_STATUS_DEVICE_FAILED = 302,
    /* An invariant of the library does not hold; the trainer stays failed. */
    HZ_STATUS_INTERNAL = 900,
    /* A panic was caught at this border; the trainer stays failed. */
    HZ_STATUS_PANIC = 901
};

/* The name of a status, e.g. "HZ_STATUS_NO_TARGET"; "HZ_STATUS_UNKNOWN" for a number that is none. Never
 * NULL; lives for ever. */
HZ_API const char *hz_status_name(hz_status_t status);

/* The message of the last call that failed on this thread, as one or more sentences of UTF-8; "" if none
 * has. Calls that succeed leave it alone, so look at the status first. Never NULL. The text lives until the
 * next call that fails on this thread, or the thread's end. */
HZ_API const char *hz_last_error(void);

/* ==================================================================================================
 * Log
 */

enum {
    /* A trainer failed. The error is also the result of the call that meets it. */
    HZ_LOG_ERROR = 1,
    /* Something runs otherwise than one would expect, e.g. a memory limit was raised by an option. */
    HZ_LOG_WARNING = 2,
    /* What was opened, and how large it is. */
    HZ_LOG_INFO = 3
};

/* Gets one message, without a newline; `message` is valid during the call alone. */
typedef void (*hz_log_callback_t)(int32_t level, const char *message, void *user);

/* Sets where messages of the whole process go; NULL (the start) drops them.
 *
 * Threads: the callback may run on any thread, the caller's or the library's, and never on two at a time. It
 * should return soon, must not throw or longjmp, and must not call the library: the caller, or a lane, may hold what
 * such a call waits for. (This function is refused there.)
 * Waits until a callback that is running has returned: afterwards the old callback is never called again
 * and its user pointer may be freed.
 * Errors: HZ_STATUS_INVALID_STATE from inside a callback. */
HZ_API hz_status_t hz_set_log_callback(hz_log_callback_t callback /* or NULL */, void *user /* or NULL */);

/* ==================================================================================================
 * Model
 */

/* How rotary frequencies are stretched. */
enum {
    /* Not at all. */
    HZ_ROPE_PLAIN = 0,
    /* Every frequency over rope_factor. */
    HZ_ROPE_LINEAR = 1,
    /* Llama 3.1's: waves longer than rope_original_positions / rope_low_freq_factor are stretched by rope_factor, those
     * shorter than rope_original_positions / rope_high_freq_factor are left, those between are blended. */
    HZ_ROPE_LLAMA3 = 2
};

/* The description of a decoder: RMSNorm, rotary positions, grouped-query causal attention, SwiGLU, and what the
 * families Llama, Mistral, Qwen2 and Qwen3 add. Where a field has a name in their config.json it is that name.
 * Features that no family puts together (a Qwen3 norm beside biases of the feed-forward, say) are refused with
 * HZ_STATUS_UNSUPPORTED where a trainer is opened: nothing could be exported. */
typedef struct hz_model_config_t {
    uint32_t struct_size;
    uint32_t tie_word_embeddings;     /* 1: embedding and LM head are one tensor; 0: two */
    uint64_t vocab_size;              /* V; token ids are 0 .. V-1 */
    uint64_t hidden_size;             /* C, the width of the residual stream */
    uint64_t intermediate_size;       /* F, the width of the feed-forward network */
    uint64_t num_hidden_layers;       /* L */
    uint64_t num_attention_heads;     /* H */
    uint64_t num_key_value_heads;     /* G, divides H; 0 = H */
    uint64_t head_dim;                /* D, even; 0 = C/H */
    uint64_t max_position_embeddings; /* the longest sequence; a longer one is refused */
    double rms_norm_eps;              /* used as f32 */
    double rope_theta;                /* base of the rotary frequencies */
    uint32_t qkv_bias;                /* 1: the projections to queries, keys and values have a bias */
    uint32_t o_bias;                  /* 1: attention's output projection has one */
    uint32_t mlp_bias;                /* 1: the projections gate, up and down have one */
    uint32_t qk_norm;                 /* 1: an RMSNorm on every query and key head, before it is rotated */
    uint32_t rope_scaling;            /* HZ_ROPE_* */
    uint32_t rope_original_positions; /* LLAMA3: original_max_position_embeddings; else ignored */
    double rope_factor;               /* LINEAR, LLAMA3: at least 1; else ignored */
    double rope_low_freq_factor;      /* LLAMA3: less than the next; else ignored */
    double rope_high_freq_factor;     /* LLAMA3; else ignored */
    uint64_t sliding_window;          /* positions a row attends to, its own counted; 0 = all before it */
    /* Layers that see the whole sequence despite sliding_window: bit l % 64 of word l / 64 is layer l. Layers from
     * 256 on are like layer 255. */
    uint64_t full_attention_layers[4];
} hz_model_config_t;

/* Sizes are yours to fill in (or hz_model_config_from_preset's). */
#define HZ_MODEL_CONFIG_INIT \
    {sizeof(hz_model_config_t), 0, 0, 0, 0, 0, 0, 0, 0, 0, 1e-5, 10000.0, \
     0, 0, 0, 0, HZ_ROPE_PLAIN, 0, 0.0, 0.0, 0.0, 0, {0, 0, 0, 0}}

/* Fills in a built-in shape: "tiny" (0.8 M parameters) or "small" (13 M), both byte-level with V = 256; or, for
 * planning, a shape known by name: "qwen2.5-0.5b" .. "qwen2.5-72b", "llama3.1-8b" .. "llama3.1-405b", "dense-120b",
 * "dense-1t".
 * Errors: HZ_STATUS_NOT_FOUND, naming those there are. */
HZ_API hz_status_t hz_model_config_from_preset(const char *name, hz_model_config_t *out_config);

/* Fills in the shape of the model in a Hugging Face folder, from its config.json. Reads that file alone.
 * Errors: HZ_STATUS_NOT_FOUND, HZ_STATUS_IO, HZ_STATUS_BAD_FORMAT (not JSON, or a field missing),
 * HZ_STATUS_UNSUPPORTED (an architecture or feature the library does not train, by name; or more than 256 layers whose
 * windows differ at the end). */
HZ_API hz_status_t hz_model_config_from_hf(const char *folder, hz_model_config_t *out_config);

/* ==================================================================================================
 * Options
 */

/* What the host keeps of a parameter. */
enum {
    /* 14 bytes a parameter: bf16 weight, 16-bit residual (both together are the f32 master), bf16 gradient,
     * f32 moments. 16 bytes with f32 gradients. */
    HZ_MODE_EXACT = 1,
    /* 12 bytes: gradients pass through a small ring and are used at once. Needs clip = 0, or grad_place =
     * HZ_PLACE_DEVICE. */
    HZ_MODE_STREAMED = 2,
    /* 10 bytes: as HZ_MODE_EXACT, but moments are bf16, rounded at random (reproducibly, and so that nothing is lost in
     * the mean). 8 bytes with HZ_ADAM_UNDER_BACKWARD or grad_place = HZ_PLACE_DEVICE, when gradients pass through the
     * ring. */
    HZ_MODE_COMPACT = 3
};

/* How a number is stored. */
enum {
    HZ_DTYPE_BF16 = 1,
    HZ_DTYPE_F32 = 2
};

/* When AdamW runs. */
enum {
    /* After the norm; under backward in HZ_MODE_STREAMED, unless gradients wait on the device. */
    HZ_ADAM_AUTO = 0,
    /* Once loss and norm of the whole step are known, overlapped with the next step's forward. A norm that is not
     * finite commits nothing. */
    HZ_ADAM_AFTER_NORM = 1,
    /* As soon as a unit's gradient has landed, overlapped with backward. Needs clip = 0. A gradient that is not
     * finite leaves its own unit alone: see HZ_STATUS_STEP_PARTIAL. */
    HZ_ADAM_UNDER_BACKWARD = 2
};

/* Where layers are computed. */
enum {
    /* The best device of this machine that the library was built for and that can compute the model. */
    HZ_DEVICE_AUTO = 0,
    /* This machine's CPU, with a device memory of its own in RAM: runs anywhere, and is the reference. */
    HZ_DEVICE_CPU = 1,
    /* The CUDA device number device_index, in the order of CUDA_VISIBLE_DEVICES. Where the library was built without
     * kernels, or a driver, the device or cuBLASLt is missing, opening a trainer gives HZ_STATUS_DEVICE_UNAVAILABLE and
     * a message that says which, and what to do. The calling thread's current CUDA device becomes this one. */
    HZ_DEVICE_CUDA = 2
};

/* How host memory that a CUDA device copies from and to is kept in place. Both give the same results. */
enum {
    /* Huge pages on the device's NUMA node, touched by all threads, then registered with the device. */
    HZ_PINNING_REGISTERED = 0,
    /* Taken from CUDA's own allocator, under the memory policy of that node. */
    HZ_PINNING_ALLOCATED = 1
};

/* What of a layer its backward computes again; the rest is kept on the device from its forward on, of every
 * micro-batch of a sweep. */
enum {
    /* Everything, from the layer's input: least memory. */
    HZ_RECOMPUTE_FULL = 1,
    /* Norms and SwiGLU: no matrix product, and not attention. */
    HZ_RECOMPUTE_SELECTIVE = 2,
    /* Nothing. */
    HZ_RECOMPUTE_NONE = 3,
    /* All but attention, whose output and log-sum-exp are kept. */
    HZ_RECOMPUTE_LINEARS = 4,
    /* The second half of a layer and the first norm: queries, keys, values and the residual stream after attention are
     * kept, too. */
    HZ_RECOMPUTE_MLP = 5
};

/* Where something is while it waits. */
enum {
    /* As the library sees fit; see each field. */
    HZ_PLACE_AUTO = 0,
    HZ_PLACE_HOST = 1,
    HZ_PLACE_DEVICE = 2
};

/* How some layers are placed: for layers first .. first + count - 1, counted from 0. */
typedef struct hz_layer_placement_t {
    uint32_t struct_size;
    uint32_t recompute; /* HZ_RECOMPUTE_* */
    uint32_t boundary;  /* HZ_PLACE_*: the layer's input between its forward and its backward. On the device (AUTO) it
                           takes B*T*C activations of each micro-batch of a sweep; when those of all layers are on the
                           host, device memory does not grow with the number of layers */
    uint32_t resident;  /* 1: the weights stay on the device through a step, in a slot of their own, and are uploaded
                           once a step instead of once or twice a sweep */
    uint32_t accumulator; /* HZ_PLACE_*: the layer's f32 gradient between the sweeps of a step; on the device it takes 4
                           bytes a parameter. AUTO is the host; without several sweeps nothing is to be placed */
    uint32_t reserved;  /* 0 */
    uint64_t first;
    uint64_t count;     /* 0 = all from `first` on */
} hz_layer_placement_t;

/* All layers, as a trainer places them by itself: least memory, boundaries on the device. */
#define HZ_LAYER_PLACEMENT_INIT \
    {sizeof(hz_layer_placement_t), HZ_RECOMPUTE_FULL, HZ_PLACE_AUTO, 0, HZ_PLACE_AUTO, 0, 0, 0}

/* Everything about a run that is not the model, the data or the learning rate. Placement never changes a bit of the
 * result: neither weight_slots, slabs, sweeps, layers, grad_place, threads, adam_when nor the memory limits do. */
typedef struct hz_trainer_options_t {
    uint32_t struct_size;
    uint32_t device;          /* HZ_DEVICE_* */
    uint32_t mode;            /* HZ_MODE_* */
    uint32_t grad_dtype;      /* HZ_DTYPE_*: what a gradient is rounded to, once, when it leaves the device */
    uint32_t adam_when;       /* HZ_ADAM_* */
    uint32_t tracing;         /* 1: record what every lane does, for hz_trainer_trace; memory grows with each step */
    uint32_t device_index;    /* which device, for HZ_DEVICE_CUDA */
    uint32_t pinning;         /* HZ_PINNING_*, for HZ_DEVICE_CUDA */
    uint64_t sequences;       /* B of a micro-batch */
    uint64_t sequence_length; /* T of a micro-batch */
    uint64_t micros_max;      /* the most micro-batches a step or evaluation may have */
    uint64_t logits_chunk;    /* rows of logits that exist at a time; 0 = as many as 32 MiB hold, on CUDA 2048 at most
                                 and as many as 1 GiB holds */
    uint64_t weight_slots;    /* layers whose weights are on the device at a time, >= 2; 0 = 2, or what
                                 hz_plan_search finds */
    uint64_t slabs;           /* gradients on their way out of the device at a time, >= 2; 0 as above */
    uint64_t device_mem;      /* bytes of device memory that may be taken; 0 = what the device has */
    uint64_t host_mem;        /* bytes of host memory that may be taken; 0 = what the system reports as free. More
                                 than that is taken with a logged warning, for virtual machines whose memory grows as it
                                 is used; opening fails with HZ_STATUS_OUT_OF_HOST_MEMORY if it does not */
    uint64_t threads;         /* CPU threads that share a job, 1024 or the machine's processors at most; 0 = all this
                                 process may run on */
    double beta1;             /* AdamW (Loshchilov & Hutter 2019) */
    double beta2;
    double eps;
    double weight_decay;      /* decoupled; tensors of two or more dimensions only */
    double clip;              /* the largest global gradient norm; 0 = no clipping */
    uint32_t grad_place;      /* HZ_PLACE_*: where rounded gradients wait for AdamW. On the device they take 2 or 4
                                 bytes a parameter there, and HZ_MODE_STREAMED can clip; AUTO is the host */
    uint32_t sweeps;          /* how many times the layers are gone through in a step, each time with that part of its
                                 micro-batches: activations of those alone are on the device. 0 = 1 */
    const hz_layer_placement_t *layers; /* or NULL: placements of layers; where two speak of a layer, the later holds */
    uint64_t layers_count;              /* how many */
    const char *gemm_table; /* or NULL: a file, the table of algorithms by which a CUDA device multiplies, as `horizon
                             calibrate` writes it. hz_trainer_open refuses one that says nothing of the device and the
                             cuBLASLt that are there. It may change bits; with NULL cuBLASLt's first choice is taken,
                             which depends on the product, the device and its version alone. Opening measures nothing.
                             The CPU device does not look at it */
    uint32_t measuring;   /* 1: add up how long every lane is at work, for hz_trainer_busy_seconds; costs two clock
                             readings a task. So does tracing = 1 */
    uint32_t reserved;    /* 0 */
} hz_trainer_options_t;

/* Exact mode, bf16 gradients, one micro-batch of 1 x 256 tokens, two slots and slabs; AdamW with 0.9, 0.999,
 * 1e-8 and decay 0.01, as PyTorch has them; clip 1. */
#define HZ_TRAINER_OPTIONS_INIT \
    {sizeof(hz_trainer_options_t), HZ_DEVICE_AUTO, HZ_MODE_EXACT, HZ_DTYPE_BF16, HZ_ADAM_AUTO, 0, 0, \
     HZ_PINNING_REGISTERED, 1, 256, 1, 0, 0, 0, 0, 0, 0, 0.9, 0.999, 1e-8, 0.01, 1.0, HZ_PLACE_AUTO, 0, NULL, 0, NULL, \
     0, 0}

/* ==================================================================================================
 * Plan: what a trainer would take, before it takes it
 */

/* Ordered queues of work that run beside one another. Later versions may have more: hz_lane_name tells. */
enum {
    HZ_LANE_COMPUTE = 0, /* the device's arithmetic */
    HZ_LANE_H2D = 1,     /* copies to the device */
    HZ_LANE_D2H = 2,     /* copies to the host */
    HZ_LANE_HOST = 3,    /* AdamW */
    HZ_LANE_DISK = 4     /* saves */
};

/* The name of a lane, HZ_LANE_*, for people and in traces; NULL from the first number on that is no lane. Static. */
HZ_API const char *hz_lane_name(uint32_t lane);

/* A model and options, and every byte they need. Immutable. */
typedef struct hz_plan_t hz_plan_t;

/* A plan in figures. */
typedef struct hz_plan_summary_t {
    uint32_t struct_size;
    uint32_t adam_when;            /* HZ_ADAM_AFTER_NORM or HZ_ADAM_UNDER_BACKWARD: what AUTO came to */
    uint64_t parameters;           /* P; a tied tensor counts once */
    uint64_t logits_chunk;         /* rows; what 0 came to */
    uint64_t device_bytes;         /* the device arena */
    uint64_t device_bytes_per_micro; /* how much of it one micro-batch of the step more or less takes */
    uint64_t host_bytes;           /* the host arenas: wire and state */
    uint64_t host_wire_bytes;      /* what crosses the link: weights, gradients, batches */
    uint64_t host_state_bytes;     /* what never does: residuals, moments */
    uint64_t ram_bytes;            /* what host_mem is compared with: host_bytes, and device_bytes where device
                                      memory is RAM, as on the CPU device */
    double step_seconds;           /* of hz_plan_search: the simulated time of a step among many; else 0 */
    double tokens_per_second;      /* the same as a rate */
    double tflops;                 /* useful ones: 6 * P_matmul + causal attention per token, no recompute counted,
                                      10^12 a second */
} hz_plan_summary_t;

#define HZ_PLAN_SUMMARY_INIT {sizeof(hz_plan_summary_t), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0}

/* Plans a trainer: the same plan hz_trainer_open would follow, for this machine or for one far larger. Takes no
 * memory to speak of, and does not ask whether the plan fits: see hz_plan_admit.
 * Errors: HZ_STATUS_INVALID_ARGUMENT, naming the field of model or options that cannot be used. */
HZ_API hz_status_t hz_plan_open(const hz_model_config_t *model, const hz_trainer_options_t *options /* or NULL */,
                                hz_plan_t **out_plan);

/* Finds the fastest plan that fits a machine, this one or another: of all placements (what is resident, spilled,
 * recomputed; slots, slabs, sweeps; where gradients wait) the one with the least simulated step time. Runs nothing,
 * takes a second or two. What the options decide stays as it is: weight_slots, slabs and sweeps other than 0, a
 * grad_place other than HZ_PLACE_AUTO, an adam_when other than HZ_ADAM_AUTO, layers. device_mem and host_mem bound it
 * instead of the machine's memory. A step has options->micros_max micro-batches.
 *
 * machine: "cpu", "h200", "gh200", "h100-pcie", "a100-pcie", "rtx4090", "rtx3090", or a file that `horizon calibrate`
 * wrote; NULL = "cpu". For a machine whose device memory is RAM the host's limits are those of this process.
 * The step time is that of steps announced by hz_trainer_announce.
 * Errors: those of hz_plan_open; HZ_STATUS_OUT_OF_DEVICE_MEMORY, HZ_STATUS_OUT_OF_HOST_MEMORY if nothing fits, with
 * the limit that binds, what is short in bytes, and the smallest change that fits; HZ_STATUS_NOT_FOUND and
 * HZ_STATUS_BAD_FORMAT of the machine. */
HZ_API hz_status_t hz_plan_search(const hz_model_config_t *model, const hz_trainer_options_t *options /* or NULL */,
                                  const char *machine /* or NULL */, hz_plan_t **out_plan);

/* Whether hz_trainer_open would let this plan in here and now: reads the free memory of this machine (physical
 * RAM and the control group's limit, or the options' limits instead).
 * Errors: HZ_STATUS_OUT_OF_DEVICE_MEMORY or HZ_STATUS_OUT_OF_HOST_MEMORY, saying what is needed, what there is, and
 * what would fit; HZ_STATUS_IO if the system does not tell. */
HZ_API hz_status_t hz_plan_admit(const hz_plan_t *plan);

/* The plan in figures. */
HZ_API hz_status_t hz_plan_summary(const hz_plan_t *plan, hz_plan_summary_t *out_summary);

/* How long a lane, HZ_LANE_*, is at work in a step, of a plan of hz_plan_search; 0 of other plans.
 * hz_trainer_busy_seconds has what came of it. Errors: HZ_STATUS_INVALID_ARGUMENT for a number that is no lane. */
HZ_API hz_status_t hz_plan_busy_seconds(const hz_plan_t *plan, uint32_t lane, double *out_seconds);

/* The whole plan as one JSON object: the summary's fields, and "device_regions" and "host_regions", arrays of
 * {"name", "bytes"} that add up to device_bytes and host_bytes. Of hz_plan_search also "placement" (layer by layer),
 * "save_bytes" and "save_seconds" (a training state, and what the disk takes for it), "lanes_busy", "busiest_lane",
 * "critical_lane", "with" (what more memory, a faster link, RAM or products would give) and "better_micro_batch":
 * what `horizon plan --json` prints. The text belongs to the plan. */
HZ_API hz_status_t hz_plan_json(const hz_plan_t *plan, const char **out_json);

/* Writes the simulated step of a plan of hz_plan_search, and two before it, lane by lane, to a file in Chrome trace
 * format, as hz_trainer_trace does what was measured. An existing file is replaced; the new one appears under its name
 * only when it is whole.
 * Errors: HZ_STATUS_INVALID_STATE of a plan of hz_plan_open, which is for no machine; HZ_STATUS_NOT_FOUND (no such
 * folder), HZ_STATUS_IO, HZ_STATUS_DISK_FULL. */
HZ_API hz_status_t hz_plan_trace(const hz_plan_t *plan, const char *path);

/* Frees a plan; NULL is fine. */
HZ_API void hz_plan_close(hz_plan_t *plan /* or NULL */);

/* ==================================================================================================
 * Trainer
 */

/* A model in host RAM and a device that trains it. */
typedef struct hz_trainer_t hz_trainer_t;

/* Opens a trainer: plans, refuses what does not fit, takes all memory it will ever take, starts its threads.
 * Every weight is zero until hz_trainer_init, hz_trainer_load_hf or hz_trainer_write_tensor; moments are zero and
 * the step number is 0.
 *
 * Ownership: the caller closes *out_trainer with hz_trainer_close.
 * Waits: until the memory is there, which takes seconds for hundreds of GiB.
 * Errors: those of hz_plan_open and hz_plan_admit; HZ_STATUS_DEVICE_UNAVAILABLE. */
HZ_API hz_status_t hz_trainer_open(const hz_model_config_t *model, const hz_trainer_options_t *options /* or NULL */,
                                   hz_trainer_t **out_trainer);

/* Opens a trainer that follows a plan. The plan may be closed afterwards.
 *
 * A plan of hz_plan_search is followed on the kind of device it was searched for. With HZ_DEVICE_AUTO the machine
 * decides: the CPU, or CUDA device 0. A CUDA device must have the machine's device name ("device" in the machine's
 * file, e.g. H200); its memory, and this host's, must suffice as for hz_trainer_open.
 * Errors: those of hz_trainer_open; HZ_STATUS_DEVICE_UNAVAILABLE, naming both devices, if the chosen one is not the
 * plan's. */
HZ_API hz_status_t hz_trainer_open_planned(const hz_plan_t *plan, hz_trainer_t **out_trainer);

/* Closes a trainer: waits for the lanes, ends its threads, gives all memory back. NULL is fine.
 *
 * The handle is gone afterwards whatever the result is, with one exception: HZ_STATUS_INVALID_STATE says that
 * another call is running on it, and nothing was closed.
 * Errors: the first error of a trainer that has failed, be it in work that nobody had waited for yet. */
HZ_API hz_status_t hz_trainer_close(hz_trainer_t *trainer /* or NULL */);

/* The model the trainer was opened with, zeros replaced by what they stood for.
 * Threads: at any time, beside any other call; works on a failed trainer. Waits for nothing. */
HZ_API hz_status_t hz_trainer_model(const hz_trainer_t *trainer, hz_model_config_t *out_config);

/* --------------------------------------------------------------------------------------------------
 * Weights
 */

/* A tensor of the model. */
typedef struct hz_tensor_t {
    uint32_t struct_size;
    uint32_t rank;     /* dimensions used of shape */
    const char *name;  /* Hugging Face's, e.g. "model.layers.3.mlp.up_proj.weight"; belongs to the trainer */
    uint64_t shape[4]; /* [out, in] or [C]; unused ones are 0 */
    uint64_t elements; /* the product of shape */
} hz_tensor_t;

#define HZ_TENSOR_INIT {sizeof(hz_tensor_t), 0, NULL, {0, 0, 0, 0}, 0}

/* How many tensors the model has. A tied head is not one of its own.
 * Threads, waiting: as hz_trainer_model. */
HZ_API hz_status_t hz_trainer_tensor_count(const hz_trainer_t *trainer, size_t *out_count);

/* Tensor `index`, 0 .. count-1, in forward order.
 * Threads, waiting: as hz_trainer_model. Errors: HZ_STATUS_INVALID_ARGUMENT beyond the last. */
HZ_API hz_status_t hz_trainer_tensor(const hz_trainer_t *trainer, size_t index, hz_tensor_t *out_tensor);

/* Fresh weights, as GPT-2 starts them: matrices normal with deviation 0.02, those that add to the residual stream
 * (o_proj, down_proj) with 0.02/sqrt(2L), norms 1, biases 0. A tensor's values depend on the seed and its name alone.
 * Moments and the step number stay as they are.
 * Waits as hz_trainer_write_tensor. Errors: those of a failed trainer. */
HZ_API hz_status_t hz_trainer_init(hz_trainer_t *trainer, uint64_t seed);

/* Reads the weights of a Hugging Face folder (model.safetensors, or its shards with their index; f32, bf16 or f16).
 * Its config.json must describe the model the trainer was opened with, and every tensor of the model must be there
 * in its shape. Moments and the step number stay as they are.
 * Waits for the lanes, and for the disk.
 * Errors: HZ_STATUS_INVALID_ARGUMENT (another model), HZ_STATUS_NOT_FOUND, HZ_STATUS_IO, HZ_STATUS_BAD_FORMAT
 * (truncated, or a tensor that is missing or has another shape, by name). All that is checked before the first
 * tensor is read; only a value that is not finite (HZ_STATUS_BAD_FORMAT) is found on the way and leaves the weights a
 * mixture, to be loaded or initialised again. */
HZ_API hz_status_t hz_trainer_load_hf(hz_trainer_t *trainer, const char *folder);

/* Writes a folder that Hugging Face loads: config.json and model.safetensors, as bf16 (the weights that are
 * streamed) or f32 (the master). The folder appears under its name, or replaces an earlier export, only when it
 * is whole; missing parents are made. A folder that holds anything but an earlier export is refused.
 * Waits for the lanes, and for the disk.
 * Errors: HZ_STATUS_INVALID_ARGUMENT (the dtype, or the folder), HZ_STATUS_IO, HZ_STATUS_DISK_FULL, the latter before
 * anything is written where the file system knows its free space. */
HZ_API hz_status_t hz_trainer_export_hf(hz_trainer_t *trainer, const char *folder, uint32_t dtype /* HZ_DTYPE_* */);

/* Reads the f32 master of the tensor `name` into values[0 .. count-1], row-major.
 * Waits for AdamW of its own unit (the embedding, the layer, or final norm and head) and for no other.
 * Errors: HZ_STATUS_NOT_FOUND; HZ_STATUS_INVALID_ARGUMENT unless count is its number of elements. */
HZ_API hz_status_t hz_trainer_read_tensor(hz_trainer_t *trainer, const char *name, float *values, size_t count);

/* Writes the f32 master of a tensor: every value is kept exactly. Its moments stay as they are.
 * Waits for what reads or writes its own unit and for no other. Errors: as hz_trainer_read_tensor. */
HZ_API hz_status_t hz_trainer_write_tensor(hz_trainer_t *trainer, const char *name, const float *values, size_t count);

/* What is particular to AdamW of a tensor. */
typedef struct hz_tensor_options_t {
    uint32_t struct_size;
    uint32_t frozen;     /* 1: no gradient; weight and moments stand still, and the global norm does not count it */
    double lr_scale;     /* times the learning rate of every step; >= 0 */
    double weight_decay; /* decoupled, >= 0; -1: the trainer's for tensors of two or more dimensions, else none */
} hz_tensor_options_t;

#define HZ_TENSOR_OPTIONS_INIT {sizeof(hz_tensor_options_t), 0, 1.0, -1.0}

/* Sets how AdamW treats the tensor `name` from the next step on; NULL options are all defaults. Checkpoints do not keep
 * it: whoever resumes sets it again.
 * Waits for AdamW of the tensor's unit.
 * Errors: HZ_STATUS_NOT_FOUND; HZ_STATUS_INVALID_ARGUMENT, naming the field. */
HZ_API hz_status_t hz_trainer_set_tensor_options(hz_trainer_t *trainer, const char *name,
                                                 const hz_tensor_options_t *options /* or NULL */);

/* What holds for a tensor. Waits for nothing. Errors: HZ_STATUS_NOT_FOUND. */
HZ_API hz_status_t hz_trainer_tensor_options(hz_trainer_t *trainer, const char *name,
                                             hz_tensor_options_t *out_options);

/* Reads the gradient a tensor had in the last step, as it was rounded to grad_dtype, before clipping; zeros
 * before the first step.
 * Waits until its own unit's gradient is there.
 * Errors: as hz_trainer_read_tensor; HZ_STATUS_UNSUPPORTED where the mode keeps none: HZ_MODE_STREAMED, and
 * HZ_MODE_COMPACT in 8 bytes. */
HZ_API hz_status_t hz_trainer_read_gradient(hz_trainer_t *trainer, const char *name, float *values, size_t count);

/* --------------------------------------------------------------------------------------------------
 * Steps
 */

/* A micro-batch, B sequences of T tokens, each array [B, T] row-major. */
typedef struct hz_batch_t {
    uint32_t struct_size;
    uint32_t reserved;      /* 0 */
    uint64_t rows;          /* N = B*T: the length of every array that is given */
    const int32_t *tokens;  /* ids, 0 .. V-1 */
    const int32_t *targets; /* for each token the id that should come next, or -100 to ignore it */
    const float *weights;   /* or NULL (each is 1): the weight of each target, finite, >= 0 */
    const int32_t *starts;  /* or NULL (one document a sequence): for each token the position 0 .. T-1 in its
                               sequence at which its document starts; attention does not cross that border and
                               positions count from it */
} hz_batch_t;

#define HZ_BATCH_INIT {sizeof(hz_batch_t), 0, 0, NULL, NULL, NULL, NULL}

/* What a step reports. */
typedef struct hz_step_report_t {
    uint32_t struct_size;
    uint32_t micros;  /* micro-batches of the step */
    uint64_t step;    /* the step number after this step, counted from 1 */
    double loss;      /* sum(weight * nll) / sum(weight) over the targets of the whole step, in nats */
    double grad_norm; /* the global gradient norm before clipping */
    uint64_t tokens;  /* tokens of the step, ignored targets included */
    uint64_t targets; /* targets that are not ignored */
} hz_step_report_t;

#define HZ_STEP_REPORT_INIT {sizeof(hz_step_report_t), 0, 0, 0.0, 0.0, 0, 0}

/* What an evaluation reports. */
typedef struct hz_eval_report_t {
    uint32_t struct_size;
    uint32_t micros;  /* micro-batches */
    double loss;      /* as in hz_step_report_t */
    uint64_t targets; /* targets that are not ignored */
} hz_eval_report_t;

#define HZ_EVAL_REPORT_INIT {sizeof(hz_eval_report_t), 0, 0.0, 0}

/* Checks a micro-batch and copies it for the next hz_trainer_update. Runs nothing; the arrays are the caller's
 * again when it returns.
 * Waits for nothing.
 * Errors: HZ_STATUS_INVALID_ARGUMENT, naming array, position and value; HZ_STATUS_INVALID_STATE when micros_max are
 * there already. What was accumulated before stays. */
HZ_API hz_status_t hz_trainer_accumulate(hz_trainer_t *trainer, const hz_batch_t *batch);

/* Names the tokens of the step after the next one: tokens[0 .. count-1], token ids in any order. Optional; changes no
 * bit. Called before the step, once or for one micro-batch after the other:
 *
 *     hz_trainer_announce(trainer, next.tokens, next.rows);
 *     hz_trainer_step(trainer, &now, 1, lr, &report);        // consumes the announcement
 *     hz_trainer_step(trainer, &next, 1, lr, &report);       // begins sooner
 *
 * When the embedding is not tied to the LM head, AdamW of the first step then updates the embedding's rows for these
 * tokens before anything else, and its other rows last, so the second step does not wait for the whole embedding. A
 * token that was not announced, or another call between the two that reads the embedding, as an evaluation does, has to
 * wait for all of AdamW: announce only what comes next. Without effect when the embedding is tied, when gradients pass
 * through a ring buffer (HZ_MODE_STREAMED; HZ_MODE_COMPACT with HZ_PLACE_DEVICE), with HZ_ADAM_UNDER_BACKWARD, and on
 * hz_trainer_step_with_loss.
 * Waits for nothing.
 * Errors: HZ_STATUS_INVALID_ARGUMENT for an id outside the vocabulary or for more different ids than a step can have;
 * then nothing is announced. */
HZ_API hz_status_t hz_trainer_announce(hz_trainer_t *trainer, const int32_t *tokens, size_t count);

/* One step over everything accumulated: forward, backward, clipping, AdamW with learning rate `lr` (finite, >= 0).
 * Afterwards nothing is accumulated, unless `lr` or `out_report` was refused.
 * Waits until loss and norm are known; AdamW runs on.
 * Errors: HZ_STATUS_INVALID_STATE when nothing is accumulated; HZ_STATUS_NO_TARGET; HZ_STATUS_NON_FINITE (weights,
 * moments and the step number are as before); HZ_STATUS_STEP_PARTIAL (HZ_ADAM_UNDER_BACKWARD only: the step
 * counts, some units kept their old weights). */
HZ_API hz_status_t hz_trainer_update(hz_trainer_t *trainer, double lr, hz_step_report_t *out_report);

/* hz_trainer_accumulate of batches[0 .. count-1], then hz_trainer_update: bit for bit the same.
 * Waits, errors: as those; and HZ_STATUS_INVALID_STATE when something is accumulated already. When a batch is
 * refused nothing stays accumulated. */
HZ_API hz_status_t hz_trainer_step(hz_trainer_t *trainer, const hz_batch_t *batches, size_t count, double lr,
                                   hz_step_report_t *out_report);

/* The loss of 1 .. micros_max micro-batches under the weights after the last step. Changes nothing.
 * Waits for AdamW unit by unit, as a step would, and until the loss is known.
 * Errors: HZ_STATUS_INVALID_ARGUMENT, HZ_STATUS_NO_TARGET; HZ_STATUS_INVALID_STATE when something is accumulated. */
HZ_API hz_status_t hz_trainer_eval(hz_trainer_t *trainer, const hz_batch_t *batches, size_t count,
                                   hz_eval_report_t *out_report);

/* The logits that follow tokens[0 .. count-1], 1 .. T of them, as f32 into logits[0 .. logits_count-1];
 * logits_count is V. For sampling now and then: each call streams the whole model.
 * Waits until they are there.
 * Errors: HZ_STATUS_INVALID_ARGUMENT; HZ_STATUS_INVALID_STATE when something is accumulated. */
HZ_API hz_status_t hz_trainer_logits(hz_trainer_t *trainer, const int32_t *tokens, size_t count, float *logits,
                                     size_t logits_count);

/* The log-probabilities of the targets of 1 .. micros_max micro-batches under the weights after the last step, in nats,
 * into logprobs[0 .. logprobs_count-1]: micro-batch by micro-batch, row by row, 0 where the target is ignored.
 * logprobs_count is count*N; the batches' weights do not count. Changes nothing.
 * Waits for AdamW unit by unit, as a step would, and until they are there.
 * Errors: HZ_STATUS_INVALID_ARGUMENT; HZ_STATUS_INVALID_STATE when something is accumulated. */
HZ_API hz_status_t hz_trainer_logprobs(hz_trainer_t *trainer, const hz_batch_t *batches, size_t count, float *logprobs,
                                       size_t logprobs_count);

/* A loss as a function of the log-probabilities of all targets of a step: logprobs[0 .. count-1], micro-batch by
 * micro-batch, row by row, in nats, 0 where the target is ignored. Sets *out_loss (any finite number: it is what the
 * step reports) and dlogprobs[i] = d loss / d logprobs[i], which are zero when it is called; those of ignored rows do
 * not count. Returns 0, or anything else to give the step up.
 *
 * It runs on the thread that called hz_trainer_step_with_loss, before that returns; the arrays are valid during the
 * call alone. It may take its time. It must not throw or longjmp; calls on the same trainer are refused there
 * (HZ_STATUS_INVALID_STATE), other handles may be used. */
typedef int32_t (*hz_loss_callback_t)(const float *logprobs, float *dlogprobs, size_t count, double *out_loss,
                                      void *user);

/* One step under a loss of the caller's, for DPO, GRPO and the like: forward of batches[0 .. count-1], then `loss` once
 * for all of them, then backward from the gradient it gives, clipping and AdamW as in hz_trainer_step. What the loss
 * needs beside the log-probabilities (rewards, pairs, those of a reference model: by hz_trainer_logprobs before
 * training, or of another trainer) comes by `user`. The batches' weights do not count. The head's logits are computed
 * twice. The log-probabilities are those that hz_trainer_logprobs gives under the same weights, bit for bit.
 *
 * tests/c/dpo.c and tests/c/grpo.c of the source tree are both of these from beginning to end.
 *
 * With *out_loss = sum(-w*logprob)/W and dlogprobs = -(w * (float)(1/W)), W the sum of the weights w of the targets
 * that are not ignored, it is the step that hz_trainer_step makes with those weights, bit for bit.
 *
 * Waits as hz_trainer_step.
 * Errors: those of hz_trainer_step, of which HZ_STATUS_NO_TARGET means that every target is ignored;
 * HZ_STATUS_INVALID_ARGUMENT when the step has more than one sweep; HZ_STATUS_NON_FINITE when the loss, or a gradient
 * that counts, is not finite, and HZ_STATUS_CANCELLED when `loss` gave the step up: weights, moments and the step
 * number are as before, and nothing stays accumulated. */
HZ_API hz_status_t hz_trainer_step_with_loss(hz_trainer_t *trainer, const hz_batch_t *batches, size_t count, double lr,
                                             hz_loss_callback_t loss, void *user, hz_step_report_t *out_report);

/* Takes the state of a unit: 0 is the embedding, then come the layers, then the head; `elements` of each array: the
 * unit's tensors in order, zeros between and behind them where the library aligns. `weights` is bf16, `residual` what
 * hz_master_join makes it whole with; the moments `m` and `v` are f32, bf16 in HZ_MODE_COMPACT. Returns 0, or anything
 * else to end the save.
 *
 * It runs on a thread of the library's, one unit after the other in forward order, while the trainer's thread goes on;
 * AdamW of the unit waits for it. The arrays are valid during the call alone. It may take its time. It must not throw
 * or longjmp, and must not call the trainer. */
typedef int32_t (*hz_save_callback_t)(uint32_t unit, uint64_t elements, const uint16_t *weights,
                                      const int16_t *residual, const void *m, const void *v, void *user);

/* Begins to save the state after the last step: `save` gets every unit's, and `user` as it is. Returns at once; steps,
 * evaluations, reads and writes go on meanwhile and change nothing of what is saved. The step number is that of
 * hz_trainer_stats now. One save at a time; hz_trainer_save_wait tells how it ended, and until then `user` is in use.
 * Errors: HZ_STATUS_INVALID_STATE while a save is under way or has not been waited for. */
HZ_API hz_status_t hz_trainer_save(hz_trainer_t *trainer, hz_save_callback_t save, void *user);

/* Begins to write a checkpoint of the state after the last step: weights, residuals, moments, the step number, and what
 * must be the same to go on bit for bit. Returns at once; steps, evaluations, reads and writes go on meanwhile and
 * change nothing of what is saved. One save at a time, of either kind; hz_trainer_save_wait tells how it ended.
 *
 * The checkpoint appears as folder/step-00000042 (the step number) only when it is whole and on the disk; then
 * folder/latest names it, and the oldest beyond the newest `keep` go (0 keeps all). Whatever fails, or is killed, on
 * the way: the checkpoints before stay as they were, training goes on, and another save may begin. The folder is made
 * if it is not there. It is this trainer's alone until it saves to another or is closed.
 *
 * `note` is kept with it, for where the data stood, the random numbers, the learning rate. Tensor options are not kept.
 * hz_model_config_from_hf reads a checkpoint's own folder, too.
 *
 * Errors, now: HZ_STATUS_INVALID_STATE while a save is under way or has not been waited for, or when another trainer or
 * process writes there; HZ_STATUS_DISK_FULL; HZ_STATUS_IO. The last two by hz_trainer_save_wait, too. */
HZ_API hz_status_t hz_trainer_save_to(hz_trainer_t *trainer, const char *folder, uint64_t keep,
                                      const char *note /* or NULL */);

/* Waits until the save has ended.
 * Errors: HZ_STATUS_CANCELLED when `save` ended it, or those of writing in hz_trainer_save_to, after which training
 * goes on as before and another save may begin; HZ_STATUS_INVALID_STATE when none was begun; those of a failed
 * trainer. */
HZ_API hz_status_t hz_trainer_save_wait(hz_trainer_t *trainer);

/* Puts the state of a checkpoint into the trainer, which goes on from there: hz_trainer_stats has its step number, and
 * every step is, bit for bit, what it would have been without the interruption. `folder` is one that
 * hz_trainer_save_to was given (or `horizon train --checkpoint-dir`), of which the latest is taken, or a checkpoint's
 * own (folder/step-00000042).
 *
 * The model must be the same, and so must what changes bits: device, mode, micro-batch, seq-len, logits-chunk,
 * grad-dtype, clip, weight-decay, beta1, beta2, eps, under these names, but for those that `changes` lists, as in
 * "clip, beta2". With another mode moments are kept, and rounded to bf16 for HZ_MODE_COMPACT. Placement (weight_slots,
 * slabs, sweeps, layers, grad_place, threads, adam_when, memory limits) is free: it changes no bit.
 *
 * *out_note is what hz_trainer_save_to was given, NULL if nothing, what the command noted as JSON; it belongs to the
 * trainer.
 *
 * Waits for the lanes, and for the disk.
 * Errors: HZ_STATUS_NOT_FOUND (no checkpoint there), HZ_STATUS_INVALID_ARGUMENT (every field that differs, with both
 * values), HZ_STATUS_BAD_FORMAT (a file that is damaged, truncated or of another version, by name, and the newest
 * checkpoint beside it that is whole), HZ_STATUS_IO, HZ_STATUS_INVALID_STATE when something is accumulated. What is
 * wrong with headers, lengths or fields is found before anything is changed. Damage within a state is found as it is
 * read, and then the trainer has failed: close it. */
HZ_API hz_status_t hz_trainer_resume(hz_trainer_t *trainer, const char *folder, const char *changes /* or NULL */,
                                     const char **out_note /* or NULL */);

/* Waits for the lanes: everything asked for has been done, AdamW too.
 * Errors: those of a failed trainer. */
HZ_API hz_status_t hz_trainer_sync(hz_trainer_t *trainer);

/* --------------------------------------------------------------------------------------------------
 * Looking in
 */

/* Totals since the trainer was opened. */
typedef struct hz_stats_t {
    uint32_t struct_size;
    uint32_t threads;      /* CPU threads that share a job */
    uint64_t steps;        /* steps that were committed: the step number */
    uint64_t tokens;       /* tokens of those steps */
    uint64_t device_bytes; /* the device arena */
    uint64_t host_bytes;   /* the host arenas */
} hz_stats_t;

#define HZ_STATS_INIT {sizeof(hz_stats_t), 0, 0, 0, 0, 0}

/* The totals. Waits for nothing. Errors: those of a failed trainer. */
HZ_API hz_status_t hz_trainer_stats(hz_trainer_t *trainer, hz_stats_t *out_stats);

/* How long a lane, HZ_LANE_*, was at tasks of steps and saves that had ended when the last step, evaluation or
 * hz_trainer_sync did: not at evaluations. Lanes overlap, and AdamW of a step with the next. 0 unless measuring or
 * tracing = 1. Waits for nothing. Errors: HZ_STATUS_INVALID_ARGUMENT for a number that is no lane; those of a failed
 * trainer. */
HZ_API hz_status_t hz_trainer_busy_seconds(hz_trainer_t *trainer, uint32_t lane, double *out_seconds);

/* Writes what every lane did since the trainer was opened to a file in Chrome trace format, which Perfetto
 * (ui.perfetto.dev) opens. An existing file is replaced; the new one appears under its name only when it is whole.
 * Waits for the lanes, and for the disk.
 * Errors: HZ_STATUS_INVALID_STATE unless the trainer was opened with tracing = 1; HZ_STATUS_NOT_FOUND (no such
 * folder), HZ_STATUS_IO, HZ_STATUS_DISK_FULL. */
HZ_API hz_status_t hz_trainer_trace(hz_trainer_t *trainer, const char *path);

/* ==================================================================================================
 * AdamW alone
 *
 * The CPU optimizer of the trainer, on arrays of the caller's: one pass over memory by all threads, vectorised for
 * the processor it runs on. For element i of an array (Loshchilov & Hutter 2019):
 *
 *     g  = gradient * gradient_scale
 *     m += (1 - beta1) * (g - m)
 *     v += (1 - beta2) * (g*g - v)
 *     p -= lr*weight_decay*decay * p  +  (lr / bias1) * m / (sqrt(v) / sqrt(bias2) + eps)   bias_i = 1 - beta_i^step
 *
 * which is torch.optim.AdamW up to rounding. Arithmetic is f32, each operation rounded by itself; the result's bits
 * depend on the inputs alone, never on threads, instruction set, alignment, or how a model is cut into calls (in
 * HZ_ADAM_MODE_COMPACT: as long as each element keeps its number, see hz_adam_arrays_t.first).
 *
 * In the place of DeepSpeed's CPU Adam (f32 parameters, f32 or bf16 gradients, f32 moments, adamw_mode, bias
 * correction, a 16-bit copy to send to the device):
 *
 *     hz_adam_options_t options = HZ_ADAM_OPTIONS_INIT;
 *     hz_adam_t        *adam    = NULL;
 *     options.mode         = HZ_ADAM_MODE_F32;
 *     options.weight_decay = 0.1;                        // betas, eps and decay as they were
 *     hz_adam_open(&options, &adam);                     // once; create_adam
 *     for each step, counted from 1, for each tensor:    // adam_update, adam_update_copy
 *         hz_adam_arrays_t arrays = HZ_ADAM_ARRAYS_INIT;
 *         arrays.gradient_dtype = HZ_DTYPE_F32;          // or HZ_DTYPE_BF16: no copy of the gradient is needed
 *         arrays.count = ...; arrays.weights = params; arrays.gradient = grads;
 *         arrays.m = exp_avg; arrays.v = exp_avg_sq;     // zero before the first step
 *         arrays.bf16_out = params_bf16;                 // or NULL
 *         hz_adam_step(adam, &arrays, lr, step, 1.0, decays ? 1.0 : 0.0);
 *     hz_adam_close(adam);                               // destroy_adam
 *
 * and then, to move fewer bytes: HZ_ADAM_MODE_EXACT gives the same masters bit for bit in 12 bytes a parameter, its
 * bf16 weights included (make its arrays with hz_master_split), HZ_ADAM_MODE_COMPACT nearly the same in 8.
 *
 * Gradients are not looked at: one that is not finite makes its element so. Whoever clips takes the norm before,
 * and hands the factor in as gradient_scale.
 */

/* An optimizer: options, threads, and state if it keeps that. */
typedef struct hz_adam_t hz_adam_t;

/* What is kept of a parameter, beside its gradient. */
enum {
    /* 12 bytes: bf16 weight and 16-bit residual (both together are the f32 master), f32 moments. */
    HZ_ADAM_MODE_EXACT = 1,
    /* 8 bytes: weight and residual as above, bf16 moments, rounded at random so that on average nothing is lost; the
     * random bits follow from the seed, the step and the number of the element alone. */
    HZ_ADAM_MODE_COMPACT = 2,
    /* 12 bytes: f32 weights, f32 moments; 14 with a bf16 copy. */
    HZ_ADAM_MODE_F32 = 3
};

/* What all calls share. */
typedef struct hz_adam_options_t {
    uint32_t struct_size;
    uint32_t mode;        /* HZ_ADAM_MODE_* */
    uint64_t threads;     /* that share a call, the caller's included, 1024 or the machine's processors at most;
                             0 = all this process may run on */
    uint64_t state_count; /* elements whose residuals and moments the library keeps, zero at first; 0 = the caller
                             keeps them */
    uint64_t host_mem;    /* bytes of host memory that may be taken for them; 0 = what the system reports as free */
    uint64_t seed;        /* of the rounding in HZ_ADAM_MODE_COMPACT */
    double beta1;         /* >= 0, < 1 */
    double beta2;         /* >= 0, < 1 */
    double eps;           /* >= 1.2e-38, so that an element that never had a gradient stands still */
    double weight_decay;  /* decoupled, >= 0 */
} hz_adam_options_t;

/* Exact mode, state kept by the caller; 0.9, 0.999, 1e-8 and decay 0.01, as PyTorch has them. */
#define HZ_ADAM_OPTIONS_INIT {sizeof(hz_adam_options_t), HZ_ADAM_MODE_EXACT, 0, 0, 0, 0, 0.9, 0.999, 1e-8, 0.01}

/* The arrays of one call: `count` elements each, aligned to their elements, without a byte in common. */
typedef struct hz_adam_arrays_t {
    uint32_t struct_size;
    uint32_t gradient_dtype; /* HZ_DTYPE_*; yours to say */
    uint64_t count;          /* elements; 0 is fine, and does nothing */
    uint64_t first;          /* the number of element 0 among all elements of the model: where its state lies if the
                                library keeps that, and what its rounding in HZ_ADAM_MODE_COMPACT follows from */
    void *weights;           /* in, out: bf16; f32 in HZ_ADAM_MODE_F32 */
    int16_t *residual;       /* in, out; NULL in HZ_ADAM_MODE_F32, or if the library keeps the state */
    const void *gradient;    /* in: gradient_dtype */
    void *m;                 /* in, out: first moment, f32; bf16 in HZ_ADAM_MODE_COMPACT; NULL if the library keeps
                                the state */
    void *v;                 /* in, out: second moment, as the first */
    uint16_t *bf16_out;      /* or NULL; HZ_ADAM_MODE_F32 only: out, the new weights as bf16, rounded to nearest,
                                halves away from zero, as the weights of the other modes are */
} hz_adam_arrays_t;

#define HZ_ADAM_ARRAYS_INIT {sizeof(hz_adam_arrays_t), 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL}

/* Opens an optimizer: takes the memory of its state, if it is to keep that, and starts its threads.
 *
 * Ownership: the caller closes *out_adam with hz_adam_close.
 * Errors: HZ_STATUS_INVALID_ARGUMENT, naming the field; HZ_STATUS_OUT_OF_HOST_MEMORY, with need, have and which
 * limit. */
HZ_API hz_status_t hz_adam_open(const hz_adam_options_t *options /* or NULL */, hz_adam_t **out_adam);

/* One step of AdamW over some arrays: `lr` >= 0, `step` counted from 1 (bias correction follows from it), every
 * gradient times `gradient_scale` (1, or the clip factor, or 1 / loss scale), and `decay` times the options' weight
 * decay (1; 0 for norms and biases).
 *
 * Threads: several may step different arrays with one handle at a time, and then share its threads. Two calls at a
 * time on the same elements (also of a state that the library keeps) are the caller's mistake.
 * Waits until it is done.
 * Errors: HZ_STATUS_INVALID_ARGUMENT, naming argument or field; nothing has changed then. */
HZ_API hz_status_t hz_adam_step(const hz_adam_t *adam, const hz_adam_arrays_t *arrays, double lr, uint64_t step,
                                double gradient_scale, double decay);

/* Where the library keeps the state of the elements first .. first+count-1: fills in count, first, residual, m and v
 * (what the mode does not have is NULL, and so is all that the caller keeps). To save and load checkpoints, and to hand
 * residuals in: hz_master_split(values, count, weights, arrays.residual).
 *
 * Ownership: the memory belongs to the handle and stays where it is until hz_adam_close; reading or writing it while
 * a step works on these elements is the caller's mistake.
 * Errors: HZ_STATUS_INVALID_ARGUMENT beyond state_count, or if the caller keeps the state. */
HZ_API hz_status_t hz_adam_state(const hz_adam_t *adam, uint64_t first, uint64_t count,
                                 hz_adam_arrays_t *out_arrays);

/* Ends the threads and frees the state; no call may be running. NULL is fine. */
HZ_API void hz_adam_close(hz_adam_t *adam /* or NULL */);

/* Splits f32 masters: weights[i] is values[i] rounded to bf16 (to nearest, halves away from zero), residual[i] the 16
 * bits that make it whole. The arrays do not overlap. Runs on the calling thread; several may split different arrays
 * at a time.
 * Errors: HZ_STATUS_INVALID_ARGUMENT. */
HZ_API hz_status_t hz_master_split(const float *values, size_t count, uint16_t *weights, int16_t *residual);

/* Undoes hz_master_split: exact for each of the 2^32 patterns of an f32. Threads, errors: as there. */
HZ_API hz_status_t hz_master_join(const uint16_t *weights, const int16_t *residual, size_t count, float *values);

/* ==================================================================================================
 * Arena: host memory of a chosen kind, alone
 *
 * One stretch of zeroed memory, taken at once: large pages where the machine has them, on the NUMA node of one's
 * choice, refused politely where it would not fit. For optimizer state and staging of hundreds of GiB:
 *
 *     hz_arena_options_t options = HZ_ARENA_OPTIONS_INIT;
 *     hz_arena_info_t    info    = HZ_ARENA_INFO_INIT;
 *     hz_arena_t        *arena   = NULL;
 *     options.kind = HZ_MEMORY_INTERLEAVED;
 *     hz_arena_open(&options, bytes, &arena);            // refuses what does not fit
 *     hz_arena_touch(arena, 0);                          // all threads fetch the pages now, not in the first step
 *     hz_arena_info(arena, &info);                       // info.address, info.pages
 *     ...
 *     hz_arena_close(arena);
 */

/* A stretch of host memory. Never changes, so any number of threads may look at it. */
typedef struct hz_arena_t hz_arena_t;

/* Where memory comes from. */
enum {
    /* Near the thread that touches a page first. */
    HZ_MEMORY_PLAIN = 1,
    /* The NUMA node options.node. */
    HZ_MEMORY_NODE = 2,
    /* All NUMA nodes with memory, page by page in turn. */
    HZ_MEMORY_INTERLEAVED = 3
};

/* What memory is made of. */
enum {
    /* As a wish: explicit ones if enough are free (HZ_MEMORY_PLAIN only), else transparent, else small. */
    HZ_PAGES_ANY = 0,
    /* The processor's small pages. */
    HZ_PAGES_SMALL = 1,
    /* Pages of 2 MiB where the kernel finds some when memory is touched. */
    HZ_PAGES_TRANSPARENT = 2,
    /* Pages of 2 MiB that the machine's owner set aside (vm.nr_hugepages). HZ_MEMORY_PLAIN only. */
    HZ_PAGES_EXPLICIT = 3
};

typedef struct hz_arena_options_t {
    uint32_t struct_size;
    uint32_t kind;     /* HZ_MEMORY_*; yours to say: nobody binds memory by accident */
    uint32_t node;     /* for HZ_MEMORY_NODE: the system's number of it; else 0 */
    uint32_t pages;    /* HZ_PAGES_*: these, or a refusal */
    uint64_t host_mem; /* bytes of host memory that may be taken; 0 = what the system reports as free */
} hz_arena_options_t;

#define HZ_ARENA_OPTIONS_INIT {sizeof(hz_arena_options_t), 0, 0, HZ_PAGES_ANY, 0}

/* An arena in figures. */
typedef struct hz_arena_info_t {
    uint32_t struct_size;
    uint32_t pages; /* HZ_PAGES_*, and not ANY */
    void *address;  /* the first byte, at the border of a page */
    uint64_t bytes; /* what was asked for */
} hz_arena_info_t;

#define HZ_ARENA_INFO_INIT {sizeof(hz_arena_info_t), HZ_PAGES_ANY, NULL, 0}

/* Takes `bytes` bytes, all zero. Pages get their RAM when they are touched, see hz_arena_touch.
 *
 * Ownership: the caller closes *out_arena with hz_arena_close.
 * Errors: HZ_STATUS_OUT_OF_HOST_MEMORY, with need, have and which limit (RAM, control group, node, huge pages);
 * HZ_STATUS_INVALID_ARGUMENT (a node without memory, naming those that have some; an option);
 * HZ_STATUS_UNSUPPORTED (binding is forbidden here, or there are no such pages). */
HZ_API hz_status_t hz_arena_open(const hz_arena_options_t *options, uint64_t bytes, hz_arena_t **out_arena);

/* Gives every page its RAM, by `threads` threads (0 = all), so that nobody waits for it later. What stands in the
 * memory stays, but nobody may write to it meanwhile. Waits until it is done, and up to ten seconds for the memory of a
 * virtual machine to grow.
 * Errors: HZ_STATUS_OUT_OF_HOST_MEMORY when no memory is left, with how much was touched by then. */
HZ_API hz_status_t hz_arena_touch(const hz_arena_t *arena, uint64_t threads);

/* Address, bytes and pages. Waits for nothing. */
HZ_API hz_status_t hz_arena_info(const hz_arena_t *arena, hz_arena_info_t *out_info);

/* The NUMA node that byte `offset`, which has been touched, lies on, by the kernel's word.
 * Errors: HZ_STATUS_INVALID_ARGUMENT beyond the end; HZ_STATUS_UNSUPPORTED where the system does not tell. */
HZ_API hz_status_t hz_arena_node_at(const hz_arena_t *arena, uint64_t offset, uint32_t *out_node);

/* Gives the memory back; nothing may use it any more. NULL is fine. */
HZ_API void hz_arena_close(hz_arena_t *arena /* or NULL */);

#ifdef __cplusplus
}
#endif

#endif /* HORIZON_H */
