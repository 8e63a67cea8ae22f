"""Parses include/horizon.h with cffi, ctypesgen, zig translate-c and bindgen: each must find every exported function, and the
bindings that run must train. Usage: parsers.py LIBRARY, with the programs in the folder of this Python; see .ci/long."""
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "include/horizon.h"
LIBRARY = Path(sys.argv[1]).resolve()
BIN = Path(sys.executable).parent
NUMBER = int(re.search(r"HZ_VERSION_NUMBER (\d+)", HEADER.read_text()).group(1))


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def functions():
    symbols = run("nm", "-D", "--defined-only", "--format=posix", LIBRARY)
    return [line.split()[0] for line in symbols.splitlines()]


def require_all(tool, text, form):
    absent = [name for name in functions() if form.format(name) not in text]
    assert not absent, f"{tool} does not find {absent}"


def library_folder(folder):
    """The folder with the library under the names that linkers and loaders look for."""
    soname = re.search(r"SONAME.*\[(.*)\]", run("readelf", "-d", LIBRARY))
    for name in {"libhorizon.so", soname.group(1) if soname else "libhorizon.so"}:
        (folder / name).symlink_to(LIBRARY)
    return folder


def cffi(folder):
    import cffi

    for name in ("stddef.h", "stdint.h"):  # cffi knows these types
        (folder / name).write_text("")
    text = run("cc", "-E", "-P", "-nostdinc", "-D__attribute__(x)=", "-I", folder, HEADER)
    ffi = cffi.FFI()
    ffi.cdef(text)
    hz = ffi.dlopen(str(LIBRARY))
    assert all(hasattr(hz, name) for name in functions())
    model, options, report = ffi.new("hz_model_config_t *"), ffi.new("hz_trainer_options_t *"), ffi.new("hz_step_report_t *")
    batch, trainer = ffi.new("hz_batch_t *"), ffi.new("hz_trainer_t **")
    for name, value in (("model_config", model), ("trainer_options", options), ("step_report", report), ("batch", batch)):
        assert getattr(hz, f"hz_{name}_init")(value, ffi.sizeof(value[0])) == hz.HZ_STATUS_OK
    assert hz.hz_model_config_from_preset(b"tiny", model) == hz.HZ_STATUS_OK
    assert hz.hz_trainer_open(model, options, trainer) == hz.HZ_STATUS_OK, ffi.string(hz.hz_last_error())
    assert hz.hz_trainer_init_weights(trainer[0], 1) == hz.HZ_STATUS_OK
    tokens = ffi.new("int32_t[]", [n % 7 for n in range(256)])
    batch.rows, batch.tokens, batch.targets = 256, tokens, tokens
    assert hz.hz_trainer_step(trainer[0], batch, 1, 1e-3, report) == hz.HZ_STATUS_OK, ffi.string(hz.hz_last_error())
    assert report.loss > 0 and hz.hz_trainer_close(trainer[0]) == hz.HZ_STATUS_OK


def ctypesgen(folder):
    out = folder / "horizon.py"
    run(BIN / "ctypesgen", "--no-macro-warnings", f"-L{library_folder(folder)}", "-lhorizon", HEADER, "-o", out)
    spec = importlib.util.spec_from_file_location("horizon", out)
    horizon = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(horizon)
    assert all(hasattr(horizon, name) for name in functions())
    assert horizon.hz_version_number() == NUMBER
    batch = horizon.hz_batch_t()
    assert horizon.hz_batch_init(batch, 64) == horizon.HZ_STATUS_OK and batch.struct_size == 64


def zig(folder):
    text = run(sys.executable, "-m", "ziglang", "translate-c", "-lc", HEADER)
    require_all("zig", text, "pub extern fn {}(")
    (folder / "horizon.zig").write_text(text)
    (folder / "main.zig").write_text(
        'const hz = @import("horizon.zig");\n'
        "pub fn main() void {\n"
        "    var batch: hz.hz_batch_t = undefined;\n"
        "    if (hz.hz_batch_init(&batch, @sizeOf(hz.hz_batch_t)) != hz.HZ_STATUS_OK) unreachable;\n"
        f"    if (hz.hz_version_number() != {NUMBER} or batch.struct_size != @sizeOf(hz.hz_batch_t)) unreachable;\n"
        "}\n"
    )
    program, library = folder / "main", library_folder(folder)
    run(sys.executable, "-m", "ziglang", "build-exe", folder / "main.zig", "-lc", f"-L{library}", "-lhorizon", "-rpath", library,
        f"-femit-bin={program}")
    run(program)


def bindgen(folder):
    text = run(BIN / "bindgen", HEADER, "--allowlist-item", "hz_.*|HZ_.*", "--rustified-enum", "hz_.*")
    require_all("bindgen", text, "pub fn {}(")
    (folder / "main.rs").write_text(
        "#![allow(warnings)]\nmod hz {\n" + text + "\n}\nfn main() {\n"
        f"    assert_eq!(unsafe {{ hz::hz_version_number() }}, {NUMBER});\n}}\n"
    )
    program, library = folder / "program", library_folder(folder)
    run("rustc", "--edition", "2021", folder / "main.rs", "-o", program, "-L", library, "-l", "dylib=horizon",
        "-C", f"link-arg=-Wl,-rpath,{library}")
    run(program)


for parser in (cffi, ctypesgen, zig, bindgen):
    with tempfile.TemporaryDirectory() as folder:
        try:
            parser(Path(folder))
        except subprocess.CalledProcessError as error:
            sys.exit(f"{parser.__name__}: {error}\n{error.stdout}\n{error.stderr}")
    print(f"header parsed by {parser.__name__}")
