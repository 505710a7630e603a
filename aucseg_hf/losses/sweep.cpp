// The sweep of moments.py for CPUs, compiled at first use by native.py; same sums, same maps.
//
// Work is cut into tasks (image, band of low-resolution rows) and, inside a task, into tiles of
// kTile output columns. All buffers of a tile stay in the second-level cache. A low-resolution row
// shared by two tasks is written by the upper one; the lower one keeps its part in a halo that is
// added afterwards. The result does not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

constexpr int kTile = 64;
constexpr int kRows = 8;
constexpr int kBand = 16;

// Vectors of 64 bytes; the compiler splits them where the machine's registers are shorter.
template <typename T> struct Lanes;
template <> struct Lanes<float> {
  typedef float V __attribute__((vector_size(64)));
  typedef uint32_t I __attribute__((vector_size(64)));
  static constexpr int kMantissa = 23, kBias = 127, kTerms = 8;
  static constexpr float kLow = -87.0f, kHigh = 88.0f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
};
template <> struct Lanes<double> {
  typedef double V __attribute__((vector_size(64)));
  typedef uint64_t I __attribute__((vector_size(64)));
  static constexpr int kMantissa = 52, kBias = 1023, kTerms = 15;
  static constexpr double kLow = -708.0, kHigh = 709.0;
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
};

template <typename T> using Vec = typename Lanes<T>::V;
template <typename T> constexpr int kLanes = 64 / sizeof(T);
template <typename T> constexpr int kVecs = kTile / kLanes<T>;

template <typename T> Vec<T> fill(T value) { return Vec<T>{} + value; }

// exp by reduction to |r| <= ln(2)/2 and a Taylor polynomial; arguments are clamped to the range
// in which the result is a normal number.
template <typename T> inline Vec<T> exponential(Vec<T> x) {
  using L = Lanes<T>;
  x = x > L::kLow ? x : fill<T>(L::kLow);
  x = x < L::kHigh ? x : fill<T>(L::kHigh);
  Vec<T> shifted = x * T(1.44269504088896340736) + L::kRound;
  Vec<T> whole = shifted - L::kRound;
  Vec<T> r = x - whole * L::kLn2High - whole * L::kLn2Low;
  T inverse_factorial[L::kTerms];
  inverse_factorial[0] = 1;
  for (int k = 1; k < L::kTerms; ++k) inverse_factorial[k] = inverse_factorial[k - 1] / k;
  Vec<T> sum = fill<T>(inverse_factorial[L::kTerms - 1]);
  for (int k = L::kTerms - 2; k >= 0; --k) sum = sum * r + inverse_factorial[k];
  // The low mantissa bits of `shifted` hold the whole number.
  typename L::I power;
  std::memcpy(&power, &shifted, sizeof power);
  power = (power + L::kBias) << L::kMantissa;
  Vec<T> scale;
  std::memcpy(&scale, &power, sizeof scale);
  return sum * scale;
}

template <typename T> inline double total(Vec<T> v) {
  double sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

// phi(a - b) = p0(a) + n0(b) + p1(a) n1(b), see surrogates.py.
template <typename V> struct Terms {
  V additive, product, additive_slope, product_slope;
};

struct Square {
  static constexpr bool kProduct = true;
  template <typename T> static Terms<Vec<T>> positive(Vec<T> f, T gamma) {
    Vec<T> margin = gamma - f;
    return {margin * margin, 2 * margin, -2 * margin, fill<T>(-2)};
  }
  template <typename T> static Terms<Vec<T>> negative(Vec<T> f, T) {
    return {f * f, f, 2 * f, fill<T>(1)};
  }
};

struct Hinge {
  static constexpr bool kProduct = false;
  template <typename T> static Terms<Vec<T>> positive(Vec<T> f, T gamma) {
    return {gamma - f, fill<T>(0), fill<T>(-1), fill<T>(0)};
  }
  template <typename T> static Terms<Vec<T>> negative(Vec<T> f, T) {
    return {f, fill<T>(0), fill<T>(1), fill<T>(0)};
  }
};

struct Exponential {
  static constexpr bool kProduct = true;
  template <typename T> static Terms<Vec<T>> positive(Vec<T> f, T gamma) {
    Vec<T> value = exponential<T>(-gamma * f);
    return {fill<T>(0), value, fill<T>(0), -gamma * value};
  }
  template <typename T> static Terms<Vec<T>> negative(Vec<T> f, T gamma) {
    Vec<T> value = exponential<T>(gamma * f);
    return {fill<T>(0), value, fill<T>(0), gamma * value};
  }
};

}  // namespace

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

