# SPDX-License-Identifier: Apache-2.0
"""Libraries of .cu.cc files: compiled by nvcc, or for the CPU by emulation."""

load("@rules_cc//cc:defs.bzl", "cc_library")

# A100, and H100 with H200; PTX of the last for what comes after.
_ARCHITECTURES = ["80", "90"]

def cuda_library(name, srcs, hdrs, deps = [], **kwargs):
    """Compiles CUDA sources with $NVCC, or the nvcc on PATH.

    Args:
      name: Name of the cc_library of the objects.
      srcs: The .cu.cc files.
      hdrs: Every header that they include, of this package.
      deps: Libraries to link.
      **kwargs: For the cc_library.
    """
    code = "-gencode=arch=compute_%s,code=%s_%s"
    codes = [code % (number, "sm", number) for number in _ARCHITECTURES]
    codes.append(code % (_ARCHITECTURES[-1], "compute", _ARCHITECTURES[-1]))
    objects = []
    for src in srcs:
        out = src.replace(".cu.cc", ".cu.pic.o")
        native.genrule(
            name = name + "_" + out.replace("/", "_").replace(".", "_"),
            srcs = [src] + hdrs,
            outs = [out],
            cmd = " ".join([
                "$${NVCC:-nvcc} -x cu -std=c++17 -O3 -DNDEBUG -I.",
                "-Werror=all-warnings -Xptxas=--warning-as-error",
                "-Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror",
                "-Xcompiler -fvisibility-inlines-hidden",
            ] + codes + ["-c $(location %s) -o $@" % src]),
            tags = ["manual"],
        )
        objects.append(out)
    cc_library(
        name = name,
        srcs = objects,
        alwayslink = True,
        deps = deps,
        **kwargs
    )

def emulated_cuda_library(name, srcs, emulator, copts, deps):
    """Compiles CUDA sources with the C++ compiler, for gpu_emulator.h.

    Args:
      name: Name of the cc_library, whose users see the emulator too.
      srcs: The .cu.cc files.
      emulator: The source file of the emulator.
      copts: Options of the C++ compiler.
      deps: Libraries that the sources need, with their headers.
    """
    wrappers = []
    for src in srcs:
        out = src.replace(".cu.cc", ".emulated.cc")
        native.genrule(
            name = name + "_" + out.replace("/", "_").replace(".", "_"),
            srcs = [src],
            outs = [out],
            cmd = "echo '#include \"%s/%s\"' > $@" %
                  (native.package_name(), src),
        )
        wrappers.append(out)
    cc_library(
        name = name,
        srcs = wrappers + [emulator],
        # Included by the wrappers.
        textual_hdrs = srcs,
        copts = copts,
        defines = ["LINTF_GPU_EMULATOR"],
        linkstatic = True,
        deps = deps,
    )
