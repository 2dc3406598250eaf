// Grids that do not end. After mode().seconds of processor time a timer's signal says so, and the next access or switch of
// the kernel reports it. A kernel that does neither is still there at the next tick, and is reported from the signal.
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "engine.hpp"

namespace simt {

volatile int overtime = 0;

namespace {

timer_t timer;

int signal_number() { return SIGRTMIN + 5; }

void tick(int, siginfo_t*, void* context) {
  if (current == nullptr) return;
  if (overtime == 0) {
    overtime = 1;
    return;
  }
  sigset_t own;
  sigemptyset(&own);
  sigaddset(&own, signal_number());
  pthread_sigmask(SIG_UNBLOCK, &own, nullptr);  // there is no return from here that would do it
  const auto at = static_cast<uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  no_end(reinterpret_cast<const void*>(at + 1));  // place() takes return addresses
}

timespec span(double seconds) {
  const auto whole = static_cast<time_t>(seconds);
  return {whole, static_cast<long>((seconds - static_cast<double>(whole)) * 1e9)};
}

}  // namespace

void watchdog_start() {
  struct sigaction action {};
  action.sa_sigaction = tick;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(signal_number(), &action, nullptr);
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = signal_number();
  event._sigev_un._tid = gettid();
  if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) != 0) {
    fputs("simt: no timer\n", stderr);
    abort();
  }
  overtime = 0;
  const itimerspec spans{span(0.05), span(the_mode.seconds)};
  timer_settime(timer, 0, &spans, nullptr);
}

void watchdog_stop() {
  timer_delete(timer);
  overtime = 0;
}

void no_end(const void* where) {
  const Thread* thread = current;
  fault("no end", SIMT_TEXT("after %g seconds of processor time %s is at %s", the_mode.seconds,
                            thread == nullptr ? "a thread" : who(thread).c_str(), place(where).c_str()));
}

}  // namespace simt
