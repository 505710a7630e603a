// The sweep of moments.py for CPUs, compiled at first use by native.py: same sums, same maps.
//
// Work is cut into tasks (image, band of low-resolution rows) and, inside a task, into tiles of
// kTile output columns, whose buffers stay in the second-level cache. A low-resolution row shared by
// two tasks is written by the upper one; the lower one keeps its part in a halo that is added
// afterwards. So the result does not depend on the number of threads.

#include "worker.h"

namespace aucseg {

// Low-resolution rows per task. Tasks part only where the lower row changes, so that no two of them
// share more than one row.
constexpr int kBand = 16;

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
      while (last < int(groups.size()) && groups[last].low < groups[first].low + kBand) ++last;
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

}  // namespace aucseg

extern "C" void aucseg_sweep(const SweepArguments* a) {
  a->is_double ? aucseg::sweep<double>(*a) : aucseg::sweep<float>(*a);
}

// Adds the pixels of every class to `counts` [classes]. Returns 1 and sets `unknown` at the first id
// that is neither a class nor `ignore_index`, else 0.
extern "C" int64_t aucseg_count(const void* labels, int64_t label_type, int64_t size,
                                int64_t ignore_index, int64_t classes, int64_t* counts,
                                int64_t* unknown) {
  for (int64_t i = 0; i < size; ++i) {
    const int64_t id = aucseg::read_label(labels, label_type, i);
    if (id == ignore_index) continue;
    if (id < 0 || id >= classes) {
      *unknown = id;
      return 1;
    }
    ++counts[id];
  }
  return 0;
}
