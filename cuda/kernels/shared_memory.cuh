// Shared memory, declared through macros so that a host emulator can lay it out, poison it and watch its bounds.
#pragma once

#ifndef SHARED_ARRAY
// `count` elements for each thread block, aligned for 16-byte accesses.
#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
// What the launch asks for in its dynamic shared bytes.
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif
