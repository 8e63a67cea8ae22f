# Trains a byte-level model on a text file and exports it, through ctypes. Usage: train.py TEXT FOLDER
import sys
from ctypes import *
hz = CDLL("libhorizon.so")
hz.hz_last_error.restype = c_char_p

def ok(status):
    if status: raise RuntimeError(hz.hz_last_error().decode())

def struct(name, **fields):  # the first fields of a struct of horizon.h; the others have their defaults
    value = type(name, (Structure,), {"_fields_": [("struct_size", c_uint32), *fields.items()]})()
    ok(getattr(hz, f"hz_{name}_init")(byref(value), c_size_t(sizeof(value))))
    return value

numbers = {name: c_uint32 for name in "device mode grad_dtype adam_when tracing device_index pinning".split()}
options = struct("trainer_options", **numbers, sequences=c_uint64, sequence_length=c_uint64)
model = struct("model_config", fields=c_uint64 * 511)  # larger than in any version
batch = struct("batch", reserved=c_uint32, rows=c_uint64, tokens=POINTER(c_int32), targets=POINTER(c_int32))
report = struct("step_report", micros=c_uint32, step=c_uint64, loss=c_double)
text, trainer = open(sys.argv[1], "rb").read(), c_void_p()
options.sequences, options.sequence_length, batch.rows = 8, 64, 8 * 64
ok(hz.hz_model_config_from_preset(b"tiny", byref(model)))
ok(hz.hz_trainer_open(byref(model), byref(options), byref(trainer)))
ok(hz.hz_trainer_init_weights(trainer, c_uint64(1)))
for at in range(0, len(text) - 512, 512):
    batch.tokens, batch.targets = ((c_int32 * 512)(*text[start : start + 512]) for start in (at, at + 1))
    ok(hz.hz_trainer_step(trainer, byref(batch), c_size_t(1), c_double(3e-3), byref(report)))
    print(report.step, round(report.loss, 3))
ok(hz.hz_trainer_export_hf(trainer, sys.argv[2].encode(), 2))  # HZ_DTYPE_F32
ok(hz.hz_trainer_close(trainer))
