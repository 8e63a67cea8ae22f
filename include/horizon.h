/*
 * horizon.h - train large language models on one GPU, with the whole model in host RAM.
 *
 * The C interface of libhorizon and its manual. C11 and C++17.
 *
 * ==================================================================================================
 * INTRODUCTION
 *
 * Parameters, gradients and optimizer state are offloaded: bf16 weights, the 16-bit residuals that extend
 * them to f32 masters, gradients and AdamW moments live in host RAM. The device needs memory for a few layers,
 * the embedding or the head, and activations, not for the model. A step uploads each layer, runs it on every
 * micro-batch (gradient accumulation), downloads its gradient once, and runs AdamW on the CPU. Copies, kernels and
 * AdamW overlap.
 *
 * An example without error checks; tests/c/examples of the source tree has six short programs with them:
 *
 *     hz_model_config_t    model   = HZ_MODEL_CONFIG_INIT;
 *     hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
 *     hz_batch_t           batch   = HZ_BATCH_INIT;
 *     hz_step_report_t     report  = HZ_STEP_REPORT_INIT;
 *     hz_trainer_t        *trainer = NULL;
 *
 *     hz_model_config_from_preset("tiny", &model);
 *     options.sequences       = 8;                              // B, sequences per micro-batch
 *     options.sequence_length = 128;                            // T, tokens per sequence
 *     hz_trainer_open(&model, &options, &trainer);              // allocates everything, or fails
 *     hz_trainer_init_weights(trainer, 1);                      // random weights, seed 1
 *     for (...) {
 *         batch.rows = 8 * 128; batch.tokens = ...; batch.targets = ...;
 *         hz_trainer_step(trainer, &batch, 1, 3e-4, &report);   // report.loss, report.grad_norm
 *     }
 *     hz_trainer_export_hf(trainer, "out", HZ_DTYPE_F32);       // a Hugging Face folder
 *     hz_trainer_close(trainer);
 *
 * Fine-tuning a Hugging Face model: hz_model_config_from_hf, hz_trainer_open, hz_trainer_load_hf.
 * Checkpoints: hz_trainer_save_to, hz_trainer_resume. Memory and speed before anything runs: hz_plan_search.
 * AdamW and large host allocations can be used alone: see "AdamW alone" and "Arena" at the end.
 * C++17: horizon.hpp has the same functions with RAII, exceptions and spans. Python: tests/c/examples/train.py.
 *
 * With an installed library: cc train.c $(pkg-config --cflags --libs horizon)
 * From a build tree:         cc -Iinclude train.c -Ltarget/release -lhorizon -Wl,-rpath,$PWD/target/release
 *
 * ==================================================================================================
 * SIZES AND TERMS
 *
 * A micro-batch is B sequences of T tokens, N = B*T rows. A step is 1 .. micros_max micro-batches and one
 * update. Arrays are row-major and dense. V is the vocabulary size. Fields *_bytes and *_mem are bytes; counts are
 * elements. Losses are in nats. The target of row t is the token that follows token t; -100 is ignored.
 *
 *   unit      the embedding, one decoder layer, or the head (final norm and LM head)
 *   boundary  a layer's input, kept from its forward to its backward (the activation checkpoint)
 *   slot      a device buffer for the weights of one layer; at least two, so that uploads overlap compute
 *   slab      a staging buffer for a gradient that leaves the device
 *   sweep     one forward and backward through all units, with some or all micro-batches of a step
 *   lane      an ordered queue of work: HZ_LANE_*
 *
 * ==================================================================================================
 * OWNERSHIP
 *
 * The caller closes every handle it opens. Arrays and strings passed in are copied or used before the call
 * returns; the library keeps no pointer to them. Exceptions: a callback and its `user` pointer.
 * A `const char *` returned by the library belongs to the library. It stays valid and unchanged until the
 * handle it came from is closed; hz_last_error states its own rule.
 * Strings are NUL-terminated UTF-8. File names may contain any bytes.
 *
 * Pointers must be aligned for their type. NULL fails with HZ_STATUS_INVALID_ARGUMENT unless the parameter is
 * marked "or NULL". Other invalid pointers to values, arrays and strings are undefined behaviour. An array of length 0
 * is not accessed, so its pointer may be NULL or anything else.
 *
 * A handle is a number in the form of a pointer: the library looks it up and never dereferences it, and uses
 * each number once. A handle that was closed, is of another kind, or comes from another process or copy of the
 * library fails with HZ_STATUS_INVALID_ARGUMENT.
 *
 * ==================================================================================================
 * STRUCT SIZES
 *
 * Every struct begins with `uint32_t struct_size`. Initialize every struct, outputs too, with its HZ_..._INIT macro,
 * which sets struct_size and the defaults; then change fields:
 *
 *     hz_trainer_options_t options = HZ_TRAINER_OPTIONS_INIT;
 *
 * Languages without macros call the function of the same name, which writes the same struct_size bytes:
 *
 *     hz_trainer_options_init(&options, sizeof options);
 *
 * Later versions only append fields, so programs and libraries of different versions work together:
 *   - Program older than the library (smaller struct_size): missing fields have their defaults in inputs and
 *     are not written in outputs.
 *   - Program newer than the library (larger struct_size): unknown bytes must be zero in an input, which means
 *     "default"; otherwise the call fails, because silently ignoring an option would be worse. In an output
 *     they are set to zero.
 *   - A struct_size that ends inside a field, or above 4096, fails: the struct was not initialized.
 *
 * In an array of structs all elements have the same struct_size, which is also the stride.
 *
 * ==================================================================================================
 * THREADS
 *
 * A trainer may be used by any thread, one at a time: a call made while another is running fails with
 * HZ_STATUS_INVALID_STATE, changes nothing and does not wait. Different handles are independent. Any number
 * of threads may read one plan or arena, and may step different arrays with one hz_adam_t. Functions without
 * a handle may be called from any thread. Exceptions are stated at each function.
 *
 * Handles may be closed at any time. Calls that begin later fail. A plan, arena or optimizer that another
 * thread is using is freed when the last call on it returns; a trainer that is in use is not closed:
 * HZ_STATUS_INVALID_STATE. Memory lent by a handle (hz_plan_json, hz_adam_state, hz_arena_info, names of tensors)
 * must not be used after the close.
 *
 * Each trainer has threads for its lanes and a pool of workers; optimizers and searches may have threads too. Their
 * names begin with "hz-". They have ended when the close, or the call that failed, returns. HZ_STATUS_IO: the system
 * refused a thread.
 *
 * ==================================================================================================
 * IN THE CALLER'S PROCESS
 *
 * Stack: a thread that calls the library needs at least 128 KiB of it.
 *
 * Signals: the library's threads block all but the faults SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS and SIGTRAP. A
 * handler for other signals runs on threads of the program only, and may interrupt a call, which then continues.
 *
 * Floating point: results do not depend on the caller's rounding mode, FTZ, DAZ and exception masks. Calls run in the
 * default environment and restore the caller's, raised flags included, when they return. A callback on the calling
 * thread runs in the caller's environment, on another thread in the default.
 *
 * fork: once a process has used the library, calls in its children fail with HZ_STATUS_INVALID_STATE, and close
 * functions do nothing. The functions for versions and names, and hz_last_error, still work; after exec, everything
 * does. A child does not inherit the memory of trainers, optimizers and arenas: accessing it is a fault. A child forked
 * inside a callback must not return from it. The parent is not affected. Children of vfork, _Fork and clone are not
 * detected; they must call exec or _exit.
 *
 * Exceptions: a callback must not throw, longjmp or end its thread. Callback types are noexcept in C++, so the compiler
 * refuses a function that may throw, and std::terminate ends the process if one throws anyway. Where a cast or another
 * language hides an exception from C++, the library calls abort. Threads must not be cancelled inside a call.
 *
 * dlclose: has no effect, since threads and thread-local data may still need the code; dlopen returns the same library
 * again. Close all handles first.
 *
 * ==================================================================================================
 * BLOCKING
 *
 * hz_trainer_update and hz_trainer_step return when the loss and the gradient norm of the step are known.
 * AdamW may still be running; the next step overlaps with it. Calls that need its results wait for them,
 * most of them only for the unit they touch. "Blocks" at each function says until when; functions without it
 * do not wait for the device or AdamW. Steps, evaluations, reads and writes may follow one another in any
 * order. To time whole steps, and before exit, call hz_trainer_sync.
 *
 * ==================================================================================================
 * PRECISION
 *
 * Forward and backward read the weights as bf16, the rounded f32 masters. Values are stored as
 *
 *                                                                     HZ_DEVICE_CPU   HZ_DEVICE_CUDA
 *   activations, their gradients, logits; attention probabilities     f32             bf16
 *   sums in matmuls, attention, norms and softmax; RoPE angles        f32             f32
 *   log-sum-exp, log-probabilities, gradient accumulators             f32             f32
 *   loss, squares of the gradient norm                                f64             f64
 *
 * An operation computes in f32 and rounds its result once. An accumulator sums a weight's gradient over all
 * micro-batches of a step. The norm is taken from the accumulators, before they are rounded to grad_dtype: squares are
 * summed in f64 over blocks of 65536 elements, these over tensors. AdamW computes in f32 on masters and moments; in
 * HZ_MODE_COMPACT moments are stored as bf16.
 *
 * Rounding to bf16: weights, after every AdamW, and complete gradients, to nearest with ties away from zero;
 * activations on CUDA to nearest with ties to even; moments stochastically. Reading, writing and exporting masters as
 * f32, loading f32, bf16 and f16 files, and checkpoints are exact.
 *
 * The same calls give the same bits, whatever the timing, the placement (see hz_trainer_options_t), the number of
 * threads, announcements, evaluations and saves between steps, and interruptions (see hz_trainer_resume). Other bits
 * may come from another kind of device or GPU; on the CPU device from another instruction set (matmuls); on CUDA from
 * another cuBLASLt, gemm_table or build of the kernels; and from another mode, grad_dtype, logits_chunk, sequences,
 * sequence_length or division into micro-batches.
 *
 * ==================================================================================================
 * ERRORS
 *
 * Functions that can fail return an hz_status_t; 0 is success. hz_last_error returns a message: what was
 * expected, what was found, what to do. It names arguments, fields and functions as this header does. A failed
 * call writes no output parameter and, unless stated otherwise, changes nothing: all arguments are checked before
 * anything is changed, and a call that is refused leaves accumulated micro-batches and announcements as they were.
 *
 * A trainer fails permanently on HZ_STATUS_DEVICE_FAILED, on status 9xx (a bug in the library), and when
 * hz_trainer_resume does not read a state to its end: its contents may be wrong. From then on every call that
 * needs that state returns the first error again, status and message, until hz_trainer_close. After every
 * other error the trainer stays usable.
 *
 * After HZ_STATUS_DEVICE_FAILED the weights and moments in host memory are those of the last completed step, unless
 * AdamW had applied a part of the failed one. If they are, hz_trainer_save, hz_trainer_save_to, hz_trainer_save_wait,
 * hz_trainer_export_hf, hz_trainer_read_tensor and hz_trainer_stats still work; otherwise the first four and
 * hz_trainer_read_tensor return the first error.
 *
 * "Errors" at each function lists what is specific to it. Not repeated there: HZ_STATUS_INVALID_ARGUMENT for bad
 * pointers, HZ_STATUS_INVALID_STATE for a trainer in use, and the error of a failed trainer.
 *
 * The library does not print, exit, or raise or catch signals, and aborts only for an exception of a callback. It reads
 * no environment variable that changes results. Panics inside it are caught and returned as HZ_STATUS_PANIC. A
 * failed allocation for the model, its vocabulary or its batches returns HZ_STATUS_OUT_OF_HOST_MEMORY. A failed one of
 * other memory (lists of operations, plans, scratch of the CPU device's kernels, texts) prints a line and ends the
 * process; Linux practically never refuses these, except under a limit of address space (RLIMIT_AS).
 */
#ifndef HORIZON_H
#define HORIZON_H

#include <stddef.h>
#include <stdint.h>

