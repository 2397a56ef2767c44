# SPDX-License-Identifier: Apache-2.0
"""Makes the pip-installed TensorFlow, and its Python, a repository."""

_BUILD = """
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

# Headers only: the op library takes TensorFlow's symbols from the process that
# loads it.
cc_library(
    name = "headers",
    hdrs = glob([
        "include/**/*.h",
        "include/**/*.inc",
        "include/Eigen/**",
        "include/unsupported/**",
    ]),
    defines = [
        "_GLIBCXX_USE_CXX11_ABI=1",
        "EIGEN_MAX_ALIGN_BYTES=64",
        "NDEBUG",
    ],
    includes = ["include"],
)

exports_files(["build_info_cpu.py", "build_info_cuda.py"])
{cudart}
py_runtime(
    name = "py3_runtime",
    interpreter_path = "{python}",
    python_version = "PY3",
)

py_runtime_pair(
    name = "py_runtime_pair",
    py3_runtime = ":py3_runtime",
)

toolchain(
    name = "py_toolchain",
    toolchain = ":py_runtime_pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

_CUDART = """
cc_library(
    name = "cudart_static",
    srcs = ["libcudart_static.a"],
    hdrs = glob([
        "cuda_include/*.h",
        "cuda_include/*.hpp",
        "cuda_include/crt/**",
    ]),
    includes = ["cuda_include"],
    linkopts = ["-ldl", "-lrt", "-lpthread"],
)
"""

_NO_CUDART = """
cc_library(name = "cudart_static")
"""

_BUILD_INFO = '''# SPDX-License-Identifier: Apache-2.0
"""What the op library beside this file was built with. Made by the build."""

TENSORFLOW_VERSION = "{version}"
CUDA = {cuda}
'''

def _tf_configure_impl(ctx):
    python = ctx.os.environ.get("PYTHON_BIN_PATH")
    if not python:
        python = str(ctx.which("python3") or fail("no python3 on PATH"))
    script = ctx.path(Label("//tools:find_tensorflow.py"))
    ctx.path(Label("//:pyproject.toml"))  # The script reads it.
    found = ctx.execute([python, str(script)])
    if found.return_code != 0:
        fail("%s\n(PYTHON_BIN_PATH names another Python)" % found.stderr)
    directory, version = found.stdout.strip().split("\n")
    ctx.symlink(directory + "/include", "include")

    cudart = _NO_CUDART
    cuda_home = ctx.os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    for lib in ["lib64", "lib"]:
        archive = "%s/%s/libcudart_static.a" % (cuda_home, lib)
        if cudart == _NO_CUDART and ctx.path(archive).exists:
            ctx.symlink(archive, "libcudart_static.a")
            ctx.symlink(cuda_home + "/include", "cuda_include")
            cudart = _CUDART
    ctx.file("BUILD", _BUILD.format(cudart = cudart, python = python))
    for name, cuda in [("cpu", "False"), ("cuda", "True")]:
        ctx.file(
            "build_info_%s.py" % name,
            _BUILD_INFO.format(version = version, cuda = cuda),
        )

tf_configure = repository_rule(
    implementation = _tf_configure_impl,
    doc = """The TensorFlow of the Python that PYTHON_BIN_PATH names.

    Targets: `headers`, `cudart_static` (empty where CUDA_HOME has none) and
    `py_toolchain`. Files: `build_info_cpu.py`, `build_info_cuda.py`.
    """,
    environ = ["CUDA_HOME", "PYTHON_BIN_PATH"],
    local = True,
)
