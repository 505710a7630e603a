// Vectors of floating-point numbers, exp() of them, and the surrogates as functions of them.

#pragma once

#include <cstdint>
#include <cstring>

namespace aucseg {

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

template <typename T> Vec<T> fill(T value) { return Vec<T>{} + value; }

// exp by reduction to |r| <= ln(2)/2 and a Taylor polynomial; arguments are clamped to the range
// in which the result is a normal number; not-a-number passes through.
template <typename T> inline Vec<T> exponential(Vec<T> x) {
  using L = Lanes<T>;
  x = x < L::kLow ? fill<T>(L::kLow) : x;
  x = x > L::kHigh ? fill<T>(L::kHigh) : x;
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
    return {value, value, -gamma * value, -gamma * value};
  }
  template <typename T> static Terms<Vec<T>> negative(Vec<T> f, T gamma) {
    Vec<T> value = exponential<T>(gamma * f);
    return {fill<T>(0), value - 1, fill<T>(0), gamma * value};
  }
};

}  // namespace aucseg