/* Part of callback types. */
#if defined(__cplusplus) && __cplusplus >= 201703L
#define HZ_NOEXCEPT noexcept
#else
#define HZ_NOEXCEPT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* HZ_API: an exported function. HZ_CHECKED: one whose status must not be ignored; the compiler warns.
 * HZ_DEPRECATED: one that a later version removes; the message names its replacement. */
#if defined(__GNUC__) || defined(__clang__)
#define HZ_API __attribute__((visibility("default")))
#define HZ_CHECKED HZ_API __attribute__((warn_unused_result))
#define HZ_DEPRECATED(message) __attribute__((deprecated(message)))
#else
#define HZ_API
#define HZ_CHECKED
#define HZ_DEPRECATED(message)
#endif

/* The last constant of an enum, ..._MAX_ENUM, is not a value: it makes the enum 32 bits wide under every compiler
 * option. Functions that receive a number without a constant fail and name the argument or field. */

/* ==================================================================================================
 * Version
 */

/* The version of the library this header belongs to. */
#define HZ_VERSION "0.1.0"

/* The same as a number to compare: 10000 * major + 100 * minor + patch. */
#define HZ_VERSION_NUMBER 100

/* Incremented when programs compiled with an older header would break: a function is removed or a meaning
 * changes. Appended fields and new functions do not change it. */
#define HZ_ABI_VERSION 1

/* Returns the version of the loaded library, e.g. "0.1.0". Static, never NULL. */
HZ_API const char *hz_version(void);

/* Returns the HZ_VERSION_NUMBER of the loaded library. */
HZ_API uint32_t hz_version_number(void);

/* Returns the HZ_ABI_VERSION of the loaded library. Programs that use dlopen() compare it with their own
 * HZ_ABI_VERSION first; otherwise the soname ensures that they match. */
HZ_API uint32_t hz_abi_version(void);

/* ==================================================================================================
 * Status
 *
 * 1xx: caused by the caller. 2xx: this machine. 3xx: the device. 9xx: a bug in the library, please report
 * it. Numbers keep their meaning; later versions may add some, so handle an unknown one by its class.
 */
typedef enum hz_status_t {
    /* Success. */
    HZ_STATUS_OK = 0,
    /* An argument, option or field has a value that cannot be used. */
    HZ_STATUS_INVALID_ARGUMENT = 100,
    /* The handle's state does not allow the call: in use, no micro-batch accumulated, tracing off. */
    HZ_STATUS_INVALID_STATE = 101,
    /* No file, folder, preset or tensor has this name. */
    HZ_STATUS_NOT_FOUND = 102,
    /* The contents of a file do not match its format. */
    HZ_STATUS_BAD_FORMAT = 103,
    /* Valid, but not supported. */
    HZ_STATUS_UNSUPPORTED = 104,
    /* Every target of a step or evaluation is ignored or has weight 0. */
    HZ_STATUS_NO_TARGET = 105,
    /* A loss, gradient norm, logit or weight is not finite; nothing was changed. */
    HZ_STATUS_NON_FINITE = 110,
    /* A gradient was not finite after some units had been updated; the message names the unit. */
    HZ_STATUS_STEP_PARTIAL = 111,
    /* hz_trainer_cancel or a callback cancelled the call. */
    HZ_STATUS_CANCELLED = 112,
    /* The model does not fit into the host memory that may be used. */
    HZ_STATUS_OUT_OF_HOST_MEMORY = 200,
    /* Reading or writing a file failed. */
    HZ_STATUS_IO = 201,
    /* The disk is full. */
    HZ_STATUS_DISK_FULL = 202,
    /* The requested device is not available. */
    HZ_STATUS_DEVICE_UNAVAILABLE = 300,
    /* The model does not fit into the device memory that may be used. */
    HZ_STATUS_OUT_OF_DEVICE_MEMORY = 301,
    /* Work on the device failed; the trainer has failed permanently, but its state may be whole: save it. */
    HZ_STATUS_DEVICE_FAILED = 302,
    /* An invariant of the library is violated; the trainer has failed permanently. */
    HZ_STATUS_INTERNAL = 900,
    /* A panic was caught; the trainer has failed permanently. */
    HZ_STATUS_PANIC = 901,
    HZ_STATUS_MAX_ENUM = 0x7fffffff
} hz_status_t;

/* Returns the name of a status, e.g. "HZ_STATUS_NO_TARGET", or "HZ_STATUS_UNKNOWN". Static, never NULL. */
HZ_API const char *hz_status_name(hz_status_t status);

/* Returns the message of the last call that failed on this thread, or "" if none has. Successful calls keep
 * it, so check the status first. Never NULL. Valid until the next call that fails on this thread, or until
 * the thread ends. */
HZ_API const char *hz_last_error(void);

/* ==================================================================================================
 * Log
 */

typedef enum hz_log_level_t {
    /* Only for hz_set_log_level: no message. */
    HZ_LOG_NONE = 0,
    /* A trainer failed permanently. The call that notices it returns the same error. */
    HZ_LOG_ERROR = 1,
    /* Something unexpected that is not an error, e.g. host_mem exceeds the free memory. */
    HZ_LOG_WARNING = 2,
    /* A trainer, an arena, or an optimizer that keeps its state was opened; its size, a trainer's device. */
    HZ_LOG_INFO = 3,
    /* Details for a bug report, when a trainer was opened: its options and its plan line by line, its kernels, and
     * where the algorithms of its GEMMs come from. */
    HZ_LOG_DEBUG = 4,
    HZ_LOG_MAX_ENUM = 0x7fffffff
} hz_log_level_t;

/* Receives one message without a newline; `message` is valid during the call only. */
typedef void (*hz_log_callback_t)(hz_log_level_t level, const char *message, void *user) HZ_NOEXCEPT;

/* Sets the callback for log messages of the whole process. NULL, the default, discards them.
 *
 * Threads: the callback may run on any thread, but never on two at once. It should return quickly, must not
 * throw or longjmp, and must not call the library: the interrupted call or lane may hold what such a call
 * needs. (This function detects it and fails.)
 * Blocks until a running callback returns: afterwards the old callback is never called again and its `user`
 * may be freed.
 * Errors: HZ_STATUS_INVALID_STATE when called inside a callback. */
HZ_CHECKED hz_status_t hz_set_log_callback(hz_log_callback_t callback /* or NULL */, void *user /* or NULL */);

/* Sets the highest level of the messages that the callback receives, for the whole process: HZ_LOG_INFO by default.
 * Other messages are not even formatted. Errors: HZ_STATUS_INVALID_ARGUMENT for an unknown level. */
HZ_CHECKED hz_status_t hz_set_log_level(hz_log_level_t level);

/* ==================================================================================================
 * Devices
 */

/* The device that computes layers. */
typedef enum hz_device_t {
    /* The best available device that the library was built for and that supports the model. */
    HZ_DEVICE_AUTO = 0,
    /* The CPU, with a device memory of its own in RAM. Runs anywhere; the numerical reference. */
    HZ_DEVICE_CPU = 1,
    /* CUDA device number device_index, in the order of CUDA_VISIBLE_DEVICES. It becomes the calling thread's
     * current CUDA device. If the library was built without kernels, or a driver, the device or cuBLASLt is missing,
     * hz_trainer_open fails with HZ_STATUS_DEVICE_UNAVAILABLE and says which. */
    HZ_DEVICE_CUDA = 2,
    HZ_DEVICE_MAX_ENUM = 0x7fffffff
} hz_device_t;

/* A device of this machine. */
typedef struct hz_device_info_t {
    uint32_t struct_size;
    hz_device_t kind;     /* HZ_DEVICE_CPU or HZ_DEVICE_CUDA */
    uint32_t index;       /* the CUDA device number; 0 for the CPU */
    uint32_t reserved;    /* 0 */
    uint64_t memory;      /* device memory, bytes; for the CPU the RAM that this process may use: that of the machine or
                             of its control groups */
    uint64_t memory_free; /* the part that a trainer may use now; on CUDA 1 GiB less than what is free (at most 1/16 of
                             the device) */
    char name[128];       /* e.g. "NVIDIA H200", or the instruction set and threads of the CPU; NUL-terminated */
} hz_device_info_t;

#define HZ_DEVICE_INFO_INIT {sizeof(hz_device_info_t), HZ_DEVICE_AUTO, 0, 0, 0, 0, {0}}
HZ_CHECKED hz_status_t hz_device_info_init(hz_device_info_t *value, size_t struct_size);

/* Sets *out_count to the number of devices of a kind: 1 for HZ_DEVICE_CPU and HZ_DEVICE_AUTO; for HZ_DEVICE_CUDA the
 * devices that the driver shows to this process (CUDA_VISIBLE_DEVICES). No CUDA device, no driver and a library without
 * kernels are a count of 0 and no error; hz_device_info says why, and whether a device can train.
 * Errors: HZ_STATUS_INVALID_ARGUMENT for an unknown kind; HZ_STATUS_DEVICE_FAILED or HZ_STATUS_DEVICE_UNAVAILABLE if
 * CUDA is there and cannot count. */
HZ_CHECKED hz_status_t hz_device_count(hz_device_t kind, uint32_t *out_count);

/* Fills in device `index` of a kind. HZ_DEVICE_AUTO: the device that trainers open by default if CUDA's kernels
 * support the model; `index` is ignored. A CUDA device is opened for the call and becomes the calling thread's current
 * one.
 * Errors: HZ_STATUS_DEVICE_UNAVAILABLE, with the reason: a library without kernels, no driver, no such device, a
 * device that is too old, cuBLASLt; HZ_STATUS_INVALID_ARGUMENT for an unknown kind, or a CPU other than 0. */
HZ_CHECKED hz_status_t hz_device_info(hz_device_t kind, uint32_t index, hz_device_info_t *out_info);

/* ==================================================================================================
 * Model
 */

/* Scaling of rotary position embeddings (RoPE). */
typedef enum hz_rope_t {
    /* None. */
    HZ_ROPE_PLAIN = 0,
    /* Every frequency is divided by rope_factor. */
    HZ_ROPE_LINEAR = 1,
    /* As in Llama 3.1: frequencies of wavelengths above rope_original_positions / rope_low_freq_factor are divided by
     * rope_factor, those below rope_original_positions / rope_high_freq_factor are unchanged, and those between
     * are interpolated. */
    HZ_ROPE_LLAMA3 = 2,
    /* YaRN: pairs that turn less than rope_beta_slow times in rope_original_positions are divided by rope_factor, those
     * that turn more than rope_beta_fast times are unchanged, and those between are interpolated. */
    HZ_ROPE_YARN = 3,
    /* LongRoPE: pair i is divided by rope_short_factor[i], or by rope_long_factor[i] if sequence_length is greater than
     * rope_original_positions. */
    HZ_ROPE_LONG = 4,
    HZ_ROPE_MAX_ENUM = 0x7fffffff
} hz_rope_t;

/* Places of the norms in a layer. */
typedef enum hz_norms_t {
    /* x + f(norm(x)), f being attention or MLP. */
    HZ_NORMS_BEFORE = 0,
    /* x + norm(f(x)), as in OLMo 2. */
    HZ_NORMS_AFTER = 1,
    /* x + norm(f(norm(x))), as in Gemma and GLM-4. */
    HZ_NORMS_AROUND = 2,
    HZ_NORMS_MAX_ENUM = 0x7fffffff
} hz_norms_t;

/* Activation of the MLP's gate. */
typedef enum hz_activation_t {
    HZ_ACTIVATION_SILU = 0,
    /* GELU in its approximation by tanh. */
    HZ_ACTIVATION_GELU_TANH = 1,
    HZ_ACTIVATION_MAX_ENUM = 0x7fffffff
} hz_activation_t;

/* A decoder: RMSNorm, RoPE, causal grouped-query attention (GQA), a gated MLP, and the options of the families that
 * README.md lists. Fields have the names of config.json where it has them. Combinations that no family has (e.g.
 * qk_norm with mlp_bias) fail with HZ_STATUS_UNSUPPORTED when a trainer is opened, because they could not be
 * exported. */
