// The model of signs: a sign follows right after its mask bit, and sees the signs around it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "geometry.hpp"
#include "parts.hpp"

namespace compressor {

template <class Coder>
class Signs {
public:
    Signs(Coder& coder, const Geometry& geometry)
        : coder_(coder), geometry_(geometry), columns_(static_cast<size_t>(geometry.columns), kEven),
          patterns_(243, kEven), drifts_(31, kEven), values_(columns_.size()), above_(columns_.size()) {}

    void start_row() {
        row_ = kEven;
        std::swap(values_, above_);
        std::fill(values_.begin(), values_.end(), int8_t{0});
    }

    bool code(size_t column, bool bit) {
        const Around around = look(column);
        const int drift = clip(around.drift, -15, 15) + 15;
        const std::array<Counter*, 5> counters = {&all_, &columns_[column], &row_,
                                                  &patterns_[3 * around.pattern + third(above_[column])],
                                                  &drifts_[drift]};
        std::array<int64_t, 6> inputs;
        for (size_t i = 0; i < 5; ++i) inputs[i] = stretch_.value[counters[i]->p()];
        inputs[5] = 256;
        Set& set = sets_[around.pattern == 0 ? 0 : around.sum == 0 ? 1 : 2];
        const int p = clip(squash(set.mixer.mix(inputs)), 64, 65472);
        bit = coder_.code(bit, static_cast<uint32_t>(p));
        set.mixer.learn(inputs, bit, p, 192 + 1856000 / (1000 + set.updates++));
        for (Counter* counter : counters) counter->update(bit);
        values_[column] = bit ? 1 : -1;
        return bit;
    }

private:
    struct Set {
        Mixer<6> mixer{{3277, 3277, 3277, 3277, 3277, 0}};
        int64_t updates = 0;
    };

    struct Around {
        int pattern = 0, sum = 0, drift = 0;
    };

    static int third(int8_t value) { return value < 0 ? 2 : value; }

    Around look(size_t column) const {
        static constexpr int kPowers[] = {1, 3, 9, 27};
        const bool line = geometry_.kind == Kind::kLine;
        const int beside = line ? 2 : 4, last = line ? 3 : 12;
        Around found;
        for (const Link& link : geometry_.at(column).before) {
            const int8_t value = values_[column + link.offset];
            if (value == 0 || link.rank >= last) continue;
            found.drift += line ? value : link.weight * value;
            if (link.rank >= beside) continue;
            found.sum += value;
            found.pattern += kPowers[link.rank] * third(value);
        }
        return found;
    }

    static constexpr Counter kEven{32768, 2};

    Coder& coder_;
    const Geometry& geometry_;
    const Stretch& stretch_ = stretch_table();
    Counter all_ = kEven, row_ = kEven;
    std::vector<Counter> columns_, patterns_, drifts_;
    std::array<Set, 3> sets_;
    std::vector<int8_t> values_, above_;  // 1 plus, -1 minus, 0 absent
};

}  // namespace compressor
