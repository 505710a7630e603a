// One thread's share of the sweep: the pixels of a band of rows, tile by tile.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "geometry.h"
#include "lanes.h"

// All fields have 8 bytes, so that native.py can mirror the layout. "Column" c stands for class
// order[c]; the first `present` columns belong to the AUC.
extern "C" struct SweepArguments {
  int64_t batch, classes, height, width, rows, columns, present;
  int64_t label_type, ignore_index, surrogate, bounded, is_double, threads;
  double spread, ce_scale, negative_total, gamma, auc_scale;
  const void* logits;              // [batch, classes, height, width]
  const void* labels;              // [batch, rows, columns]
  const int64_t* order;            // [classes]
  const double* pixel_weight;      // cross-entropy weight by column, [classes]
  const double* positive_weight;   // [present]
  const double* negative_weight;   // [present], or null: that of the pixel's own class
  void *base, *pull, *push;        // maps, zeroed; see SweepResult
  double *ce, *positive, *negative;  // sums to add to: [1], [2, present], [2, present]
};

namespace aucseg {

using Arguments = SweepArguments;

inline int64_t read_label(const void* labels, int64_t type, int64_t i) {
  switch (type) {
    case 0: return static_cast<const uint8_t*>(labels)[i];
    case 1: return static_cast<const int8_t*>(labels)[i];
    case 2: return static_cast<const int16_t*>(labels)[i];
    case 3: return static_cast<const int32_t*>(labels)[i];
    default: return static_cast<const int64_t*>(labels)[i];
  }
}

// What is kept of one low-resolution row while its output rows pass: its logits widened to the tile,
// and the gradient maps of the tile summed over output rows.
template <typename T> struct LowRow {
  int index = -1;
  std::vector<Vec<T>> logits;          // [classes][kVecs]
  std::vector<Vec<T>> maps;            // [classes + mapped][kVecs]: base, then pull
  std::vector<Vec<T>> push;            // [mapped][kVecs]
  std::vector<unsigned char> touched;  // [mapped]: whether `push` has an entry
};

template <typename T, typename Surrogate, bool kBounded> class Worker {
  using V = Vec<T>;
  static constexpr int N = kVecs<T>;

 public:
  Worker(const Arguments& arguments, const Taps& down, const std::vector<Group>& groups,
         const std::vector<Tile<T>>& tiles)
      : a(arguments), down(down), groups(groups), tiles(tiles), classes(int(a.classes)),
        present(int(a.present)), mapped(Surrogate::kProduct ? present : 0),
        powers(size_t(kRows) * classes * N), rank_of(classes) {
    for (int c = 0; c < classes; ++c) rank_of[a.order[c]] = c;
    for (LowRow<T>* row : {&upper, &lower}) {
      row->logits.resize(size_t(classes) * N);
      row->maps.resize(size_t(classes + mapped) * N);
      row->push.assign(size_t(mapped) * N, fill<T>(0));
      row->touched.assign(mapped, 0);
    }
  }

  // `halo` takes the gradients of the task's first low-resolution row: base, pull, push, each
  // [channels, width]. `sums`: cross-entropy, positive [2, present], negative [2, present].
  void run(const Task& task, T* halo, double* sums) {
    this->halo = halo;
    this->sums = sums;
    image = task.image;
    first_row = groups[task.first].low;
    for (const Tile<T>& part : tiles) {
      tile = &part;
      load(upper, groups[task.first].low);
      load(lower, groups[task.first].high);
      for (int g = task.first; g < task.last; ++g) {
        const Group& group = groups[g];
        if (group.low != upper.index || group.high != lower.index) {
          store(upper);
          std::swap(upper, lower);
          if (group.low != upper.index) {
            store(upper);
            load(upper, group.low);
          }
          load(lower, group.high);
        }
        sweep(group);
      }
      store(upper);
      store(lower);
    }
  }

 private:
  void load(LowRow<T>& row, int index) {
    row.index = index;
    for (int c = 0; c < classes; ++c) {
      const T* source = static_cast<const T*>(a.logits) +
          ((image * classes + a.order[c]) * a.height + index) * a.width + tile->low;
      V sum[N] = {};
      for (int k = 0; k < tile->span; ++k)
        for (int v = 0; v < N; ++v) sum[v] += source[k] * tile->up[k * N + v];
      std::copy(sum, sum + N, &row.logits[c * N]);
    }
    std::fill(row.maps.begin(), row.maps.end(), fill<T>(0));
  }

  void store(LowRow<T>& row) {
    for (int c = 0; c < classes; ++c)
      pull_back(&row.maps[c * N], target(a.base, 0, classes, a.order[c], row.index));
    for (int c = 0; c < mapped; ++c) {
      pull_back(&row.maps[(classes + c) * N], target(a.pull, classes, mapped, c, row.index));
      if (!row.touched[c]) continue;
      pull_back(&row.push[c * N], target(a.push, classes + mapped, mapped, c, row.index));
      std::fill_n(&row.push[c * N], N, fill<T>(0));
      row.touched[c] = 0;
    }
  }

  T* target(void* map, int halo_offset, int channels, int64_t channel, int row) {
    if (row == first_row) return halo + (halo_offset + channel) * a.width + tile->low;
    return static_cast<T*>(map) +
        ((image * channels + channel) * a.height + row) * a.width + tile->low;
  }

  void pull_back(const V* wide, T* narrow) {
    const T* values = reinterpret_cast<const T*>(wide);
    const int vecs = tile->padded / kLanes<T>;
    for (int k = 0; k < vecs; ++k) {
      V sum[4] = {};  // four chains hide the latency of the additions
      for (int t = 0; t < kTile; t += 4)
        for (int i = 0; i < 4; ++i) sum[i] += values[t + i] * tile->down[(t + i) * vecs + k];
      V result = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      const int count = std::min(kLanes<T>, tile->span - k * kLanes<T>);
      for (int i = 0; i < count; ++i) narrow[k * kLanes<T> + i] += result[i];
    }
  }

  V logit(int c, int v, T weight) const {
    return (1 - weight) * upper.logits[c * N + v] + weight * lower.logits[c * N + v];
  }

  void sweep(const Group& group) {
    for (int r = 0; r < group.count; ++r) {
      weight[r] = T(down.weight[group.row + r]);
      read_pixels(group.row + r, r);
      activate(r);
      finish_pixels(r);
    }
    for (int c = 0; c < present; ++c) add_column(c, group.count);
    for (int c = present; c < classes; ++c) add_absent_column(c, group.count);
    for (int r = 0; r < group.count; ++r) add_own(r);
  }

  void read_pixels(int row, int r) {
    const int count = int(std::min<int64_t>(kTile, a.columns - tile->start));
    const int64_t offset = (image * a.rows + row) * a.columns + tile->start;
    for (int t = 0; t < kTile; ++t) {
      const int64_t id = t < count ? read_label(a.labels, a.label_type, offset + t) : a.ignore_index;
      const bool valid = t < count && id != a.ignore_index;
      const int rank = valid ? rank_of[id] : -1;
      ranks[r][t] = rank;
      columns[r][t] = T(rank);
      valids[r][t] = T(valid);
      pixel[r][t] = T(valid ? a.pixel_weight[rank] : 0);
      own[r][t] = T(valid && present ? a.positive_weight[rank] : 0);
    }
  }

  // exp(z - shift) of all classes and their sum; the shift is 0 where the logits are bounded.
  void activate(int r) {
    for (int v = 0; v < N; ++v) {
      V peak = fill<T>(0);
      if (!kBounded) {
        peak = logit(0, v, weight[r]);
        for (int c = 1; c < classes; ++c) {
          V z = logit(c, v, weight[r]);
          peak = z > peak ? z : peak;
        }
      }
      V sum = fill<T>(0);
      for (int c = 0; c < classes; ++c) {
        V power = exponential<T>(logit(c, v, weight[r]) - peak);
        powers[(size_t(r) * classes + c) * N + v] = power;
        sum += power;
      }
      store_lanes(sum, &sums_of_powers[r][v * kLanes<T>]);
      store_lanes(peak, &peaks[r][v * kLanes<T>]);
    }
  }

  // Cross-entropy of the row, the factors of its gradient, and exp(z) of each pixel's own class.
  void finish_pixels(int r) {
    for (int t = 0; t < kTile; ++t) {
      const int rank = ranks[r][t];
      const T sum = sums_of_powers[r][t];
      factor[r][t] = T((pixel[r][t] + a.spread * valids[r][t]) * a.ce_scale) / sum;
      own_power[r][t] = 1;
      if (rank < 0) continue;
      double surprise;
      if (kBounded) {
        own_power[r][t] = lane(powers, size_t(r) * classes + rank, t);
        surprise = std::log(sum / own_power[r][t]);
      } else {
        const T above = lane(upper.logits, rank, t), below = lane(lower.logits, rank, t);
        const T z = (1 - weight[r]) * above + weight[r] * below;
        own_power[r][t] = exponential<T>(fill<T>(z))[0];
        surprise = std::log(sum) + (double(peaks[r][t]) - z);
      }
      sums[0] += pixel[r][t] * surprise;
      if (a.spread > 0) sums[0] += a.spread * (std::log(sum) + double(peaks[r][t]));
    }
  }

  // A present class and the pixels of all other classes.
  void add_column(int c, int rows) {
    const T scale = T(a.auc_scale), gamma = T(a.gamma);
    const T column_weight = a.negative_weight ? T(a.negative_weight[c]) : T(1);
    V additive = fill<T>(0), product = fill<T>(0);
    for (int v = 0; v < N; ++v) {
      V base[2] = {}, pull[2] = {};
      for (int r = 0; r < rows; ++r) {
        const V power = powers[(size_t(r) * classes + c) * N + v];
        const V odds = kBounded ? power : exponential<T>(logit(c, v, weight[r]));
        const V complement = 1 / (1 + odds), score = odds * complement;
        const V all = column_weight * lanes(a.negative_weight ? valids[r] : own[r], v);
        const V w = lanes(columns[r], v) == T(c) ? fill<T>(0) : all;
        const auto terms = Surrogate::negative(score, gamma);
        const V slope = w * score * complement;
        const V base_part = power * lanes(factor[r], v) + scale * slope * terms.additive_slope;
        base[0] += (1 - weight[r]) * base_part;
        base[1] += weight[r] * base_part;
        additive += w * terms.additive;
        if (Surrogate::kProduct) {
          const V pull_part = slope * terms.product_slope;
          product += w * terms.product;
          pull[0] += (1 - weight[r]) * pull_part;
          pull[1] += weight[r] * pull_part;
        }
      }
      upper.maps[c * N + v] += base[0];
      lower.maps[c * N + v] += base[1];
      if (Surrogate::kProduct) {
        upper.maps[(classes + c) * N + v] += pull[0];
        lower.maps[(classes + c) * N + v] += pull[1];
      }
    }
    sums[1 + 2 * present + c] += total<T>(additive);
    sums[1 + 3 * present + c] += total<T>(product);
  }

  void add_absent_column(int c, int rows) {
    for (int v = 0; v < N; ++v) {
      V base[2] = {};
      for (int r = 0; r < rows; ++r) {
        const V part = powers[(size_t(r) * classes + c) * N + v] * lanes(factor[r], v);
        base[0] += (1 - weight[r]) * part;
        base[1] += weight[r] * part;
      }
      upper.maps[c * N + v] += base[0];
      lower.maps[c * N + v] += base[1];
    }
  }

  // The column of each pixel's own class.
  void add_own(int r) {
    alignas(64) T base[kTile], push[kTile], additive[kTile], product[kTile];
    const T scale = T(a.auc_scale * a.negative_total), gamma = T(a.gamma);
    for (int v = 0; v < N; ++v) {
      const V odds = lanes(own_power[r], v), u = lanes(own[r], v);
      const V complement = 1 / (1 + odds), score = odds * complement;
      const V slope = u * score * complement;
      const auto terms = Surrogate::positive(score, gamma);
      const int t = v * kLanes<T>;
      store_lanes(scale * slope * terms.additive_slope - T(a.ce_scale) * lanes(pixel[r], v),
                  &base[t]);
      store_lanes(slope * terms.product_slope, &push[t]);
      store_lanes(u * terms.additive, &additive[t]);
      store_lanes(u * terms.product, &product[t]);
    }
    for (int t = 0; t < kTile; ++t) {
      const int rank = ranks[r][t];
      if (rank < 0) continue;
      add(upper.maps, lower.maps, rank, t, r, base[t]);
      if (!present) continue;
      sums[1 + rank] += additive[t];
      sums[1 + present + rank] += product[t];
      if (!mapped) continue;
      add(upper.push, lower.push, rank, t, r, push[t]);
      upper.touched[rank] = lower.touched[rank] = 1;
    }
  }

  void add(std::vector<V>& above, std::vector<V>& below, int channel, int t, int r, T value) {
    lane(above, channel, t) += (1 - weight[r]) * value;
    lane(below, channel, t) += weight[r] * value;
  }

  static T& lane(std::vector<V>& rows, size_t row, int t) {
    return reinterpret_cast<T*>(rows.data())[row * kTile + t];
  }
  static V lanes(const T* values, int v) {
    V result;
    std::memcpy(&result, values + v * kLanes<T>, sizeof result);
    return result;
  }
  static void store_lanes(V values, T* target) { std::memcpy(target, &values, sizeof values); }

  const Arguments& a;
  const Taps& down;
  const std::vector<Group>& groups;
  const std::vector<Tile<T>>& tiles;
  const int classes, present, mapped;
  std::vector<V> powers;  // [kRows][classes][N]
  std::vector<int> rank_of;
  LowRow<T> upper, lower;
  const Tile<T>* tile = nullptr;
  T* halo = nullptr;
  double* sums = nullptr;
  int64_t image = 0;
  int first_row = 0;
  T weight[kRows];
  int ranks[kRows][kTile];
  alignas(64) T valids[kRows][kTile], pixel[kRows][kTile], own[kRows][kTile];
  alignas(64) T columns[kRows][kTile], own_power[kRows][kTile];
  alignas(64) T sums_of_powers[kRows][kTile], peaks[kRows][kTile], factor[kRows][kTile];
};

}  // namespace aucseg
