// Uses std::string without including it: the check of self-contained headers must refuse this file.
#pragma once

inline std::string name() { return "quipu"; }
