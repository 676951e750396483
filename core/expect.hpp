// What the rows before lead to expect of each column of the next: its own count, shrunk towards its surroundings.
#pragma once

#include <cstdint>
#include <vector>

#include "arith.hpp"
#include "geometry.hpp"
#include "layer.hpp"

namespace compressor {

class Expectation {
public:
    Expectation(const Layer& layer, const Geometry& geometry, const Fan& fan)
        : geometry_(geometry), ratio_(fan.ratio), density_(density(layer)), by_density_(density_),
          strength_(geometry.kind == Kind::kPicture ? 512 : 256), columns_(static_cast<size_t>(layer.columns)),
          counts_(columns_), estimates_(columns_) {
        if (geometry.kind == Kind::kPicture) {
            ring_.resize(columns_);
            near_.resize(columns_);
        }
        if (geometry.kind == Kind::kKernel) {
            size_ = static_cast<size_t>(geometry.wide * geometry.high);
            channels_.resize(columns_ / size_);
            positions_.resize(size_);
        }
    }

    const std::vector<uint32_t>& estimates() const { return estimates_; }

    // Told of each survivor; it counts from the next row on.
    void count(size_t column) {
        ++counts_[column];
        ++total_;
        for (const Link& link : geometry_.at(column).square) {
            ++ring_[column + link.offset];
            near_[column + link.offset] += link.weight;
        }
        if (geometry_.kind == Kind::kKernel) {
            ++channels_[column / size_];
            ++positions_[column % size_];
        }
    }

    void start_row(int64_t row) {
        const auto rows = static_cast<uint64_t>(row);
        switch (geometry_.kind) {
            case Kind::kLine: return line(rows);
            case Kind::kPicture: return picture(rows);
            case Kind::kKernel: return kernels(rows);
        }
    }

private:
    void line(uint64_t rows) {
        const Divider shrunk(rows + strength_);
        const uint64_t around = (total_ * kOne / std::max<size_t>(1, columns_) + 32 * density_) / (rows + 32);
        for (size_t column = 0; column < columns_; ++column) set(column, by_fan(column, around), shrunk);
    }

    void picture(uint64_t rows) {
        const Divider shrunk(rows + strength_);
        std::vector<Divider> far_dividers, near_dividers;
        for (uint64_t weight = 0; weight <= 24; ++weight) {
            far_dividers.emplace_back(std::max<uint64_t>(1, weight * (rows + 16)));
            near_dividers.emplace_back(std::max<uint64_t>(1, weight * (rows + 128)));
        }
        for (size_t column = 0; column < columns_; ++column) {  // a floor of a floor is one floor
            const Spot& spot = geometry_.at(column);
            const uint64_t ring = ring_[column] * kOne + 16 * density_ * spot.ring_weight();
            const uint64_t far = far_dividers[spot.ring_weight()](ring);
            const uint64_t near = near_[column] * kOne + 128 * far * spot.near_weight;
            set(column, by_fan(column, near_dividers[spot.near_weight](near)), shrunk);
        }
    }

    void kernels(uint64_t rows) {
        const Divider shrunk(rows + strength_), by_channel(size_ * rows + 32);
        std::vector<uint64_t> at(size_);
        for (size_t i = 0; i < size_; ++i) {
            at[i] = (positions_[i] * kOne + 64 * density_) / (channels_.size() * rows + 64);
        }
        size_t column = 0;
        for (const uint64_t channel : channels_) {
            uint64_t start = density_;
            if (!ratio_.empty()) start = clip<uint64_t>(density_ * ratio_[column] >> 12, 4, 60000);
            const uint64_t expected = by_channel(channel * kOne + 32 * start);
            for (size_t i = 0; i < size_; ++i, ++column) {
                set(column, std::min<uint64_t>(by_density_(expected * at[i]), 60000), shrunk);
            }
        }
    }

    uint64_t by_fan(size_t column, uint64_t around) const {
        return ratio_.empty() ? around : std::min<uint64_t>(around * ratio_[column] >> 12, 60000);
    }

    void set(size_t column, uint64_t around, const Divider& shrunk) {
        const uint64_t sum = counts_[column] * kOne + strength_ * std::max<uint64_t>(around, 4);
        estimates_[column] = static_cast<uint32_t>(clip<uint64_t>(shrunk(sum), 2, 65000));
    }

    const Geometry& geometry_;
    const std::vector<uint64_t>& ratio_;
    const uint64_t density_;
    const Divider by_density_;
    const uint64_t strength_;
    const size_t columns_;
    size_t size_ = 1;
    uint64_t total_ = 0;
    std::vector<uint64_t> counts_, channels_, positions_;
    std::vector<uint64_t> ring_, near_;  // survivors in the 5 x 5 and (weighted) the 3 x 3 pixels around
    std::vector<uint32_t> estimates_;
};

}  // namespace compressor