typedef struct hz_model_config_t {
    uint32_t struct_size;
    uint32_t tie_word_embeddings;     /* 1: embedding and LM head share one tensor */
    uint64_t vocab_size;              /* V; token ids are 0 .. V-1 */
    uint64_t hidden_size;             /* C, width of the residual stream */
    uint64_t intermediate_size;       /* F, width of the MLP */
    uint64_t num_hidden_layers;       /* L */
    uint64_t num_attention_heads;     /* H, query heads */
    uint64_t num_key_value_heads;     /* G, KV heads (GQA); divides H; 0 = H */
    uint64_t head_dim;                /* D, even; 0 = C/H */
    uint64_t max_position_embeddings; /* the longest sequence_length */
    double rms_norm_eps;              /* used as f32 */
    double rope_theta;                /* base of the rotary frequencies */
    uint32_t qkv_bias;                /* 1: the query, key and value projections have biases */
    uint32_t o_bias;                  /* 1: the attention output projection has a bias */
    uint32_t mlp_bias;                /* 1: the gate, up and down projections have biases */
    uint32_t qk_norm;                 /* RMSNorm before RoPE, 1: of every query and key head, 2: of all query heads
                                       * together, and of all key heads together */
    hz_rope_t rope_scaling;           /* HZ_ROPE_* */
    uint32_t rope_original_positions; /* LLAMA3, YARN, LONG: original_max_position_embeddings; otherwise ignored */
    double rope_factor;               /* LINEAR, LLAMA3, YARN: at least 1; otherwise ignored */
    double rope_low_freq_factor;      /* LLAMA3: less than rope_high_freq_factor; otherwise ignored */
    double rope_high_freq_factor;     /* LLAMA3; otherwise ignored */
    uint64_t sliding_window;          /* positions a row attends to, including itself; 0 = no window */
    /* Layers with full attention despite sliding_window: bit l % 64 of word l / 64 is layer l. Layers 256 and
     * above are like layer 255. */
    uint64_t full_attention_layers[4];
    hz_norms_t norms;                 /* HZ_NORMS_* */
    uint32_t norms_plus_one;          /* 1: norms multiply by 1 + weight */
    hz_activation_t activation;       /* HZ_ACTIVATION_* */
    uint32_t rope_interleaved;        /* 1: elements 2i and 2i + 1 of a head are a pair; 0: i and i + rotary_dim/2 */
    uint64_t rotary_dim;              /* the first elements of a head that rotate, even; 0 = head_dim */
    double sliding_rope_theta;        /* base of layers with a window, without scaling; 0 = as the other layers */
    uint64_t no_rope_layers[4];       /* layers without rotary positions; bits as in full_attention_layers */
    double query_scaling_beta;        /* queries are multiplied by 1 + beta * ln(1 + floor(position / positions)); */
    uint64_t query_scaling_positions; /* beta 0 = they are not */
    double embedding_multiplier;      /* of embeddings, > 0; used as f32, like the next three */
    double residual_multiplier;       /* of what attention and MLP add to the residual stream, > 0 */
    double attention_multiplier;      /* of attention's scores; 0 = 1/sqrt(head_dim) */
    double logits_multiplier;         /* of logits, > 0 */
    double rope_attention_factor;     /* YARN, LONG: multiplies rotated queries and keys, > 0; otherwise ignored */
    double rope_beta_fast;            /* YARN; otherwise ignored */
    double rope_beta_slow;            /* YARN: at most rope_beta_fast; otherwise ignored */
    uint32_t rope_truncate;           /* YARN, 1: the interpolated pairs are a range of whole pairs */
    uint32_t reserved;                /* 0 */
    double rope_short_factor[128];    /* LONG: one per rotating pair, > 0; otherwise ignored */
    double rope_long_factor[128];     /* LONG: one per rotating pair, > 0; otherwise ignored */
} hz_model_config_t;

/* The sizes are 0; fill them in, or use hz_model_config_from_preset or hz_model_config_from_hf. */
#define HZ_MODEL_CONFIG_INIT \
    {sizeof(hz_model_config_t), 0, 0, 0, 0, 0, 0, 0, 0, 0, 1e-5, 10000.0, \
     0, 0, 0, 0, HZ_ROPE_PLAIN, 0, 0.0, 0.0, 0.0, 0, {0, 0, 0, 0}, \
     HZ_NORMS_BEFORE, 0, HZ_ACTIVATION_SILU, 0, 0, 0.0, {0, 0, 0, 0}, 0.0, 0, 1.0, 1.0, 0.0, 1.0, 1.0, 32.0, 1.0, \
     1, 0, {0.0}, {0.0}}
HZ_CHECKED hz_status_t hz_model_config_init(hz_model_config_t *value, size_t struct_size);

/* Fills in a built-in model: "tiny" (0.8 M parameters) or "small" (13 M), both byte-level with V = 256; or, for
 * planning, "qwen2.5-0.5b" .. "qwen2.5-72b", "llama3.1-8b" .. "llama3.1-405b", "gemma3-1b" and the other names of
 * `horizon plan --help`, "dense-120b", "dense-1t".
 * Errors: HZ_STATUS_NOT_FOUND, with the names that exist. */
HZ_CHECKED hz_status_t hz_model_config_from_preset(const char *name, hz_model_config_t *out_config);

/* Fills in the model of a Hugging Face folder, of a checkpoint, or of the latest checkpoint of a folder, as
 * hz_trainer_resume opens it. Of a Hugging Face folder it reads only config.json.
 * Errors: HZ_STATUS_NOT_FOUND, HZ_STATUS_IO, HZ_STATUS_BAD_FORMAT (not JSON, or a missing field),
 * HZ_STATUS_UNSUPPORTED (an architecture or feature, by name; or layers beyond 255 with another window or rotation). */
HZ_CHECKED hz_status_t hz_model_config_from_hf(const char *folder, hz_model_config_t *out_config);

/* ==================================================================================================
 * Options
 */

/* Host memory per parameter. */
typedef enum hz_mode_t {
    /* 14 bytes: bf16 weight, 16-bit residual (together the exact f32 master), bf16 gradient, f32 moments.
     * 16 bytes with f32 gradients. */
    HZ_MODE_EXACT = 1,
    /* 12 bytes: gradients pass through a small ring buffer and are used at once. Needs clip = 0 or
     * grad_place = HZ_PLACE_DEVICE. */
    HZ_MODE_STREAMED = 2,
    /* 10 bytes: as HZ_MODE_EXACT, with bf16 moments that are rounded stochastically (unbiased, reproducible).
     * 8 bytes with HZ_ADAM_WHEN_UNDER_BACKWARD or grad_place = HZ_PLACE_DEVICE, where gradients pass through the
     * ring buffer. */
    HZ_MODE_COMPACT = 3,
    HZ_MODE_MAX_ENUM = 0x7fffffff
} hz_mode_t;

/* Element types. */
typedef enum hz_dtype_t {
    /* Not a type: the value of a field that must be set. */
    HZ_DTYPE_UNSET = 0,
    HZ_DTYPE_BF16 = 1,
    HZ_DTYPE_F32 = 2,
    HZ_DTYPE_MAX_ENUM = 0x7fffffff
} hz_dtype_t;

/* The time at which AdamW runs. */
typedef enum hz_adam_when_t {
    /* HZ_ADAM_WHEN_AFTER_NORM; in HZ_MODE_STREAMED with gradients on the host HZ_ADAM_WHEN_UNDER_BACKWARD. */
    HZ_ADAM_WHEN_AUTO = 0,
    /* Once the loss and the norm of the whole step are known, overlapping the next step's forward. If they are not
     * finite, nothing is updated. */
    HZ_ADAM_WHEN_AFTER_NORM = 1,
    /* As soon as a unit's gradient is on the host, overlapping backward. Needs clip = 0. A unit whose gradient is not
     * finite is not updated: see HZ_STATUS_STEP_PARTIAL. */
    HZ_ADAM_WHEN_UNDER_BACKWARD = 2,
    HZ_ADAM_WHEN_MAX_ENUM = 0x7fffffff
} hz_adam_when_t;

/* Allocation of the pinned host memory of a CUDA device. The results are the same. */
typedef enum hz_pinning_t {
    /* Huge pages on the device's NUMA node, touched by all threads, then registered with CUDA. */
    HZ_PINNING_REGISTERED = 0,
    /* CUDA's allocator, with a memory policy for that node. */
    HZ_PINNING_ALLOCATED = 1,
    HZ_PINNING_MAX_ENUM = 0x7fffffff
} hz_pinning_t;

/* Activation checkpointing: the part of a layer's forward that its backward recomputes. The other activations stay on
 * the device from forward to backward, for every micro-batch of a sweep. */
typedef enum hz_recompute_t {
    /* Everything, from the layer's input: least memory. */
    HZ_RECOMPUTE_FULL = 1,
    /* Norms and SwiGLU only: no matmul, no attention. */
    HZ_RECOMPUTE_SELECTIVE = 2,
    /* Nothing: most memory. */
    HZ_RECOMPUTE_NONE = 3,
    /* Everything except attention, whose output and log-sum-exp are kept. */
    HZ_RECOMPUTE_LINEARS = 4,
    /* The first norm and the MLP half. As HZ_RECOMPUTE_LINEARS, but queries, keys, values and the post-attention
     * residual are kept, too. */
    HZ_RECOMPUTE_MLP = 5,
    HZ_RECOMPUTE_MAX_ENUM = 0x7fffffff
} hz_recompute_t;

/* The memory that holds something until it is used. HOST offloads it. */
typedef enum hz_place_t {
    /* The library's choice; see each field. */
    HZ_PLACE_AUTO = 0,
    HZ_PLACE_HOST = 1,
    HZ_PLACE_DEVICE = 2,
    HZ_PLACE_MAX_ENUM = 0x7fffffff
} hz_place_t;

/* The placement of layers first .. first + count - 1, counted from 0. */
typedef struct hz_layer_placement_t {
    uint32_t struct_size;
    hz_recompute_t recompute; /* HZ_RECOMPUTE_* */
    hz_place_t boundary;      /* HZ_PLACE_*, AUTO = DEVICE: the layer's input between its forward and backward. On the
                                 device B*T*C activations per micro-batch of a sweep; if all layers offload theirs to
                                 the host, device memory does not grow with the number of layers */
    uint32_t resident;        /* 1: the weights stay on the device during a step, in a slot of their own, and are
                                 uploaded once per step instead of once or twice per sweep */
    hz_place_t accumulator;   /* HZ_PLACE_*, AUTO = HOST: the layer's f32 gradient accumulator between the sweeps of a
                                 step. On the device 4 bytes per parameter. Unused with one sweep */
    uint32_t reserved;        /* 0 */
    uint64_t first;
    uint64_t count;           /* 0 = all from `first` on */
} hz_layer_placement_t;

/* All layers, with the placement that a trainer uses by default: least memory, boundaries on the device. */
#define HZ_LAYER_PLACEMENT_INIT \
    {sizeof(hz_layer_placement_t), HZ_RECOMPUTE_FULL, HZ_PLACE_AUTO, 0, HZ_PLACE_AUTO, 0, 0, 0}
HZ_CHECKED hz_status_t hz_layer_placement_init(hz_layer_placement_t *value, size_t struct_size);

/* Settings of a trainer. Placement never changes a bit of the results: weight_slots, slabs, sweeps, layers, grad_place,
 * threads, adam_when and the memory limits may be chosen freely. */
