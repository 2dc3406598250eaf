// A stable sort of places by their keys, none of which is below 0.
#pragma once

#include <cstdint>

namespace grpo {

struct KeyedPlaces {
  int32_t* key;    // [count]
  int32_t* place;  // [count]
};

// Which of the two holds the result, and which is free, is changed.
void sort_by_key(KeyedPlaces& pairs, KeyedPlaces& other, int64_t count);

}  // namespace grpo
