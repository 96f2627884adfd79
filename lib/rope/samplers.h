// Every position sampler's record. position_samplers() in samplers.cpp lists them.
#pragma once
#include "rope/samplers/clex.h"
#include "rope/samplers/contiguous.h"
#include "rope/samplers/drope.h"
#include "rope/samplers/e2.h"
#include "rope/samplers/pose.h"
#include "rope/samplers/randpos.h"