typedef struct hz_trainer_options_t {
    uint32_t struct_size;
    hz_device_t device;       /* HZ_DEVICE_* */
    hz_mode_t mode;           /* HZ_MODE_* */
    hz_dtype_t grad_dtype;    /* HZ_DTYPE_*: gradients are rounded to it, once, when they leave the device */
    hz_adam_when_t adam_when; /* HZ_ADAM_* */
    uint32_t tracing;         /* 1: record all lanes for hz_trainer_trace; memory grows with every step */
    uint32_t device_index;    /* HZ_DEVICE_CUDA: the device number */
    hz_pinning_t pinning;     /* HZ_PINNING_*, for HZ_DEVICE_CUDA */
    uint64_t sequences;       /* B, sequences per micro-batch */
    uint64_t sequence_length; /* T, tokens per sequence */
    uint64_t micros_max;      /* most micro-batches per step or evaluation (gradient accumulation steps) */
    uint64_t logits_chunk;    /* rows of logits computed at a time; 0 = as many as fit into 32 MiB; on CUDA 1 GiB, at
                                 most 2048 */
    uint64_t weight_slots;    /* weight slots on the device for layers that are not resident, >= 2; 0 = 2, in
                                 hz_plan_search the fastest number */
    uint64_t slabs;           /* gradient staging buffers on the device, >= 2; 0 as for weight_slots */
    uint64_t device_mem;      /* limit of device memory, bytes; 0 = none. At most what is free is used; on CUDA 1 GiB
                                 less (at most 1/16 of the device), for kernels and handles */
    uint64_t host_mem;        /* limit of host memory, bytes; 0 = the free memory. More than that is accepted with a
                                 logged warning, for virtual machines whose memory grows when used; opening fails with
                                 HZ_STATUS_OUT_OF_HOST_MEMORY if it does not */
    uint64_t threads;         /* CPU threads, at most max(1024, processors); 0 = all that this process may run on */
    double beta1;             /* AdamW (Loshchilov & Hutter 2019). Defaults are PyTorch's; those of the command `horizon
                                 train` are beta2 0.95 and weight decay 0.1 */
    double beta2;
    double eps;
    double weight_decay;      /* decoupled, 0 to 3.4e38 (f32); for tensors of two or more dimensions */
    double clip;              /* largest global gradient norm, at most 3.4e38 (f32); 0 = no clipping */
    hz_place_t grad_place;    /* HZ_PLACE_*, AUTO = HOST: where rounded gradients wait for AdamW. On the device 2 or 4
                                 bytes per parameter, and HZ_MODE_STREAMED can clip */
    uint32_t sweeps;          /* sweeps per step: the micro-batches are divided among them, and only those of one sweep
                                 have activations on the device. 0 = 1 */
    const hz_layer_placement_t *layers; /* or NULL; where two placements name the same layer, the later one holds */
    uint64_t layers_count;              /* number of elements of layers */
    const char *gemm_table; /* or NULL: path of the GEMM autotune table of a CUDA device, written by `horizon
                               calibrate`. hz_trainer_open fails if it does not cover the device and the loaded
                               cuBLASLt. A table may change bits. NULL: cuBLASLt's heuristic, which depends only on the
                               shape, the device and its version; nothing is measured. The CPU device ignores it */
    uint32_t measuring;     /* 1: sum up the busy time of every lane for hz_trainer_busy_seconds, at two clock readings
                               per task. Implied by tracing = 1 */
    uint32_t reserved;      /* 0 */
} hz_trainer_options_t;

/* Exact mode, bf16 gradients, one micro-batch of 1 x 256 tokens, two slots and slabs; AdamW as in PyTorch (0.9,
 * 0.999, 1e-8, weight decay 0.01); clip 1. */
#define HZ_TRAINER_OPTIONS_INIT \
    {sizeof(hz_trainer_options_t), HZ_DEVICE_AUTO, HZ_MODE_EXACT, HZ_DTYPE_BF16, HZ_ADAM_WHEN_AUTO, 0, 0, \
     HZ_PINNING_REGISTERED, 1, 256, 1, 0, 0, 0, 0, 0, 0, 0.9, 0.999, 1e-8, 0.01, 1.0, HZ_PLACE_AUTO, 0, NULL, 0, NULL, \
     0, 0}
HZ_CHECKED hz_status_t hz_trainer_options_init(hz_trainer_options_t *value, size_t struct_size);

/* Returns the options, limits and defaults of this library as one JSON object, for bindings and user interfaces:
 *
 *     {"version": "0.1.0",
 *      "structs": {"hz_trainer_options_t": [
 *          {"name": "mode", "type": "hz_mode_t", "default": 1, "values": {"HZ_MODE_EXACT": 1, ...}},
 *          {"name": "beta1", "type": "double", "default": 0.9, "min": 0.0, "below": 1.0},
 *          {"name": "slabs", "type": "uint64_t", "default": 0, "min": 2, "max": 8192, "or": 0},
 *          {"name": "host_mem", "type": "uint64_t", "default": 0, "unit": "bytes"}, ...], ...},
 *      "enums": {"hz_status_t": {"HZ_STATUS_OK": 0, ...}, ...},
 *      "machine": {"threads_max": 1024}}
 *
 * "structs" has all structs of this header with their fields in order, struct_size excepted. A pointer has the type
 * "pointer" and the default null. Arrays have the types "uint64_t[4]", with an array as the default, and "char[128]",
 * with a string. "values" are the constants that the field accepts: all but HZ_DTYPE_UNSET. "min" and "max" are
 * allowed, "below" is not; "or" is allowed, too. A value within these limits may still contradict another field.
 * "enums" has all enums of this header and their constants except ..._MAX_ENUM; "machine" the limits that depend on the
 * machine.
 * Static, never NULL. */
HZ_API const char *hz_options_json(void);

/* ==================================================================================================
 * Plan: the memory and the predicted speed of a trainer, before it is opened
 */

/* Lanes: ordered queues of work that run concurrently. Later versions may add some; see hz_lane_name. */
typedef enum hz_lane_t {
    HZ_LANE_COMPUTE = 0, /* kernels */
    HZ_LANE_H2D = 1,     /* copies from host to device */
    HZ_LANE_D2H = 2,     /* copies from device to host */
    HZ_LANE_HOST = 3,    /* AdamW */
    HZ_LANE_DISK = 4,    /* saves */
    HZ_LANE_MAX_ENUM = 0x7fffffff
} hz_lane_t;

/* Returns the name of a lane, HZ_LANE_*, as in traces; NULL above the last lane. Static. */
HZ_API const char *hz_lane_name(hz_lane_t lane);

/* A model, options, and every byte that they need. Immutable. */
typedef struct hz_plan_t hz_plan_t;

/* Figures of a plan. */
typedef struct hz_plan_summary_t {
    uint32_t struct_size;
    hz_adam_when_t adam_when;        /* HZ_ADAM_WHEN_AFTER_NORM or HZ_ADAM_WHEN_UNDER_BACKWARD, never AUTO */
    uint64_t parameters;             /* P; a tied tensor counts once */
    uint64_t logits_chunk;           /* rows, never 0 */
    uint64_t device_bytes;           /* device memory */
    uint64_t device_bytes_per_micro; /* the change of device_bytes per micro-batch of a step */
    uint64_t host_bytes;             /* host memory: host_wire_bytes + host_state_bytes */
    uint64_t host_wire_bytes;        /* copied to or from the device: weights, gradients, batches */
    uint64_t host_state_bytes;       /* never copied: residuals, moments */
    uint64_t ram_bytes;              /* compared with host_mem: host_bytes, plus device_bytes where device memory is
                                        RAM, as on the CPU device */
    double step_seconds;             /* hz_plan_search: simulated time per step in a long run; otherwise 0 */
    double tokens_per_second;        /* simulated throughput; otherwise 0 */
    double tflops;                   /* simulated, 10^12 FLOP/s; only useful FLOPs: 6 * P_matmul + causal attention per
                                        token, without recompute; otherwise 0 */
} hz_plan_summary_t;

#define HZ_PLAN_SUMMARY_INIT {sizeof(hz_plan_summary_t), HZ_ADAM_WHEN_AUTO, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0}
HZ_CHECKED hz_status_t hz_plan_summary_init(hz_plan_summary_t *value, size_t struct_size);

/* Computes the plan that hz_trainer_open would use. Allocates no model memory and opens no device. Does not check
 * whether the plan fits this machine, so that a plan for a larger one can be computed: see hz_plan_admit.
 *
 * Ownership: the caller closes *out_plan with hz_plan_close.
 * Errors: HZ_STATUS_INVALID_ARGUMENT, naming the field of model or options; HZ_STATUS_UNSUPPORTED for a model that the
 * kernels of a chosen CUDA device do not support. */
HZ_CHECKED hz_status_t hz_plan_open(const hz_model_config_t *model, const hz_trainer_options_t *options /* or NULL */,
                                    hz_plan_t **out_plan);

/* Searches the placement with the shortest simulated step that fits a machine, this one or another: resident layers,
 * offload, activation checkpointing, slots, slabs, sweeps, and where gradients wait. Simulates only; takes a second
 * or two. Options that are set stay: weight_slots, slabs and sweeps unless 0, grad_place unless
 * HZ_PLACE_AUTO, adam_when unless HZ_ADAM_WHEN_AUTO, and layers. The plan fits the memory of the described machine, or
 * device_mem and host_mem if they are set; hz_plan_admit checks whether it fits this one. A step has
 * options->micros_max micro-batches, announced by hz_trainer_announce.
 *
 * machine: "cpu", "h200", "gh200", "h100-sxm", "h100-pcie", "a100-pcie", "rtx5090", "rtx4090", "rtx3090", or the
 * path of a file written by `horizon calibrate`; NULL = "cpu". If the machine's device memory is RAM, its host memory
 * is what is free on this machine now.
 *
 * Ownership: the caller closes *out_plan with hz_plan_close.
 * Errors: those of hz_plan_open, for the kind of device that the machine has; HZ_STATUS_INVALID_ARGUMENT if
 * options->device is of another kind; HZ_STATUS_OUT_OF_DEVICE_MEMORY or HZ_STATUS_OUT_OF_HOST_MEMORY if nothing fits,
 * with the limit, the missing bytes and the smallest change that fits; HZ_STATUS_NOT_FOUND, HZ_STATUS_IO and
 * HZ_STATUS_BAD_FORMAT for the machine. */
HZ_CHECKED hz_status_t hz_plan_search(const hz_model_config_t *model,
                                      const hz_trainer_options_t *options /* or NULL */,
                                      const char *machine /* or NULL */, hz_plan_t **out_plan);

/* Checks whether a trainer can be opened with the plan, on this machine and now. It makes the checks of
 * hz_trainer_open_planned, and of hz_trainer_open with the same model and options, with their statuses and messages:
 * the model; the device, for a plan of hz_plan_search also its kind and name; free device memory, or device_mem if that
 * is less; free RAM and the control group's limit, or host_mem if it is set; pinnable memory; that gemm_table covers
 * the device and the loaded cuBLASLt. What it accepts can be opened unless memory is taken meanwhile, the system
 * refuses it, the device fails, or cuBLASLt refuses an algorithm of gemm_table.
 *
 * Allocates no model memory. A CUDA device is opened for the call and becomes the calling thread's current one.
 * Errors: HZ_STATUS_OUT_OF_DEVICE_MEMORY or HZ_STATUS_OUT_OF_HOST_MEMORY, with the bytes needed, the limit and its
 * source, the missing bytes, and the smallest changes that fit; and the other errors of hz_trainer_open_planned. */
HZ_CHECKED hz_status_t hz_plan_admit(const hz_plan_t *plan);

/* Fills in the figures of the plan. */
HZ_CHECKED hz_status_t hz_plan_summary(const hz_plan_t *plan, hz_plan_summary_t *out_summary);

/* Sets *out_seconds to the simulated busy time of a lane, HZ_LANE_*, per step; 0 for a plan of hz_plan_open. Compare
 * with hz_trainer_busy_seconds. Errors: HZ_STATUS_INVALID_ARGUMENT for an unknown lane. */
HZ_CHECKED hz_status_t hz_plan_busy_seconds(const hz_plan_t *plan, hz_lane_t lane, double *out_seconds);

/* Sets *out_json to the plan as one JSON object. All plans have
 *   the fields of hz_plan_summary_t;
 *   "options": the fields of an hz_trainer_options_t with which hz_trainer_open follows the plan. Enums are numbers,
 *       "layers" is an array of objects with the fields of hz_layer_placement_t, "gemm_table" a string or null;
 *   "device_regions", "host_regions": arrays of {"name", "bytes"} that add up to device_bytes and host_bytes.
 * Plans of hz_plan_search also have, as in the output of `horizon plan --json`, in the words of that command,
 *   "mode", "grad_dtype", "sequences", "sequence_length": the options of these names;
 *   "micros", "tokens": micro-batches and tokens of a step;
 *   "placement": the chosen options; layers "first" to "last", "ring" slabs of the host's ring buffer for gradients;
 *   "save_bytes", "save_seconds": the size of a checkpoint's state, and the time to write it;
 *   "lanes_busy": the busy fraction of a step, by lane; "busiest_lane", and "critical_lane", the one with the largest
 *       part of the critical path;
 *   "with": step times with more memory, or a faster link, RAM or GPU; "better_micro_batch": one with a higher
 *       throughput, or null;
 *   "placements_simulated": their number; "machine": its name; "machine_rates": its figures and their sources.
 * Later versions may add keys.
 * Ownership: the text belongs to the plan. */
