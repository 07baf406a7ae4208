// The kernels as a shared library for the host: a table of them, and a way to launch one. host_kernels.py loads it.
#include "host_cuda.h"

#include <ucontext.h>

#include <string>
#include <utility>
#include <vector>

#include "vidette.cu"
#ifdef EXTRA_KERNELS  // a test's own
#include EXTRA_KERNELS
#endif

namespace host {

// As host_kernels.py fills it in.
struct Launch {
    Three grid, block;
    int backwards;  // run the threads of a block from the last to the first
};

enum Outcome { DONE = 0, DIVERGED = 1, NO_BARRIERS_EXPECTED = 2 };

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    Three index;
    int line;  // of the barrier that it waits at, 0 while it runs, -1 when it has ended
};

struct Block {
    std::vector<Fiber> fibers;
    ucontext_t scheduler;
    Fiber* running = nullptr;
    void (*body)(void*) = nullptr;
    void* argument = nullptr;
};

constexpr size_t STACK_BYTES = 64 * 1024;
thread_local Block block;
thread_local bool unexpected_barrier;

void barrier(int line) {
    if (block.running == nullptr) {
        unexpected_barrier = true;
        return;
    }
    block.running->line = line;
    swapcontext(&block.running->context, &block.scheduler);
    threadIdx = block.running->index;
}

void fiber_main() {
    block.body(block.argument);
    block.running->line = -1;
    swapcontext(&block.running->context, &block.scheduler);
}

// Runs every thread of a block up to its next barrier, until all have ended. All must meet at the same barrier.
Outcome run_fibers(const std::vector<Three>& threads) {
    if (block.fibers.size() < threads.size()) block.fibers.resize(threads.size());
    for (size_t number = 0; number < threads.size(); ++number) {
        Fiber& fiber = block.fibers[number];
        fiber.stack.resize(STACK_BYTES);
        fiber.index = threads[number];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
    for (;;) {
        for (size_t number = 0; number < threads.size(); ++number) {
            block.running = &block.fibers[number];
            block.running->line = 0;
            threadIdx = block.running->index;
            swapcontext(&block.scheduler, &block.running->context);
        }
        block.running = nullptr;
        const int line = block.fibers[0].line;
        for (size_t number = 1; number < threads.size(); ++number) {
            if (block.fibers[number].line != line) return DIVERGED;
        }
        if (line == -1) return DONE;
    }
}

template <typename Body>
Outcome run(const Launch& launch, bool barriers, Body body) {
    std::vector<Three> threads;
    for (unsigned int z = 0; z < launch.block.z; ++z)
        for (unsigned int y = 0; y < launch.block.y; ++y)
            for (unsigned int x = 0; x < launch.block.x; ++x) threads.push_back({x, y, z});
    if (launch.backwards) threads = std::vector<Three>(threads.rbegin(), threads.rend());
    gridDim = launch.grid;
    blockDim = launch.block;
    unexpected_barrier = false;
    block.body = [](void* argument) { (*static_cast<Body*>(argument))(); };
    block.argument = &body;
    for (unsigned int z = 0; z < gridDim.z; ++z)
        for (unsigned int y = 0; y < gridDim.y; ++y)
            for (unsigned int x = 0; x < gridDim.x; ++x) {
                blockIdx = {x, y, z};
                if (barriers) {
                    if (Outcome outcome = run_fibers(threads)) return outcome;
                } else {
                    for (const Three& thread : threads) {
                        threadIdx = thread;
                        body();
                    }
                }
            }
    return unexpected_barrier ? NO_BARRIERS_EXPECTED : DONE;
}

// The letter that `struct` has for a kernel's parameter.
template <typename Parameter>
constexpr char letter() {
    if constexpr (std::is_pointer_v<Parameter>) return 'P';
    else if constexpr (std::is_same_v<Parameter, int>) return 'i';
    else if constexpr (std::is_same_v<Parameter, float>) return 'f';
    else return '?';
}

template <typename... Parameters, size_t... Numbers>
int call(void (*kernel)(Parameters...), const Launch& launch, bool barriers, void** arguments,
         std::index_sequence<Numbers...>) {
    return run(launch, barriers, [&] { kernel(*static_cast<Parameters*>(arguments[Numbers])...); });
}

template <typename... Parameters>
std::string format(void (*)(Parameters...)) {
    return {letter<Parameters>()...};
}

template <typename... Parameters>
int launch(void (*kernel)(Parameters...), const Launch& launch, bool barriers, void** arguments) {
    return call(kernel, launch, barriers, arguments, std::index_sequence_for<Parameters...>{});
}

}  // namespace host

#ifndef EXTRA_TABLE
#define EXTRA_TABLE(KERNEL)
#endif
#define ALL_KERNELS(KERNEL)      \
    KERNEL(letterbox_f32, false) \
    KERNEL(letterbox_f16, false) \
    KERNEL(begin, false)         \
    KERNEL(collect_f32, false)   \
    KERNEL(collect_f16, false)   \
    KERNEL(finish_f32, true)     \
    KERNEL(finish_f16, true)     \
    EXTRA_TABLE(KERNEL)

// The parameters' letters, or null when there is no such kernel.
extern "C" const char* host_format(const char* name) {
#define FORMAT(KERNEL, BARRIERS)                                      \
    if (std::strcmp(name, #KERNEL) == 0) {                            \
        static const std::string letters = host::format(KERNEL);      \
        return letters.c_str();                                       \
    }
    ALL_KERNELS(FORMAT)
    return nullptr;
}

extern "C" int host_has_barriers(const char* name) {
#define BARRIERS_OF(KERNEL, BARRIERS) \
    if (std::strcmp(name, #KERNEL) == 0) return BARRIERS;
    ALL_KERNELS(BARRIERS_OF)
    return 0;
}

// `arguments` point to one value each, as for cuLaunchKernel.
extern "C" int host_launch(const char* name, const host::Launch* launch, void** arguments) {
#define LAUNCH(KERNEL, BARRIERS) \
    if (std::strcmp(name, #KERNEL) == 0) return host::launch(KERNEL, *launch, BARRIERS, arguments);
    ALL_KERNELS(LAUNCH)
    return -1;
}
