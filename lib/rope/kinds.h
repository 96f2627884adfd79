// Every RoPE kind's record. rope_kinds() in kinds.cpp lists them.
#pragma once
#include "rope/kinds/abf.h"
#include "rope/kinds/clex.h"
#include "rope/kinds/default.h"
#include "rope/kinds/dynamic.h"
#include "rope/kinds/dynamic_linear.h"
#include "rope/kinds/e2.h"
#include "rope/kinds/linear.h"
#include "rope/kinds/llama3.h"
#include "rope/kinds/longrope.h"
#include "rope/kinds/ntk.h"
#include "rope/kinds/yarn.h"