HZ_CHECKED hz_status_t hz_plan_json(const hz_plan_t *plan, const char **out_json);

/* Writes a simulated step, and the two before it, to a Chrome trace file, in the form of hz_trainer_trace. An existing
 * file is replaced, atomically; symlinks are followed.
 * Blocks for the disk.
 * Errors: HZ_STATUS_INVALID_STATE for a plan of hz_plan_open, which has no machine model; HZ_STATUS_INVALID_ARGUMENT if
 * path is a folder, device, pipe or socket; HZ_STATUS_NOT_FOUND (the folder), HZ_STATUS_IO, HZ_STATUS_DISK_FULL. */
HZ_CHECKED hz_status_t hz_plan_trace(const hz_plan_t *plan, const char *path);

/* Frees a plan, when the last call that uses it returns. NULL is ignored.
 * Errors, only in hz_last_error: as for other handles. */
HZ_API void hz_plan_close(hz_plan_t *plan /* or NULL */);

/* ==================================================================================================
 * Trainer
 */

/* A model in host RAM and the device that trains it. */
typedef struct hz_trainer_t hz_trainer_t;

/* Opens a trainer: plans it, checks that it fits, allocates all memory it will ever use, starts its threads. Weights
 * and moments are zero and the step number is 0: continue with hz_trainer_init_weights, hz_trainer_load_hf,
 * hz_trainer_write_tensor or hz_trainer_resume. Until one of them has succeeded, steps, evaluations, logits,
 * log-probabilities, exports and saves fail with HZ_STATUS_INVALID_STATE.
 *
 * Ownership: the caller closes *out_trainer with hz_trainer_close.
 * Blocks until the memory is allocated: seconds for hundreds of GiB.
 * Errors: HZ_STATUS_INVALID_ARGUMENT, naming the field of model or options; HZ_STATUS_UNSUPPORTED (the model);
 * HZ_STATUS_DEVICE_UNAVAILABLE; HZ_STATUS_OUT_OF_DEVICE_MEMORY and HZ_STATUS_OUT_OF_HOST_MEMORY, as for hz_plan_admit;
 * for gemm_table HZ_STATUS_NOT_FOUND, HZ_STATUS_IO, HZ_STATUS_BAD_FORMAT and HZ_STATUS_INVALID_ARGUMENT (made for
 * another device or cuBLASLt). */
HZ_CHECKED hz_status_t hz_trainer_open(const hz_model_config_t *model,
                                       const hz_trainer_options_t *options /* or NULL */, hz_trainer_t **out_trainer);

/* Opens a trainer that follows a plan. The plan may be closed afterwards.
 *
 * A plan of hz_plan_search runs on the kind of device it was searched for: HZ_DEVICE_AUTO means the CPU or CUDA device
 * 0, as its machine has it. A CUDA device must have the name in the machine's file ("device", e.g. H200). Device and
 * host memory must suffice as for hz_trainer_open, whatever the machine's file says. hz_plan_admit checks all of this
 * without opening.
 * Ownership, blocks: as hz_trainer_open.
 * Errors: those of hz_trainer_open; HZ_STATUS_DEVICE_UNAVAILABLE, naming both devices, if the chosen one is not the
 * plan's. */
HZ_CHECKED hz_status_t hz_trainer_open_planned(const hz_plan_t *plan, hz_trainer_t **out_trainer);

/* Closes a trainer: finishes pending work, ends its threads, frees its memory. NULL is ignored. The handle is gone
 * afterwards, whatever the result, except after HZ_STATUS_INVALID_STATE: another call is running on it.
 * Blocks until all lanes are done.
 * Errors: the first error of a failed trainer, including work that no call had waited for; the error of a save whose
 * result hz_trainer_save_wait did not return, also logged as HZ_LOG_WARNING. */
HZ_API hz_status_t hz_trainer_close(hz_trainer_t *trainer /* or NULL */);

/* Fills in the device of the trainer, e.g. the one that HZ_DEVICE_AUTO chose. memory_free is what it left free when it
 * was opened.
 * Threads: as hz_trainer_model. */
HZ_CHECKED hz_status_t hz_trainer_device(const hz_trainer_t *trainer, hz_device_info_t *out_info);

/* Fills in the model of the trainer, with derived values in place of zeros.
 * Threads: any, concurrently with any other call. Works on a failed trainer. */
HZ_CHECKED hz_status_t hz_trainer_model(const hz_trainer_t *trainer, hz_model_config_t *out_config);

/* --------------------------------------------------------------------------------------------------
 * Weights
 *
 * Weights are finite f32 numbers: hz_trainer_load_hf and hz_trainer_write_tensor refuse others. AdamW can still
 * overflow (a huge learning rate), and a number above 3.39e38 becomes infinite where it is rounded to bf16. Steps,
 * evaluations, logits and log-probabilities with such weights, exporting them, and checkpoints of them fail with
 * HZ_STATUS_NON_FINITE.
 */

/* A tensor of the model. Names are as in Hugging Face's Llama, and the same in all families. The weight files of some
 * families have others, or fuse tensors: Phi-3's qkv_proj is q_proj, k_proj and v_proj here. */
typedef struct hz_tensor_info_t {
    uint32_t struct_size;
    uint32_t rank;     /* number of dimensions */
    const char *name;  /* e.g. "model.layers.3.mlp.up_proj.weight"; belongs to the trainer */
    uint64_t shape[4]; /* [out, in] or [C]; 0 from `rank` on */
    uint64_t elements; /* product of the dimensions */
} hz_tensor_info_t;

#define HZ_TENSOR_INFO_INIT {sizeof(hz_tensor_info_t), 0, NULL, {0, 0, 0, 0}, 0}
HZ_CHECKED hz_status_t hz_tensor_info_init(hz_tensor_info_t *value, size_t struct_size);

/* Sets *out_count to the number of tensors. A tied LM head is not counted. Threads: as hz_trainer_model. */
HZ_CHECKED hz_status_t hz_trainer_tensor_count(const hz_trainer_t *trainer, size_t *out_count);

/* Fills in tensor `index`, 0 .. count-1, in forward order. Threads: as hz_trainer_model.
 * Errors: HZ_STATUS_INVALID_ARGUMENT above the last. */
HZ_CHECKED hz_status_t hz_trainer_tensor(const hz_trainer_t *trainer, size_t index, hz_tensor_info_t *out_tensor);

/* Initializes the weights as GPT-2 does: matrices normal with standard deviation 0.02, o_proj and down_proj with
 * 0.02/sqrt(2L), norms 1, biases 0. The values of a tensor depend only on the seed and its name. Moments and step
 * number do not change.
 * Blocks until the work in progress on each unit is done. */
HZ_CHECKED hz_status_t hz_trainer_init_weights(hz_trainer_t *trainer, uint64_t seed);

/* Loads the weights of a Hugging Face folder: model.safetensors, or its shards; f32, bf16 or f16. Its config.json must
 * describe the trainer's model, and every tensor must be there with its shape. Names of tensors may have the prefixes
 * of wrappers, as `module.`, and tensors of other heads are left out: HZ_LOG_WARNING has a message about each kind.
 * Moments and step number do not change.
 * Blocks until the lanes are done, and for the disk.
 * Errors: HZ_STATUS_INVALID_ARGUMENT (another model), HZ_STATUS_NOT_FOUND, HZ_STATUS_IO, HZ_STATUS_BAD_FORMAT (a
 * truncated file, or a tensor that is missing or has another shape, by name), HZ_STATUS_UNSUPPORTED (another format,
 * quantized weights, or an adapter, by name). These are checked before the first tensor is read. Values that are not
 * finite (HZ_STATUS_BAD_FORMAT), and HZ_STATUS_CANCELLED by the progress callback, come later and leave the weights
 * partly loaded: load or initialize them again. */
HZ_CHECKED hz_status_t hz_trainer_load_hf(hz_trainer_t *trainer, const char *folder);

/* Writes a Hugging Face folder: config.json and model.safetensors, or above 5 GB shards with an index, as
 * HZ_DTYPE_BF16 (the uploaded weights) or HZ_DTYPE_F32 (the masters). The folder appears, or replaces an earlier
 * export, when it is complete; missing parent folders are created. A folder with anything but an earlier export is not
 * replaced. Several exports to one folder at the same time, by threads or processes, all work: the folder is always one
 * complete export, in the end that of the last to finish. It keeps its permissions. If `folder` is a link, the folder
 * to which it leads is replaced.
 * Blocks until the lanes are done, and for the disk.
 * Errors: HZ_STATUS_INVALID_ARGUMENT (the dtype, or a folder with other files), HZ_STATUS_NOT_FOUND (it cannot be
 * created there), HZ_STATUS_IO, HZ_STATUS_DISK_FULL (before anything is written, where the file system reports its free
 * space); HZ_STATUS_NON_FINITE, with the first tensor that is not finite as this dtype; HZ_STATUS_CANCELLED by the
 * progress callback. After an error the folder is as it was before. */
HZ_CHECKED hz_status_t hz_trainer_export_hf(hz_trainer_t *trainer, const char *folder, hz_dtype_t dtype);

/* Reads the f32 master of the tensor `name` into values[0 .. count-1], row-major.
 * Blocks until AdamW of the tensor's unit is done.
 * Errors: HZ_STATUS_NOT_FOUND; HZ_STATUS_INVALID_ARGUMENT unless count is the tensor's number of elements. */
HZ_CHECKED hz_status_t hz_trainer_read_tensor(hz_trainer_t *trainer, const char *name, float *values, size_t count);

/* Writes the f32 master of a tensor, exactly. Its moments do not change.
 * Blocks until the work in progress on the tensor's unit is done.
 * Errors: as hz_trainer_read_tensor; HZ_STATUS_INVALID_ARGUMENT for a value that is not finite, with its index. Then
 * nothing is written. */
HZ_CHECKED hz_status_t hz_trainer_write_tensor(hz_trainer_t *trainer, const char *name, const float *values,
                                               size_t count);

/* AdamW settings of one tensor. */
typedef struct hz_tensor_options_t {
    uint32_t struct_size;
    uint32_t frozen;     /* 1: weight and moments do not change, and the global norm does not count the gradient */
    double lr_scale;     /* factor of the learning rate, >= 0 */
    double weight_decay; /* decoupled, >= 0; -1: the trainer's for tensors of two or more dimensions, otherwise 0 */
} hz_tensor_options_t;

#define HZ_TENSOR_OPTIONS_INIT {sizeof(hz_tensor_options_t), 0, 1.0, -1.0}
HZ_CHECKED hz_status_t hz_tensor_options_init(hz_tensor_options_t *value, size_t struct_size);

/* Sets the AdamW settings of the tensor `name` from the next step on; NULL = defaults. Checkpoints do not store them:
 * set them again after hz_trainer_resume.
 * Blocks until AdamW of the tensor's unit is done.
 * Errors: HZ_STATUS_NOT_FOUND; HZ_STATUS_INVALID_ARGUMENT, naming the field. */
HZ_CHECKED hz_status_t hz_trainer_set_tensor_options(hz_trainer_t *trainer, const char *name,
                                                     const hz_tensor_options_t *options /* or NULL */);

/* Fills in the AdamW settings of a tensor. Errors: HZ_STATUS_NOT_FOUND. */
HZ_CHECKED hz_status_t hz_trainer_tensor_options(hz_trainer_t *trainer, const char *name,
                                                 hz_tensor_options_t *out_options);

