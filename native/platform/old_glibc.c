// What libstdc++.a of a newer system takes from glibc, and glibc 2.28 does not have; linked by native/platform/link.mjs.

// 0: there may be several threads (glibc 2.32).
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
