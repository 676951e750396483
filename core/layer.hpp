// What both sides know of a layer before its stream: shape, kept weights, picture, fan-in of the units.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "arith.hpp"
#include "tables.hpp"

namespace compressor {

constexpr int64_t kMaxWeights = int64_t{1} << 38;  // with the other two, keeps every product below 2^63
constexpr int64_t kMaxColumns = int64_t{1} << 20;
constexpr int64_t kMaxFan = int64_t{1} << 24;

struct Layer {
    bool mixed;  // the mixed model, or the static one
    int64_t rows, columns, kept;
    int64_t picture;               // 0: the columns are a line; 1: kernels of high x wide; else the width of a picture
    int64_t high, wide;            // of a kernel
    std::span<const int64_t> fan;  // survivors in each row of the producer, one for 1 or more columns; or empty
    bool ordered;                  // rows descend: what equals the row above so far cannot exceed it
    bool has_signs;
};

inline void check_picture(const Layer& layer) {
    if (layer.columns > kMaxColumns) throw Rejected("has too many columns for the mixed model");
    if (layer.picture < 0 || layer.high < 1 || layer.wide < 1 || layer.high > kMaxColumns || layer.wide > kMaxColumns) {
        throw Rejected("has an impossible picture");
    }
    const int64_t unit = layer.picture == 1 ? layer.high * layer.wide : layer.picture;
    if (unit > 0 && layer.columns % unit != 0) throw Rejected("has a picture that does not divide its columns");
    if (layer.fan.empty()) return;
    const auto count = static_cast<int64_t>(layer.fan.size());
    if (layer.columns % count != 0) throw Rejected("has a producer whose rows do not divide its columns");
    int64_t total = 0;
    for (const int64_t fan : layer.fan) {
        if (fan < 0) throw Rejected("has a producer with a negative number of survivors");
        total |= fan;
    }
    if (total == 0) throw Rejected("has a producer without survivors");
}

inline void check(const Layer& layer) {
    if (layer.rows < 0 || layer.columns < 0 || layer.rows > kMaxWeights || layer.columns > kMaxWeights ||
        (layer.columns > 0 && layer.rows > kMaxWeights / layer.columns)) {
        throw Rejected("has an impossible shape");
    }
    if (layer.kept < 0 || layer.kept > layer.rows * layer.columns) throw Rejected("has more survivors than weights");
    if (layer.mixed) check_picture(layer);
}

// The share of kept weights, 16 bits, never at an end.
inline uint64_t density(const Layer& layer) {
    const int64_t places = std::max<int64_t>(1, layer.rows * layer.columns);
    return static_cast<uint64_t>(clip<int64_t>((layer.kept * kOne + places / 2) / places, 16, 65000));
}

// What the producer's rows say of the columns that read them.
struct Fan {
    std::vector<uint64_t> ratio;   // by column: factor on the density, 1/4096
    std::vector<uint32_t> bucket;  // by column: 0..47

    explicit Fan(const Layer& layer) {
        if (layer.fan.empty()) return;
        const uint64_t count = layer.fan.size();
        const size_t each = static_cast<size_t>(layer.columns) / count;
        uint64_t total = 0;
        for (const int64_t fan : layer.fan) total += static_cast<uint64_t>(std::min(fan, kMaxFan));
        for (const int64_t fan : layer.fan) {
            const uint64_t share = static_cast<uint64_t>(std::min(fan, kMaxFan)) * count;
            const uint64_t relative = ((share << 12) / total + 1) << 4;
            uint32_t steps = 0;
            for (const uint64_t step : kThirdSteps) steps += step <= relative;
            ratio.insert(ratio.end(), each, ((7 * share + total) << 12) / (8 * total));
            bucket.insert(bucket.end(), each, steps);
        }
    }
};

}  // namespace compressor