/* Reads a tensor's gradient of the last step, rounded to grad_dtype, before clipping; zeros before the first step.
 * After a cancelled step the values are unspecified until the next step.
 * Blocks until the gradient is on the host.
 * Errors: as hz_trainer_read_tensor; HZ_STATUS_UNSUPPORTED where the host stores no gradients: HZ_MODE_STREAMED, and
 * HZ_MODE_COMPACT in 8 bytes. */
HZ_CHECKED hz_status_t hz_trainer_read_gradient(hz_trainer_t *trainer, const char *name, float *values, size_t count);

/* --------------------------------------------------------------------------------------------------
 * Steps
 */

/* A micro-batch: b sequences of t tokens; each array is [b, t], row-major. b = 1 .. B and t = 1 .. T; the batches of
 * one call may have different shapes. The library pads a smaller batch on the right and below with ignored targets.
 * This changes no bit of its loss and gradients, whatever the padding, and takes as long as a full batch. Results per
 * token (hz_trainer_logprobs, hz_loss_callback_t) and counts of tokens are without padding. */
typedef struct hz_batch_t {
    uint32_t struct_size;
    uint32_t reserved;        /* 0 */
    uint64_t rows;            /* b*t, the length of every array */
    const int32_t *tokens;    /* ids, 0 .. V-1 */
    const int32_t *targets;   /* the id that follows each token, or -100 to ignore it */
    const float *weights;     /* or NULL (all 1): weight of each target in the loss, finite, >= 0; those of a step or
                                 evaluation sum to at least 3e-39 and at most 8e37 */
    const int32_t *starts;    /* or NULL (one document per sequence): for each token the position 0 .. T-1 in its
                                 sequence where its document starts. Attention does not cross documents, and RoPE
                                 positions count from it */
    uint64_t sequence_length; /* t, tokens per sequence of this batch; divides rows; 0 = T */
} hz_batch_t;

#define HZ_BATCH_INIT {sizeof(hz_batch_t), 0, 0, NULL, NULL, NULL, NULL, 0}
HZ_CHECKED hz_status_t hz_batch_init(hz_batch_t *value, size_t struct_size);

/* Result of a step. */
typedef struct hz_step_report_t {
    uint32_t struct_size;
    uint32_t micros;  /* micro-batches of the step */
    uint64_t step;    /* step number after this step; the first step is 1 */
    double loss;      /* sum(weight * nll) / sum(weight) over the targets of the step, in nats */
    double grad_norm; /* global gradient norm before clipping */
    uint64_t tokens;  /* tokens of the step's batches, including those with ignored targets, without padding */
    uint64_t targets; /* targets that are not ignored, those of weight 0 included */
} hz_step_report_t;

#define HZ_STEP_REPORT_INIT {sizeof(hz_step_report_t), 0, 0, 0.0, 0.0, 0, 0}
HZ_CHECKED hz_status_t hz_step_report_init(hz_step_report_t *value, size_t struct_size);

/* Result of an evaluation. */
typedef struct hz_eval_report_t {
    uint32_t struct_size;
    uint32_t micros;  /* micro-batches */
    double loss;      /* as in hz_step_report_t */
    uint64_t targets; /* as in hz_step_report_t */
} hz_eval_report_t;

#define HZ_EVAL_REPORT_INIT {sizeof(hz_eval_report_t), 0, 0.0, 0}
HZ_CHECKED hz_status_t hz_eval_report_init(hz_eval_report_t *value, size_t struct_size);

/* Checks a micro-batch and copies it for the next hz_trainer_update. Runs nothing.
 * Errors: HZ_STATUS_INVALID_ARGUMENT, naming array, position and value; HZ_STATUS_INVALID_STATE if micros_max
 * micro-batches are accumulated. Those accumulated before stay. */
HZ_CHECKED hz_status_t hz_trainer_accumulate(hz_trainer_t *trainer, const hz_batch_t *batch);

/* Names the tokens of the step after the next one: tokens[0 .. count-1], token ids in any order. Optional; changes no
 * bit. Called before the step, once or for one micro-batch after the other:
 *
 *     hz_trainer_announce(trainer, next.tokens, next.rows);
 *     hz_trainer_step(trainer, &now, 1, lr, &report);        // consumes the announcement
 *     hz_trainer_step(trainer, &next, 1, lr, &report);       // starts sooner
 *
 * If the embedding is not tied to the LM head, AdamW of the first step updates the embedding rows of these tokens first
 * and all other rows last, so the second step does not wait for the whole embedding. A token that was not announced, or
 * an evaluation or other read of the embedding between the two steps, waits for all of AdamW. A cancelled step drops
 * what was announced before it. No effect if the embedding is tied, if gradients pass through a ring buffer
 * (HZ_MODE_STREAMED; HZ_MODE_COMPACT with HZ_PLACE_DEVICE), with HZ_ADAM_WHEN_UNDER_BACKWARD, and on
 * hz_trainer_step_with_loss.
 * Errors: HZ_STATUS_INVALID_ARGUMENT for an id outside the vocabulary, or more distinct ids than a step can have; then
 * none of `tokens` is announced, and earlier announcements stay. */
HZ_CHECKED hz_status_t hz_trainer_announce(hz_trainer_t *trainer, const int32_t *tokens, size_t count);

/* Runs one step on all accumulated micro-batches: forward, backward, clipping, AdamW with learning rate `lr` (0 to
 * 3.4e38, used as f32).
 * Blocks until the loss and the norm are known.
 * Errors before the step runs, after which the micro-batches stay accumulated: HZ_STATUS_INVALID_ARGUMENT;
 * HZ_STATUS_INVALID_STATE if none is accumulated; HZ_STATUS_NO_TARGET. Errors of the step, after which none is
 * accumulated: HZ_STATUS_NON_FINITE and HZ_STATUS_CANCELLED (weights, moments and step number do not change);
 * HZ_STATUS_STEP_PARTIAL (only HZ_ADAM_WHEN_UNDER_BACKWARD: the step counts, but some units were not updated). */
HZ_CHECKED hz_status_t hz_trainer_update(hz_trainer_t *trainer, double lr, hz_step_report_t *out_report);

/* Drops the accumulated micro-batches. */
HZ_CHECKED hz_status_t hz_trainer_discard(hz_trainer_t *trainer);

/* Equals hz_trainer_accumulate of batches[0 .. count-1] and hz_trainer_update, bit for bit.
 * Blocks, errors: as these; HZ_STATUS_INVALID_ARGUMENT unless count is 1 .. micros_max; HZ_STATUS_INVALID_STATE if
 * micro-batches are accumulated already. After every error none of `batches` is accumulated. */
HZ_CHECKED hz_status_t hz_trainer_step(hz_trainer_t *trainer, const hz_batch_t *batches, size_t count, double lr,
                                       hz_step_report_t *out_report);

/* Computes the loss of 1 .. micros_max micro-batches with the weights after the last step. Changes nothing.
 * Blocks for AdamW, unit by unit as a step does, and until the loss is known.
 * Errors: HZ_STATUS_INVALID_ARGUMENT, HZ_STATUS_NO_TARGET; HZ_STATUS_INVALID_STATE if micro-batches are accumulated;
 * HZ_STATUS_NON_FINITE if the loss is not finite; HZ_STATUS_CANCELLED. */
HZ_CHECKED hz_status_t hz_trainer_eval(hz_trainer_t *trainer, const hz_batch_t *batches, size_t count,
                                       hz_eval_report_t *out_report);

/* Computes the logits that follow tokens[0 .. count-1], count = 1 .. T, as f32 into logits[0 .. logits_count-1],
 * logits_count = V. For occasional sampling: each call uploads the whole model.
 * Blocks until they are computed.
 * Errors: HZ_STATUS_INVALID_ARGUMENT; HZ_STATUS_INVALID_STATE if micro-batches are accumulated; HZ_STATUS_NON_FINITE if
 * a logit is not finite; HZ_STATUS_CANCELLED. */
HZ_CHECKED hz_status_t hz_trainer_logits(hz_trainer_t *trainer, const int32_t *tokens, size_t count, float *logits,
                                         size_t logits_count);

/* Computes the log-probabilities of the targets of 1 .. micros_max micro-batches, in nats, with the weights after the
 * last step, into logprobs[0 .. logprobs_count-1], logprobs_count = sum of the batches' rows: one array [b, t] after
 * the other, 0 for ignored targets. The weights of the batches are ignored. Changes nothing.
 * Blocks for AdamW, unit by unit as a step does, and until they are computed.
 * Errors: HZ_STATUS_INVALID_ARGUMENT; HZ_STATUS_INVALID_STATE if micro-batches are accumulated; HZ_STATUS_NON_FINITE if
 * one is not finite; HZ_STATUS_CANCELLED. */
HZ_CHECKED hz_status_t hz_trainer_logprobs(hz_trainer_t *trainer, const hz_batch_t *batches, size_t count,
                                           float *logprobs, size_t logprobs_count);

/* A loss function of the log-probabilities of all targets of a step. logprobs[0 .. count-1] are as in
 * hz_trainer_logprobs. Sets *out_loss, which the step reports (finite), and dlogprobs[i] = d loss / d logprobs[i]
 * (initially zero; ignored targets do not count). Returns 0, or another value to cancel the step.
 *
 * Called by hz_trainer_step_with_loss on the calling thread, which waits for it. The arrays are valid during the call
 * only. Must not throw or longjmp. Calls on the same trainer except hz_trainer_cancel fail with
 * HZ_STATUS_INVALID_STATE; other handles may be used. */
typedef int32_t (*hz_loss_callback_t)(const float *logprobs, float *dlogprobs, size_t count, double *out_loss,
                                      void *user) HZ_NOEXCEPT;

/* Runs one step with the caller's loss function, for DPO, GRPO and others: forward of batches[0 .. count-1], `loss`
 * once for all of them, backward from its gradient, then clipping and AdamW as in hz_trainer_step. `user` is
 * passed to `loss`: rewards, pairs, or log-probabilities of a reference model (from hz_trainer_logprobs before
 * training, or of another trainer). The weights of the batches are ignored. The LM head's logits are computed twice.
 * The log-probabilities equal those of hz_trainer_logprobs with the same weights, bit for bit. Complete programs:
 * tests/c/dpo.c and tests/c/grpo.c of the source tree.
 *
 * With *out_loss = sum(-w*logprob)/W and dlogprobs = -(w * (float)(1/W)), where W is the sum of the weights w of
 * targets that are not ignored, the step equals hz_trainer_step with these weights, bit for bit.
 *
 * Blocks as hz_trainer_step.
 * Errors: those of hz_trainer_step; HZ_STATUS_NO_TARGET if every target is ignored; HZ_STATUS_INVALID_ARGUMENT if a
 * step has more than one sweep; HZ_STATUS_NON_FINITE if the loss, or a gradient that counts, is not finite;
 * HZ_STATUS_CANCELLED if `loss` or hz_trainer_cancel cancels. After the latter two, weights, moments and step number
 * are unchanged, and no micro-batch stays accumulated. */
HZ_CHECKED hz_status_t hz_trainer_step_with_loss(hz_trainer_t *trainer, const hz_batch_t *batches, size_t count,
                                                 double lr, hz_loss_callback_t loss, void *user,
                                                 hz_step_report_t *out_report);

/* Ends the step, update, evaluation, logits or log-probabilities that another thread is computing with this trainer,
 * early: that call returns HZ_STATUS_CANCELLED once AdamW of the step before and the operations that have begun are
 * done, on CUDA also those that are enqueued (up to about a thousand per CUDA stream); all others do nothing. Weights,
 * moments and step number do not change, no micro-batch stays accumulated, and what follows has the bits that it would
 * have without the cancelled call. A save that is running is not affected.
 *
 * Too late, and without effect, once the loss and the norm are known; with HZ_ADAM_WHEN_UNDER_BACKWARD, once AdamW of
 * the first unit begins. Without effect if no such call runs: one that starts later is not cancelled, so to stop a loop
 * of steps, set a flag of your own as well, before.
 * Threads: any, concurrently with any other call, and in an hz_loss_callback_t. Returns at once. */
HZ_CHECKED hz_status_t hz_trainer_cancel(hz_trainer_t *trainer);

/* --------------------------------------------------------------------------------------------------
 * Saves and checkpoints
 */