namespace {

using Arguments = SweepArguments;

int64_t read_label(const void* labels, int64_t type, int64_t i) {
  switch (type) {
    case 0: return static_cast<const uint8_t*>(labels)[i];
    case 1: return static_cast<const int8_t*>(labels)[i];
    case 2: return static_cast<const int16_t*>(labels)[i];
    case 3: return static_cast<const int32_t*>(labels)[i];
    default: return static_cast<const int64_t*>(labels)[i];
  }
}

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

std::vector<Group> group_rows(const Taps& taps) {
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
    const V above = upper.logits[c * N + v];
    return above + weight * (lower.logits[c * N + v] - above);
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
      valids[r][t] = T(valid);
      pixel[r][t] = T(valid ? a.pixel_weight[rank] : 0);
      own[r][t] = T(valid && present ? a.positive_weight[rank] : 0);
      own_negative[r][t] = T(valid && a.negative_weight ? a.negative_weight[rank] : own[r][t]);
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
        const T z = above + weight[r] * (below - above);
        own_power[r][t] = exponential<T>(fill<T>(z))[0];
        surprise = std::log(sum) + (double(peaks[r][t]) - z);
      }
      sums[0] += pixel[r][t] * surprise;
      if (a.spread > 0) sums[0] += a.spread * (std::log(sum) + double(peaks[r][t]));
    }
  }

  // A present class, every pixel taken for a negative; add_own() corrects the pixel's own class.
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
        const V w = column_weight * lanes(a.negative_weight ? valids[r] : own[r], v);
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

  void add_own(int r) {
    alignas(64) T base[kTile], pull[kTile], push[kTile], term[4][kTile];
    const T scale = T(a.auc_scale), gamma = T(a.gamma), negatives = T(a.negative_total);
    for (int v = 0; v < N; ++v) {
      const V odds = lanes(own_power[r], v);
      const V complement = 1 / (1 + odds), score = odds * complement, slope = score * complement;
      const V u = lanes(own[r], v), w = lanes(own_negative[r], v);
      const auto positive = Surrogate::positive(score, gamma);
      const auto undone = Surrogate::negative(score, gamma);
      const int t = v * kLanes<T>;
      store_lanes(scale * slope * (negatives * u * positive.additive_slope -
                                   w * undone.additive_slope) -
                      T(a.ce_scale) * lanes(pixel[r], v), &base[t]);
      store_lanes(-w * slope * undone.product_slope, &pull[t]);
      store_lanes(u * slope * positive.product_slope, &push[t]);
      store_lanes(u * positive.additive, &term[0][t]);
      store_lanes(u * positive.product, &term[1][t]);
      store_lanes(-w * undone.additive, &term[2][t]);
      store_lanes(-w * undone.product, &term[3][t]);
    }
    for (int t = 0; t < kTile; ++t) {
      const int rank = ranks[r][t];
      if (rank < 0) continue;
      add(upper.maps, lower.maps, rank, t, r, base[t]);
      if (!present) continue;
      for (int k = 0; k < 4; ++k) sums[1 + k * present + rank] += term[k][t];
      if (!mapped) continue;
      add(upper.maps, lower.maps, classes + rank, t, r, pull[t]);
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
  alignas(64) T own_negative[kRows][kTile], own_power[kRows][kTile];
  alignas(64) T sums_of_powers[kRows][kTile], peaks[kRows][kTile], factor[kRows][kTile];
};

template <typename T, typename Surrogate, bool kBounded> void sweep(const Arguments& a) {
  const Taps down(a.height, a.rows), across(a.width, a.columns);
  const std::vector<Group> groups = group_rows(down);
  std::vector<Tile<T>> tiles;
  for (int64_t start = 0; start < a.columns; start += kTile)
    tiles.emplace_back(across, int(start), int(std::min<int64_t>(start + kTile, a.columns)));

  std::vector<Task> tasks;
  for (int64_t image = 0; image < a.batch; ++image)
    for (int first = 0; first < int(groups.size());) {
      int last = first + 1;
      while (last < int(groups.size()) &&
             groups[last].low < groups[first].low + kBand && last < first + 4 * kBand)
        ++last;
      tasks.push_back({image, first, last});
      first = last;
    }

  const int64_t mapped = Surrogate::kProduct ? a.present : 0;
  const int64_t halo_size = (a.classes + 2 * mapped) * a.width;
  const int64_t sums_size = 1 + 4 * a.present;
  std::vector<T> halos(tasks.size() * halo_size, T(0));
  std::vector<double> sums(tasks.size() * sums_size, 0.0);
#pragma omp parallel num_threads(int(a.threads))
  {
    Worker<T, Surrogate, kBounded> worker(a, down, groups, tiles);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < int64_t(tasks.size()); ++i)
      worker.run(tasks[i], &halos[i * halo_size], &sums[i * sums_size]);
  }

  for (size_t i = 0; i < tasks.size(); ++i) {
    const T* halo = &halos[i * halo_size];
    const int64_t row = groups[tasks[i].first].low;
    auto add = [&](void* map, int64_t channels) {
      for (int64_t c = 0; c < channels; ++c, halo += a.width) {
        T* target = static_cast<T*>(map) +
            ((tasks[i].image * channels + c) * a.height + row) * a.width;
        for (int64_t x = 0; x < a.width; ++x) target[x] += halo[x];
      }
    };
    add(a.base, a.classes);
    add(a.pull, mapped);
    add(a.push, mapped);
    const double* part = &sums[i * sums_size];
    *a.ce += part[0];
    for (int64_t k = 0; k < 2 * a.present; ++k) a.positive[k] += part[1 + k];
    for (int64_t k = 0; k < 2 * a.present; ++k) a.negative[k] += part[1 + 2 * a.present + k];
  }
}

template <typename T, typename Surrogate> void sweep(const Arguments& a) {
  a.bounded ? sweep<T, Surrogate, true>(a) : sweep<T, Surrogate, false>(a);
}

template <typename T> void sweep(const Arguments& a) {
  switch (a.surrogate) {
    case 0: return sweep<T, Square>(a);
    case 1: return sweep<T, Hinge>(a);
    default: return sweep<T, Exponential>(a);
  }
}

}  // namespace

extern "C" void aucseg_sweep(const SweepArguments* a) {
  a->is_double ? sweep<double>(*a) : sweep<float>(*a);
}

// Adds the pixels of every class to `counts` [classes]. Returns 1 and sets `unknown` at the first id
// that is neither a class nor `ignore_index`, else 0.
extern "C" int64_t aucseg_count(const void* labels, int64_t label_type, int64_t size,
                                int64_t ignore_index, int64_t classes, int64_t* counts,
                                int64_t* unknown) {
  for (int64_t i = 0; i < size; ++i) {
    const int64_t id = read_label(labels, label_type, i);
    if (id == ignore_index) continue;
    if (id < 0 || id >= classes) {
      *unknown = id;
      return 1;
    }
    ++counts[id];
  }
  return 0;
}
