# Read by llama.cpp's own CMake right after its project() line (CMAKE_PROJECT_llama.cpp_INCLUDE).
# llama-cpp-python forces the "common" library on, though it loads libllama and ggml alone; leaving it out,
# with the multimodal library and one-file-at-a-time compiling, takes the build from 8 minutes to 2 on two cores.
set(LLAMA_BUILD_COMMON OFF)
