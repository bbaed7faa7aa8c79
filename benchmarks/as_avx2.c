// Preloaded, it shows every library of a process a processor without AVX-512, AVX-VNNI and AMX: CPUID traps (Linux,
// arch_prctl(2) ARCH_SET_CPUID) and is answered here. The variables of single libraries don't reach all of them.
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { kSetCpuid = 0x1012 };

static void answer(int number, siginfo_t* info, void* context) {
  greg_t* r = ((ucontext_t*)context)->uc_mcontext.gregs;
  const unsigned char* at = (const unsigned char*)r[REG_RIP];
  if (at[0] != 0x0f || at[1] != 0xa2) {  // an error of the program's own: it comes again, and ends it
    signal(number, SIG_DFL);
    return;
  }
  const unsigned leaf = (unsigned)r[REG_RAX], part = (unsigned)r[REG_RCX];
  unsigned a, b, c, d;
  syscall(SYS_arch_prctl, kSetCpuid, 1);
  __cpuid_count(leaf, part, a, b, c, d);
  syscall(SYS_arch_prctl, kSetCpuid, 0);
  if (leaf == 7 && part == 0) {
    b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 3u << 26 | 1u << 28 | 3u << 30);  // AVX-512
    c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
    d &= ~(3u << 2 | 1u << 8 | 15u << 22);  // and AMX
  } else if (leaf == 7 && part == 1) {
    a &= ~(3u << 4 | 1u << 21 | 1u << 23);  // AVX-VNNI, bfloat16, AMX float16, AVX-IFMA
    d &= ~(3u << 4 | 1u << 8 | 1u << 10 | 1u << 19);  // more of them, AVX10
  }
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
  r[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, 0);
  if (syscall(SYS_arch_prctl, kSetCpuid, 0)) {
    static const char lacking[] = "as_avx2: this processor or system can't hide what it has (no cpuid_fault)\n";
    write(2, lacking, sizeof lacking - 1);
    _exit(1);
  }
}
