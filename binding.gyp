{
  "targets": [
    {
      "target_name": "grpo_kernels",
      "sources": ["<!@(node native/build.mjs sources)"],
      "include_dirs": [".", "native", "<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["<!@(node native/build.mjs defines)"],
      "cflags!": ["-fno-exceptions", "-O2"],
      "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20", "-O2"],
      "cflags_cc": ["<!@(node native/build.mjs flags)"],
      "ldflags": [
        "-Wl,--exclude-libs,ALL",
        "-Wl,--version-script=<(module_root_dir)/native/platform/exports.map",
        "-Wl,-z,nodelete",
        "-static-libgcc",
        "-static-libstdc++"
      ],
      "xcode_settings": {
        "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
        "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
        "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
        "GCC_OPTIMIZATION_LEVEL": "3",
        "OTHER_CPLUSPLUSFLAGS": ["-ffp-contract=fast"],
        "MACOSX_DEPLOYMENT_TARGET": "11.0"
      },
      "msvs_settings": { "VCCLCompilerTool": { "ExceptionHandling": 1, "AdditionalOptions": ["/std:c++20", "/O2"] } }
    }
  ]
}
