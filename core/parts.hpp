// What models are made of: adaptive counters, a mixer of log-odds, refinements (adaptive probability maps).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "arith.hpp"
#include "tables.hpp"

namespace compressor {

// 1 / (2n + 3) as ceil(2^36 / (2n + 3)): exact floor divisions of numbers below 2^24.
struct Rates {
    std::array<uint64_t, 1024> inverse;

    constexpr Rates() : inverse() {
        for (uint64_t n = 0; n < 1024; ++n) inverse[n] = ((uint64_t{1} << 36) + 2 * n + 2) / (2 * n + 3);
    }
};
inline constexpr Rates kRates;

// A probability of 22 bits that moves by 2 / (2n + 3) of its error; n grows with every bit up to a limit.
class Counter {
public:
    explicit constexpr Counter(uint32_t p16 = 32768, uint32_t n = 1) : p_(p16 << 6), n_(n) {}

    uint32_t p() const { return clip<uint32_t>(p_ >> 6, 1, 65535); }

    void update(bool bit, uint32_t limit = 1023) {
        const uint64_t inverse = kRates.inverse[n_];
        if (bit) {
            p_ += static_cast<uint32_t>(2 * (kMax - p_) * inverse >> 36);
        } else {
            p_ -= static_cast<uint32_t>((2 * p_ + 2 * n_ + 2) * inverse >> 36);  // rounded up: the step floors
        }
        n_ += n_ < limit;
    }

private:
    static constexpr uint64_t kMax = 4194303;
    uint32_t p_, n_;
};

// Weighted sum of log-odds; after the bit each weight moves along its input by the error.
template <size_t Inputs>
class Mixer {
public:
    explicit Mixer(std::array<int64_t, Inputs> weights) : weights_(weights) {}

    int mix(const std::array<int64_t, Inputs>& inputs) const {
        int64_t sum = 0;
        for (size_t i = 0; i < Inputs; ++i) sum += inputs[i] * weights_[i];
        return static_cast<int>(clip<int64_t>(sum >> 16, -kLimit, kLimit));
    }

    void learn(const std::array<int64_t, Inputs>& inputs, bool bit, int p, int64_t rate) {
        const int64_t error = ((bit ? int64_t{kOne} : 0) - p) * rate;
        for (size_t i = 0; i < Inputs; ++i) weights_[i] += (error * inputs[i] + (1 << 23)) >> 24;
    }

private:
    std::array<int64_t, Inputs> weights_;
};

// Where log-odds fall among the 33 cells of a refinement.
struct Cell {
    static constexpr int kCells = 33, kStep = 178, kFirst = -2848;

    explicit Cell(int x) : low((x - kFirst) / kStep), fraction((x - kFirst) % kStep) {}

    int low, fraction;
};

// One context's map from the mixed probability to what was seen there.
class Refinement {
public:
    Refinement() {
        for (int i = 0; i < Cell::kCells; ++i) t_[i] = squash(Cell::kFirst + Cell::kStep * i);
    }

    int refine(Cell cell) const {
        return (t_[cell.low] * (Cell::kStep - cell.fraction) + t_[cell.low + 1] * cell.fraction) / Cell::kStep;
    }

    void learn(Cell cell, bool bit) {
        int& t = t_[cell.low + (cell.fraction > 89)];
        t += ((bit ? 65535 : 0) - t) >> 8;
    }

private:
    std::array<int, Cell::kCells> t_;
};

}  // namespace compressor