/* The work of a progress callback. */
typedef enum hz_progress_t {
    HZ_PROGRESS_LOAD = 1,   /* hz_trainer_load_hf */
    HZ_PROGRESS_EXPORT = 2, /* hz_trainer_export_hf */
    HZ_PROGRESS_RESUME = 3, /* hz_trainer_resume */
    HZ_PROGRESS_SAVE = 4,   /* hz_trainer_save_to */
    HZ_PROGRESS_MAX_ENUM = 0x7fffffff
} hz_progress_t;

/* Receives the bytes done so far and the total: done grows, and ends at the total. Returns 0, or another value to
 * cancel the work: the call, or hz_trainer_save_wait, returns HZ_STATUS_CANCELLED, and there are no further calls. A
 * cancelled export leaves no new folder, a cancelled save no checkpoint; a cancelled load leaves the weights partly
 * loaded: load or initialize them again; a cancelled resume fails the trainer.
 *
 * Called on threads of the library or the caller, one at a time; the work waits for it. Calls of a save that is running
 * come between those of other work. Must not throw or longjmp, and must not call the trainer. */
typedef int32_t (*hz_progress_callback_t)(hz_progress_t work, uint64_t done, uint64_t total,
                                          void *user) HZ_NOEXCEPT;

/* Sets the progress callback of a trainer. NULL, the default: none. A save that is running keeps its callback and
 * `user` until hz_trainer_save_wait. */
HZ_CHECKED hz_status_t hz_trainer_set_progress(hz_trainer_t *trainer, hz_progress_callback_t callback /* or NULL */,
                                               void *user /* or NULL */);

/* Receives the state of a unit: 0 is the embedding, then the layers, then the head. Each array has `elements` elements:
 * the unit's tensors in order, with zeros as alignment padding. `weights` is bf16, `residual` belongs to it as in
 * hz_master_join; the moments `m` and `v` are f32, in HZ_MODE_COMPACT bf16. Returns 0, or another value to cancel the
 * save.
 *
 * Called on a thread of the library, one unit after the other in forward order, while the trainer may be used; only
 * AdamW of the unit waits for it. The arrays are valid during the call only. Must not throw or longjmp, and must not
 * call the trainer. */
typedef int32_t (*hz_save_callback_t)(uint32_t unit, uint64_t elements, const uint16_t *weights,
                                      const int16_t *residual, const void *m, const void *v, void *user) HZ_NOEXCEPT;

/* Starts to save the state after the last step: calls `save` for every unit, with `user`. Returns at once; steps,
 * evaluations, reads and writes may follow and do not change the saved state. The step number is the one that
 * hz_trainer_stats returns now. One save at a time; hz_trainer_save_wait returns its result, and `user` is in use until
 * then. After HZ_STATUS_DEVICE_FAILED, saves before it returns, with `save` called on the calling thread.
 * Errors: HZ_STATUS_INVALID_STATE if a save is running or hz_trainer_save_wait was not called for the last one. */
HZ_CHECKED hz_status_t hz_trainer_save(hz_trainer_t *trainer, hz_save_callback_t save, void *user);

/* Starts to write a checkpoint of the state after the last step: weights, residuals, moments, step number, and the
 * settings that must be equal to resume bit for bit. Returns at once; steps, evaluations, reads and writes may follow
 * and do not change the saved state. One save at a time, of either kind; hz_trainer_save_wait returns its result. After
 * HZ_STATUS_DEVICE_FAILED, saves before it returns.
 *
 * The checkpoint appears as folder/step-00000042 (the step number) when it is complete and on disk; it replaces an
 * earlier one of the same step. Then folder/latest names it, and all but the newest `keep` checkpoints are deleted
 * (0 keeps all). Those of later steps than the one from which this trainer resumed count as the oldest, until it writes
 * these steps itself. Those with a missing file, or one of another size, are neither counted nor deleted. If writing
 * fails or the process is killed, earlier checkpoints are intact.
 *
 * The folder is created if necessary, and stays, with a file .lock, even if no checkpoint was completed. It is locked
 * for this trainer until it saves to another one or is closed, against all threads and processes, also if .lock is
 * removed meanwhile (except on NFS). On a file system without locks, other writers are not noticed. A folder that has
 * checkpoints is only accepted if the trainer resumed from one of them or wrote to it before.
 *
 * `note` is stored with it, e.g. data position, random state, learning rate. Tensor options are not stored.
 *
 * Errors: HZ_STATUS_INVALID_STATE if a save is running or hz_trainer_save_wait was not called for the last one, if
 * another trainer or process writes to the folder, or if it has checkpoints of another run;
 * HZ_STATUS_INVALID_ARGUMENT if it has other files and no checkpoint; HZ_STATUS_NOT_FOUND if it cannot be created
 * there; HZ_STATUS_NON_FINITE (a weight is not finite), HZ_STATUS_DISK_FULL and HZ_STATUS_IO, or hz_trainer_save_wait
 * returns them. */
HZ_CHECKED hz_status_t hz_trainer_save_to(hz_trainer_t *trainer, const char *folder, uint64_t keep,
                                          const char *note /* or NULL */);

/* Returns the result of a save.
 * Blocks until the save has ended.
 * Errors: HZ_STATUS_CANCELLED if `save` or the progress callback cancelled it, or HZ_STATUS_NON_FINITE,
 * HZ_STATUS_DISK_FULL, HZ_STATUS_IO and HZ_STATUS_NOT_FOUND (the folder was removed) of hz_trainer_save_to: the trainer
 * stays usable and another save may start; HZ_STATUS_INVALID_STATE if no save was started. */
HZ_CHECKED hz_status_t hz_trainer_save_wait(hz_trainer_t *trainer);

/* Loads the state of a checkpoint. Training then continues bit for bit as if it had not been interrupted;
 * hz_trainer_stats returns the checkpoint's step number. `folder` was given to hz_trainer_save_to or to `horizon train`
 * (its latest checkpoint is loaded), or is one checkpoint (folder/step-00000042).
 *
 * The model must be the same, and so must the settings that change bits, unless `changes` lists them, as in
 * "clip, beta2": device, mode, sequences, sequence_length, logits_chunk, grad_dtype, clip, weight_decay, beta1, beta2,
 * eps. `horizon train` has other names for some of them (micro-batch, seq-len, grad-dtype), which mean the same here.
 * If the mode changes, moments are kept, rounded to bf16 for HZ_MODE_COMPACT. Placement (weight_slots, slabs, sweeps,
 * layers, grad_place, threads, adam_when, memory limits) may differ: it changes no bit.
 *
 * *out_note is the note of hz_trainer_save_to, NULL if it had none; for a checkpoint of `horizon train`, its
 * note as JSON. It belongs to the trainer.
 *
 * Blocks until the lanes are done, and for the disk.
 * Errors: HZ_STATUS_NOT_FOUND (no checkpoint), HZ_STATUS_INVALID_ARGUMENT (every setting or field of the model that
 * differs, with both values; or a name in `changes` that cannot change, or is placement), HZ_STATUS_BAD_FORMAT (a
 * damaged or truncated file, or an unknown version, by name, and the newest complete checkpoint of the folder),
 * HZ_STATUS_IO, HZ_STATUS_INVALID_STATE if micro-batches are accumulated; HZ_STATUS_CANCELLED by the progress callback.
 * Errors in headers, lengths and settings are found before anything changes. Damage inside a state is found while it is
 * loaded, and then the trainer has failed: close it and open another. */
HZ_CHECKED hz_status_t hz_trainer_resume(hz_trainer_t *trainer, const char *folder, const char *changes /* or NULL */,
                                         const char **out_note /* or NULL */);

/* Blocks until all lanes are done, including AdamW. */
HZ_CHECKED hz_status_t hz_trainer_sync(hz_trainer_t *trainer);

/* --------------------------------------------------------------------------------------------------
 * Statistics and traces
 */

/* Totals of a trainer. */
typedef struct hz_trainer_stats_t {
    uint32_t struct_size;
    uint32_t threads;      /* CPU threads */
    uint64_t steps;        /* step number: updates so far, including those before a resumed checkpoint */
    uint64_t tokens;       /* tokens of these steps */
    uint64_t device_bytes; /* device memory */
    uint64_t host_bytes;   /* host memory */
} hz_trainer_stats_t;

#define HZ_TRAINER_STATS_INIT {sizeof(hz_trainer_stats_t), 0, 0, 0, 0, 0}
HZ_CHECKED hz_status_t hz_trainer_stats_init(hz_trainer_stats_t *value, size_t struct_size);

/* Fills in the totals. */
HZ_CHECKED hz_status_t hz_trainer_stats(hz_trainer_t *trainer, hz_trainer_stats_t *out_stats);

/* Sets *out_seconds to the busy time of a lane, HZ_LANE_*, in steps and saves (not evaluations) since the trainer was
 * opened. Counted are tasks that had ended when the last step, evaluation or hz_trainer_sync returned. Lanes overlap,
 * and AdamW overlaps the next step. 0 unless measuring or tracing = 1.
 * Errors: HZ_STATUS_INVALID_ARGUMENT for an unknown lane. */
HZ_CHECKED hz_status_t hz_trainer_busy_seconds(hz_trainer_t *trainer, hz_lane_t lane, double *out_seconds);

/* Writes the recorded work of all lanes since the trainer was opened to a file in Chrome trace format, for Perfetto
 * (ui.perfetto.dev). An existing file is replaced, atomically; symlinks are followed.
 * Blocks until the lanes are done, and for the disk.
 * Errors: HZ_STATUS_INVALID_STATE unless tracing = 1; HZ_STATUS_INVALID_ARGUMENT if path is a folder, device, pipe or
 * socket; HZ_STATUS_NOT_FOUND (the folder), HZ_STATUS_IO, HZ_STATUS_DISK_FULL. */
HZ_CHECKED hz_status_t hz_trainer_trace(hz_trainer_t *trainer, const char *path);

/* ==================================================================================================
 * AdamW alone
 *
 * The trainer's CPU optimizer for arrays of the caller: all threads, one pass through memory, vectorized for the
 * processor it runs on. For element i of an array (Loshchilov & Hutter 2019):
 *
 *     g  = gradient * gradient_scale
 *     m += (1 - beta1) * (g - m)
 *     v += (1 - beta2) * (g*g - v)
 *     p -= lr*weight_decay*decay * p  +  (lr / bias1) * m / (sqrt(v) / sqrt(bias2) + eps)   bias_i = 1 - beta_i^step
 *
 * This is torch.optim.AdamW up to rounding. Arithmetic is f32, each operation rounded separately. The bits depend only
 * on the inputs, not on threads, instruction set, alignment or division into calls (HZ_ADAM_MODE_COMPACT: given
 * hz_adam_arrays_t.first).
 *
 * Replacing DeepSpeed's CPU Adam (f32 parameters and moments, f32 or bf16 gradients, adamw_mode, bias correction, a
 * 16-bit copy for the device):
 *
 *     hz_adam_options_t options = HZ_ADAM_OPTIONS_INIT;
 *     hz_adam_t        *adam    = NULL;
 *     options.mode         = HZ_ADAM_MODE_F32;
 *     options.weight_decay = 0.1;                        // beta1, beta2 and eps as in PyTorch
 *     hz_adam_open(&options, &adam);                     // once; create_adam
 *     for each step, counted from 1, for each tensor:    // adam_update, adam_update_copy
 *         hz_adam_arrays_t arrays = HZ_ADAM_ARRAYS_INIT;
 *         arrays.gradient_dtype = HZ_DTYPE_F32;          // or HZ_DTYPE_BF16, without a copy of the gradient
 *         arrays.count = ...; arrays.weights = params; arrays.gradient = grads;
 *         arrays.m = exp_avg; arrays.v = exp_avg_sq;     // zero before the first step
 *         arrays.bf16_out = params_bf16;                 // or NULL
 *         hz_adam_step(adam, &arrays, lr, step, 1.0, decays ? 1.0 : 0.0);
 *     hz_adam_close(adam);                               // destroy_adam
 *
 * To move fewer bytes: HZ_ADAM_MODE_EXACT has the same masters bit for bit in 12 bytes per parameter including the
 * bf16 weights (convert with hz_master_split); HZ_ADAM_MODE_COMPACT has nearly the same in 8.
 *
 * Gradients are not checked: one that is not finite makes its parameter not finite. To clip, compute the norm first and
 * pass the clip factor as gradient_scale.
 */

