// Which output pixels read which low-resolution logits, and how both are cut into pieces.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lanes.h"

namespace aucseg {

constexpr int kTile = 64;
constexpr int kRows = 8;

template <typename T> constexpr int kVecs = kTile / kLanes<T>;

struct Taps {
  std::vector<int> lower, upper;
  std::vector<double> weight;
  Taps(int64_t inputs, int64_t outputs) : lower(outputs), upper(outputs), weight(outputs) {
    for (int64_t i = 0; i < outputs; ++i) {
      double position = std::max((i + 0.5) * (double(inputs) / outputs) - 0.5, 0.0);
      lower[i] = int(std::min<int64_t>(int64_t(position), inputs - 1));
      upper[i] = int(std::min<int64_t>(lower[i] + 1, inputs - 1));
      weight[i] = position - lower[i];
    }
  }
};

// Horizontal interpolation of one tile as a dense window [span, kTile] and its transpose.
template <typename T> struct Tile {
  int start, low, span, padded;
  std::vector<Vec<T>> up;    // [span][kVecs]
  std::vector<Vec<T>> down;  // [kTile][padded / lanes]
  Tile(const Taps& taps, int start_, int stop) : start(start_), low(taps.lower[start_]) {
    span = taps.upper[stop - 1] + 1 - low;
    padded = (span + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
    up.assign(size_t(span) * kVecs<T>, fill<T>(0));
    down.assign(size_t(kTile) * padded / kLanes<T>, fill<T>(0));
    T* forward = reinterpret_cast<T*>(up.data());
    T* backward = reinterpret_cast<T*>(down.data());
    for (int t = 0; t < stop - start; ++t) {
      double weight = taps.weight[start + t];
      int lower = taps.lower[start + t] - low, upper = taps.upper[start + t] - low;
      forward[lower * kTile + t] += T(1 - weight);
      forward[upper * kTile + t] += T(weight);
      backward[t * padded + lower] += T(1 - weight);
      backward[t * padded + upper] += T(weight);
    }
  }
};

// Output rows row..row+count-1 that read the same two input rows.
struct Group {
  int row, count, low, high;
};

inline std::vector<Group> group_rows(const Taps& taps) {
  std::vector<Group> groups;
  for (int row = 0; row < int(taps.lower.size()); ++row) {
    if (!groups.empty()) {
      Group& last = groups.back();
      if (last.low == taps.lower[row] && last.high == taps.upper[row] && last.count < kRows) {
        ++last.count;
        continue;
      }
    }
    groups.push_back({row, 1, taps.lower[row], taps.upper[row]});
  }
  return groups;
}

struct Task {
  int64_t image;
  int first, last;  // groups first..last-1
};

}  // namespace aucseg
