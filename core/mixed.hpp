// The mixed model of a mask: five predictions of each bit, one mixer, two refinements.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "expect.hpp"
#include "geometry.hpp"
#include "layer.hpp"
#include "parts.hpp"
#include "signs.hpp"

namespace compressor {

template <class Coder>
class Mixed {
public:
    Mixed(Coder& coder, const Layer& layer)
        : coder_(coder), geometry_(layer), fan_(layer), expected_(layer, geometry_, fan_), signs_(coder, geometry_),
          density_(static_cast<uint32_t>(density(layer))), expected_around_(static_cast<size_t>(layer.columns)),
          buckets_(expected_around_.size()), near_(expected_around_.size()), all_(density_, 30), row_(density_, 1),
          by_fan_(fan_.bucket.empty() ? 0 : 8 * (kThirdSteps.size() + 1), Counter(density_, 4)),
          mixer_({0, 8192, 8192, 26214, geometry_.kind == Kind::kLine ? 3277 : 36045}),
          by_pattern_(size_t{1} << geometry_.pattern_bits) {
        for (size_t i = 0; i < thresholds_.size(); ++i) {
            thresholds_[i] = static_cast<uint32_t>((density_ * kHalfSteps[i] + kOne - 1) / kOne);
        }
        for (size_t excess = 0; excess < paces_.size(); ++excess) {
            uint32_t steps = 0;
            for (const uint64_t step : kHalfSteps) steps += step <= excess << 4;
            paces_[excess] = static_cast<uint8_t>(steps * 8 / 12);
        }
    }

    void start_row(int64_t row) {
        expected_.start_row(row);
        const std::vector<uint32_t>& estimates = expected_.estimates();
        for (size_t column = 0; column < estimates.size(); ++column) {
            uint8_t bucket = 0;
            for (const uint32_t threshold : thresholds_) bucket += estimates[column] >= threshold;
            buckets_[column] = bucket;
        }
        for (size_t column = 0; column < estimates.size(); ++column) {
            uint32_t sum = 0;
            for (const Link& link : geometry_.at(column).before) sum += link.weight * estimates[column + link.offset];
            expected_around_[column] = sum;
        }
        std::fill(near_.begin(), near_.end(), uint16_t{0});
        seen_ = due_ = 0;
        row_ = Counter(density_, 1);
        signs_.start_row();
    }

    // What a tied bit needs as well: the contexts of the counters that take it in.
    void look_at(size_t column) {
        column_ = column;
        estimate_ = expected_.estimates()[column];
        excess_ = divide((seen_ + 10) << 28, due_ + 10 * kOne);
        if (!by_fan_.empty()) {
            const size_t pace = paces_[std::min<uint64_t>(excess_, paces_.size() - 1)];
            fan_counter_ = &by_fan_[8 * fan_.bucket[column] + pace];
        }
    }

    bool mask_bit(bool bit) {
        const uint64_t in_row = clip<uint64_t>(estimate_ * excess_ >> 12, 1, 60000);
        const uint16_t near = near_[column_];
        const uint64_t around = divide(((near & 255) + uint64_t{1}) << 28, expected_around_[column_] + kOne);
        const uint64_t local = clip<uint64_t>(in_row * around >> 12, 1, 60000);
        const auto& stretch = stretch_.value;
        const std::array<int64_t, 5> inputs = {stretch[all_.p()], stretch[row_.p()],
                                               fan_counter_ ? stretch[fan_counter_->p()] : 0, stretch[estimate_],
                                               stretch[local]};
        const int odds = mixer_.mix(inputs);
        const int p = squash(odds);
        const Cell cell(odds);
        Refinement &a = by_estimate_[buckets_[column_]], &b = by_pattern_[near >> 8];
        const int refined = clip((2 * p + a.refine(cell) + b.refine(cell)) >> 2, 1, 65535);
        bit = coder_.code(bit, static_cast<uint32_t>(refined));
        mixer_.learn(inputs, bit, p, 256);
        a.learn(cell, bit);
        b.learn(cell, bit);
        return bit;
    }

    void take(bool bit) {
        all_.update(bit);
        row_.update(bit);
        if (fan_counter_) fan_counter_->update(bit);
        due_ += estimate_;
        if (!bit) return;
        ++seen_;
        expected_.count(column_);
        for (const Link& link : geometry_.at(column_).after) {
            const int pattern = link.rank < geometry_.pattern_bits ? 256 << link.rank : 0;
            near_[column_ + link.offset] += static_cast<uint16_t>(link.weight | pattern);
        }
    }

    bool sign(bool bit) { return signs_.code(column_, bit); }

private:
    Coder& coder_;
    const Geometry geometry_;
    const Fan fan_;
    Expectation expected_;
    Signs<Coder> signs_;
    const uint32_t density_;
    const Stretch& stretch_ = stretch_table();
    std::array<uint32_t, kHalfSteps.size()> thresholds_;
    std::array<uint8_t, kHalfSteps.back() / 16 + 2> paces_;
    std::vector<uint32_t> expected_around_;
    std::vector<uint8_t> buckets_;
    std::vector<uint16_t> near_;  // low byte: weighted survivors in the window; high byte: the pattern
    Counter all_, row_;
    std::vector<Counter> by_fan_;
    Counter* fan_counter_ = nullptr;
    Mixer<5> mixer_;
    std::array<Refinement, kHalfSteps.size() + 1> by_estimate_;
    std::vector<Refinement> by_pattern_;
    size_t column_ = 0;
    uint64_t estimate_ = 0, excess_ = 0, seen_ = 0, due_ = 0;
};

}  // namespace compressor
