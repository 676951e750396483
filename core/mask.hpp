// The stream of one layer: mask bits in row-major order, each 1 followed by its sign where there are signs.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "coder.hpp"
#include "layer.hpp"
#include "mixed.hpp"

namespace compressor {

// The plain, fast model: every order of the ones that are still to come is as likely.
template <class Coder>
class Static {
public:
    Static(Coder& coder, const Layer& layer)
        : coder_(coder), ones_(static_cast<uint64_t>(layer.kept)),
          places_(static_cast<uint64_t>(layer.rows * layer.columns)) {}

    void start_row(int64_t) {}
    void look_at(size_t) {}

    bool mask_bit(bool bit) {
        const uint64_t p = divide(ones_ * kOne + places_ / 2, places_);
        return coder_.code(bit, static_cast<uint32_t>(clip<uint64_t>(p, 1, 65535)));
    }

    void take(bool bit) {
        ones_ -= bit;
        --places_;
    }

    bool sign(bool bit) { return coder_.code(bit, 32768); }

private:
    Coder& coder_;
    uint64_t ones_, places_;
};

// Walks a layer with a model. Encoding reads mask and signs, decoding writes them.
template <class Coder, class Model>
class Walk {
    using Byte = std::conditional_t<Coder::kDecodes, uint8_t, const uint8_t>;

public:
    Walk(Coder& coder, const Layer& layer, Byte* mask, Byte* signs)
        : coder_(coder), layer_(layer), mask_(mask), signs_(signs), model_(coder, layer) {}

    void run() {
        if (layer_.columns == 0) return;
        for (int64_t row = 0; row < layer_.rows; ++row) {
            model_.start_row(row);
            const int64_t from = tied_part(row);
            for (int64_t column = from; column < layer_.columns; ++column) {
                Byte& place = mask_[row * layer_.columns + column];
                model_.look_at(static_cast<size_t>(column));
                const bool bit = model_.mask_bit(Coder::kDecodes ? false : place);
                if constexpr (Coder::kDecodes) place = bit;
                take(bit);
            }
            if (layer_.kept - seen_ > (layer_.rows - row - 1) * layer_.columns) {
                throw Rejected("has a mask with fewer survivors than it should");
            }
        }
    }

private:
    // Code what equals the row above so far, and the first bit that differs; return the column after it.
    int64_t tied_part(int64_t row) {
        if (!layer_.ordered || row == 0) return 0;
        Byte* const here = mask_ + row * layer_.columns;
        const uint8_t* const above = here - layer_.columns;
        size_t ones = 0;
        for (int64_t column = 0; column < layer_.columns; ++column) {
            model_.look_at(static_cast<size_t>(column));
            bool bit = Coder::kDecodes ? false : here[column];
            if (above[column]) {
                Counter& tie = ties_[std::min<size_t>(ones++, ties_.size() - 1)];
                bit = coder_.code(bit, clip<uint32_t>(tie.p(), 64, 65472));
                tie.update(bit, 10);
            } else if (bit) {
                throw Rejected("has rows that do not descend");
            }
            if constexpr (Coder::kDecodes) here[column] = bit;
            take(bit);
            if (bit != static_cast<bool>(above[column])) return column + 1;
        }
        return layer_.columns;
    }

    void take(bool bit) {
        if (bit && seen_ == layer_.kept) throw Rejected("has a mask with more survivors than it should");
        model_.take(bit);
        if (!bit) return;
        if (layer_.has_signs) {
            const bool sign = model_.sign(Coder::kDecodes ? false : signs_[seen_]);
            if constexpr (Coder::kDecodes) signs_[seen_] = sign;
        }
        ++seen_;
    }

    Coder& coder_;
    const Layer& layer_;
    Byte* const mask_;
    Byte* const signs_;
    Model model_;
    std::array<Counter, 16> ties_;
    int64_t seen_ = 0;
};

template <class Coder, class Byte>
void walk(Coder& coder, const Layer& layer, Byte* mask, Byte* signs) {
    if (layer.mixed) return Walk<Coder, Mixed<Coder>>(coder, layer, mask, signs).run();
    Walk<Coder, Static<Coder>>(coder, layer, mask, signs).run();
}

// Both want a checked layer; the encoder a mask with as many ones as it keeps.
inline std::vector<uint8_t> encode_mask(const Layer& layer, const uint8_t* mask, const uint8_t* signs) {
    Encoder coder;
    walk(coder, layer, mask, signs);
    return coder.finish();
}

inline void decode_mask(const Layer& layer, std::span<const uint8_t> bytes, uint8_t* mask, uint8_t* signs) {
    Decoder coder(bytes);
    walk(coder, layer, mask, signs);
    coder.finish();
}

}  // namespace compressor
