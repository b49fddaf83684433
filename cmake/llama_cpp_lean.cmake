# Read by llama.cpp's own CMake right after its project() line (CMAKE_PROJECT_llama.cpp_INCLUDE).
# llama-cpp-python forces the "common" library on, though it loads libllama and ggml alone; leaving it out,
# with the multimodal library and one-file-at-a-time compiling, takes the build from 8 minutes to 2 on two cores.
set(LLAMA_BUILD_COMMON OFF)

# On Intel since Sapphire Rapids: AMX does not compile several files at once, and compiled by gcc 12 it crashes at the first token.
include(CheckCCompilerFlag)
check_c_compiler_flag(-mno-amx-int8 ORPHEUS_KNOWS_AMX)
if(ORPHEUS_KNOWS_AMX)
    add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
endif()

# NVIDIA's libraries, where they come as packages, lie beside llama_cpp. Deferred until llama-cpp-python has set the path.
if(ORPHEUS_PACKAGED_CUDA)
    cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}"
        CALL set_property TARGET ggml-cuda APPEND PROPERTY INSTALL_RPATH "$ORIGIN/../../nvidia/cu13/lib")
endif()