/* An optimizer: options, threads, and the state if the library keeps it. */
typedef struct hz_adam_t hz_adam_t;

/* Memory per parameter, without gradients. */
typedef enum hz_adam_mode_t {
    /* 12 bytes: bf16 weight and 16-bit residual (together the f32 master), f32 moments. */
    HZ_ADAM_MODE_EXACT = 1,
    /* 8 bytes: weight and residual as above, bf16 moments, rounded stochastically: unbiased, with random bits that
     * depend only on the seed, the step and the number of the element. */
    HZ_ADAM_MODE_COMPACT = 2,
    /* 12 bytes: f32 weights, f32 moments; 14 with a bf16 copy. */
    HZ_ADAM_MODE_F32 = 3,
    HZ_ADAM_MODE_MAX_ENUM = 0x7fffffff
} hz_adam_mode_t;

/* Settings of an optimizer. */
typedef struct hz_adam_options_t {
    uint32_t struct_size;
    hz_adam_mode_t mode;  /* HZ_ADAM_MODE_* */
    uint64_t threads;     /* CPU threads, the caller's included, at most max(1024, processors); 0 = all that this
                             process may run on */
    uint64_t state_count; /* elements whose residuals and moments the library keeps, initially zero; 0 = the caller
                             keeps them */
    uint64_t host_mem;    /* limit of the memory for them, bytes; 0 = the free memory */
    uint64_t seed;        /* of the rounding in HZ_ADAM_MODE_COMPACT */
    double beta1;         /* >= 0, < 1 */
    double beta2;         /* >= 0, < 1 */
    double eps;           /* >= 1.2e-38, so that an element without gradients does not move */
    double weight_decay;  /* decoupled, >= 0 */
} hz_adam_options_t;

/* Exact mode, state kept by the caller; AdamW as in PyTorch: 0.9, 0.999, 1e-8, weight decay 0.01. */
#define HZ_ADAM_OPTIONS_INIT {sizeof(hz_adam_options_t), HZ_ADAM_MODE_EXACT, 0, 0, 0, 0, 0.9, 0.999, 1e-8, 0.01}
HZ_CHECKED hz_status_t hz_adam_options_init(hz_adam_options_t *value, size_t struct_size);

/* The arrays of one call: `count` elements each, aligned to their elements, disjoint. */
typedef struct hz_adam_arrays_t {
    uint32_t struct_size;
    hz_dtype_t gradient_dtype; /* HZ_DTYPE_*; required */
    uint64_t count;            /* elements; with 0 the call does nothing */
    uint64_t first;            /* number of element 0 in the model: the position of its state if the library keeps it,
                                  and an input of the rounding in HZ_ADAM_MODE_COMPACT */
    void *weights;             /* in, out: bf16; in HZ_ADAM_MODE_F32 f32 */
    int16_t *residual;         /* in, out; NULL in HZ_ADAM_MODE_F32, or if the library keeps the state */
    const void *gradient;      /* in: gradient_dtype */
    void *m;                   /* in, out: first moment, f32; in HZ_ADAM_MODE_COMPACT bf16; NULL if the library keeps
                                  the state */
    void *v;                   /* in, out: second moment, as m */
    uint16_t *bf16_out;        /* or NULL; only HZ_ADAM_MODE_F32: out, the new weights as bf16, rounded to nearest with
                                  ties away from zero, as in the other modes */
} hz_adam_arrays_t;

#define HZ_ADAM_ARRAYS_INIT {sizeof(hz_adam_arrays_t), HZ_DTYPE_UNSET, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL}
HZ_CHECKED hz_status_t hz_adam_arrays_init(hz_adam_arrays_t *value, size_t struct_size);

/* Opens an optimizer: allocates its state, if it keeps one, and starts its threads.
 *
 * Ownership: the caller closes *out_adam with hz_adam_close.
 * Blocks until the memory is allocated.
 * Errors: HZ_STATUS_INVALID_ARGUMENT, naming the field; HZ_STATUS_OUT_OF_HOST_MEMORY, with the bytes needed, the bytes
 * free and the limit. */
HZ_CHECKED hz_status_t hz_adam_open(const hz_adam_options_t *options /* or NULL */, hz_adam_t **out_adam);

/* Runs one step of AdamW on some arrays: `lr` >= 0, `step` counted from 1 (for bias correction), gradients multiplied
 * by `gradient_scale` (1, the clip factor, or 1 / loss scale), the options' weight_decay multiplied by `decay` (1; 0
 * for norms and biases).
 *
 * Threads: any number may step different elements with one handle at the same time, and share its threads. Concurrent
 * calls on the same elements, also of a state kept by the library, are undefined behaviour.
 * Blocks until it is done.
 * Errors: HZ_STATUS_INVALID_ARGUMENT, naming the argument or field. */
HZ_CHECKED hz_status_t hz_adam_step(const hz_adam_t *adam, const hz_adam_arrays_t *arrays, double lr, uint64_t step,
                                    double gradient_scale, double decay);

/* Returns where the library keeps the state of elements first .. first+count-1: fills in count, first, residual, m and
 * v (NULL if the mode has none), and sets the other pointers to NULL. For checkpoints, and to set residuals:
 * hz_master_split(values, count, weights, arrays.residual).
 *
 * Ownership: the memory belongs to the handle and keeps its address until hz_adam_close. Accessing it while a step uses
 * these elements is undefined behaviour.
 * Errors: HZ_STATUS_INVALID_ARGUMENT beyond state_count, or if the caller keeps the state. */
HZ_CHECKED hz_status_t hz_adam_state(const hz_adam_t *adam, uint64_t first, uint64_t count,
                                     hz_adam_arrays_t *out_arrays);

/* Ends the threads and frees the state, when the last call that uses the handle returns. NULL is ignored.
 * Errors, only in hz_last_error: as for other handles. */
HZ_API void hz_adam_close(hz_adam_t *adam /* or NULL */);

/* Splits f32 masters: weights[i] is values[i] rounded to bf16 (to nearest, ties away from zero), residual[i] the 16
 * bits that restore it. The arrays must not overlap. Runs on the calling thread; several threads may split
 * different arrays. Errors: HZ_STATUS_INVALID_ARGUMENT. */
HZ_CHECKED hz_status_t hz_master_split(const float *values, size_t count, uint16_t *weights, int16_t *residual);

/* Inverts hz_master_split, exactly for all 2^32 patterns of an f32. Threads, errors: as hz_master_split. */
HZ_CHECKED hz_status_t hz_master_join(const uint16_t *weights, const int16_t *residual, size_t count, float *values);

/* ==================================================================================================
 * Arena: large host allocations alone
 *
 * One block of zeroed memory with huge pages where available and a NUMA placement; opening fails if it does
 * not fit. For optimizer state and staging buffers of hundreds of GiB:
 *
 *     hz_arena_options_t options = HZ_ARENA_OPTIONS_INIT;
 *     hz_arena_info_t    info    = HZ_ARENA_INFO_INIT;
 *     hz_arena_t        *arena   = NULL;
 *     options.kind = HZ_MEMORY_INTERLEAVED;
 *     hz_arena_open(&options, bytes, &arena);            // fails if it does not fit
 *     hz_arena_touch(arena, 0);                          // faults the pages in now, with all threads
 *     hz_arena_info(arena, &info);                       // info.address, info.pages
 *     ...
 *     hz_arena_close(arena);
 */

/* A block of host memory. The handle is immutable. */
typedef struct hz_arena_t hz_arena_t;

/* NUMA placement. */
typedef enum hz_memory_t {
    /* The node of the thread that first touches a page. */
    HZ_MEMORY_PLAIN = 1,
    /* The node options.node. */
    HZ_MEMORY_NODE = 2,
    /* All nodes with memory, page by page in turn. */
    HZ_MEMORY_INTERLEAVED = 3,
    HZ_MEMORY_MAX_ENUM = 0x7fffffff
} hz_memory_t;

/* Kinds of pages. */
typedef enum hz_pages_t {
    /* The best available: explicit if enough are free (only HZ_MEMORY_PLAIN), else transparent, else small. */
    HZ_PAGES_ANY = 0,
    /* The processor's small pages. */
    HZ_PAGES_SMALL = 1,
    /* Transparent huge pages of 2 MiB, where the kernel finds them when memory is touched. */
    HZ_PAGES_TRANSPARENT = 2,
    /* Huge pages of 2 MiB reserved by the administrator (vm.nr_hugepages). Only HZ_MEMORY_PLAIN. */
    HZ_PAGES_EXPLICIT = 3,
    HZ_PAGES_MAX_ENUM = 0x7fffffff
} hz_pages_t;

/* Settings of an arena. */
typedef struct hz_arena_options_t {
    uint32_t struct_size;
    hz_memory_t kind;  /* HZ_MEMORY_* */
    uint32_t node;     /* HZ_MEMORY_NODE: the system's number of the node; otherwise 0 */
    hz_pages_t pages;  /* HZ_PAGES_*; opening fails if they are not available */
    uint64_t host_mem; /* limit, bytes; 0 = the free memory */
} hz_arena_options_t;

#define HZ_ARENA_OPTIONS_INIT {sizeof(hz_arena_options_t), HZ_MEMORY_PLAIN, 0, HZ_PAGES_ANY, 0}
HZ_CHECKED hz_status_t hz_arena_options_init(hz_arena_options_t *value, size_t struct_size);

/* Figures of an arena. */
typedef struct hz_arena_info_t {
    uint32_t struct_size;
    hz_pages_t pages; /* HZ_PAGES_*, never ANY */
    void *address;    /* the first byte, page-aligned */
    uint64_t bytes;   /* the size given to hz_arena_open */
} hz_arena_info_t;

#define HZ_ARENA_INFO_INIT {sizeof(hz_arena_info_t), HZ_PAGES_ANY, NULL, 0}
HZ_CHECKED hz_status_t hz_arena_info_init(hz_arena_info_t *value, size_t struct_size);

/* Allocates `bytes` zero bytes. Pages get RAM when they are first touched, see hz_arena_touch.
 *
 * Ownership: the caller closes *out_arena with hz_arena_close.
 * Errors: HZ_STATUS_OUT_OF_HOST_MEMORY, with the bytes needed, the bytes free and the limit (RAM, control group, node,
 * huge pages); HZ_STATUS_INVALID_ARGUMENT (an option; or a node without memory, naming the others);
 * HZ_STATUS_UNSUPPORTED (binding is forbidden, or there are no such pages). */
HZ_CHECKED hz_status_t hz_arena_open(const hz_arena_options_t *options, uint64_t bytes, hz_arena_t **out_arena);

/* Touches every page with `threads` threads (0 = all), so that later accesses do not fault. Contents do not change; no
 * other thread may write to the memory meanwhile.
 * Blocks until it is done, and up to ten seconds for the memory of a virtual machine to grow.
 * Errors: HZ_STATUS_OUT_OF_HOST_MEMORY, with the bytes touched so far. */
HZ_CHECKED hz_status_t hz_arena_touch(const hz_arena_t *arena, uint64_t threads);

/* Fills in address, size and kind of pages. */
HZ_CHECKED hz_status_t hz_arena_info(const hz_arena_t *arena, hz_arena_info_t *out_info);

/* Sets *out_node to the NUMA node of byte `offset`, as the kernel reports it. The byte must have been touched.
 * Errors: HZ_STATUS_INVALID_ARGUMENT beyond the end; HZ_STATUS_UNSUPPORTED if the system does not report it. */
HZ_CHECKED hz_status_t hz_arena_node_at(const hz_arena_t *arena, uint64_t offset, uint32_t *out_node);

/* Frees the memory, which must not be in use, when the last call that uses the handle returns. NULL is ignored.
 * Errors, only in hz_last_error: as for other handles. */
HZ_API void hz_arena_close(hz_arena_t *arena /* or NULL */);

#ifdef __cplusplus
}
#endif

#endif /* HORIZON_H */
