# find_package(xent): the targets xent::shared, xent::static, and xent::xent, which is the shared one.
include(CMakeFindDependencyMacro)
find_dependency(Threads)

# Not by way of a link to the directory, such as /lib is.
get_filename_component(_xent_prefix "${CMAKE_CURRENT_LIST_DIR}" REALPATH)
get_filename_component(_xent_prefix "${_xent_prefix}/../../.." ABSOLUTE)

if(NOT TARGET xent::xent)
  add_library(xent::shared SHARED IMPORTED)
  set_target_properties(xent::shared PROPERTIES
    IMPORTED_LOCATION "${_xent_prefix}/lib/libxent_c.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_xent_prefix}/include")

  add_library(xent::static STATIC IMPORTED)
  set_target_properties(xent::static PROPERTIES
    IMPORTED_LOCATION "${_xent_prefix}/lib/libxent_c.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_xent_prefix}/include"
    INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS};m;gcc_s")

  add_library(xent::xent INTERFACE IMPORTED)
  set_target_properties(xent::xent PROPERTIES INTERFACE_LINK_LIBRARIES xent::shared)
endif()

unset(_xent_prefix)
