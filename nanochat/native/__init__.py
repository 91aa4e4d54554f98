"""C++ compiled on this machine: the compiler's call, and vectors for what it compiles."""
